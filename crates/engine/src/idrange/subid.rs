//! `/etc/subuid`, `/etc/subgid`, `/etc/passwd` and `/etc/group`, from text.
//!
//! A line of the first two that cannot be understood is an error, never skipped: it may be what keeps somebody
//! else's ids out of our hands. Lines of the last two that glibc would skip define no account and are skipped here.

use plywood_kernel::idmap::IdRange;

/// One line of `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubIdEntry {
    /// A user's name, or a user id in decimal.
    pub owner: String,
    /// The host ids given to that user.
    pub range: IdRange,
}

/// A line of `/etc/subuid` or `/etc/subgid` makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: `{text}`: {problem}; the form is name:first:count")]
pub struct SubIdError {
    /// The file.
    pub file: &'static str,
    /// Its line, counted from 1.
    pub line: usize,
    /// The line itself.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Parses `/etc/subuid` or `/etc/subgid`; `file` is only for the error.
pub fn parse_subids(file: &'static str, text: &str) -> Result<Vec<SubIdEntry>, SubIdError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse_line(line).map_err(|problem| SubIdError {
            file,
            line: index + 1,
            text: line.chars().take(80).collect(),
            problem,
        })?;
        entries.extend(Some(entry).filter(|entry| entry.range.length > 0));
    }
    Ok(entries)
}

fn parse_line(line: &str) -> Result<SubIdEntry, &'static str> {
    let mut fields = line.split(':');
    let (owner, start, count) = match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(owner), Some(start), Some(count), None) => (owner.trim(), start.trim(), count.trim()),
        _ => return Err("not three fields"),
    };
    if owner.is_empty() {
        return Err("the name is empty");
    }
    let start: u32 = start.parse().map_err(|_| "the first id is not a number below 4294967296")?;
    let length: u32 = count.parse().map_err(|_| "the count is not a number below 4294967296")?;
    // The last 32-bit number means "no id" to the kernel.
    if u64::from(start) + u64::from(length) > u64::from(u32::MAX) {
        return Err("the range ends beyond the last id, 4294967294");
    }
    Ok(SubIdEntry { owner: owner.to_owned(), range: IdRange { start, length } })
}

/// Names and ids from `/etc/passwd` or `/etc/group`, whose third field is the id in both.
pub fn parse_accounts(text: &str) -> Vec<(String, u32)> {
    text.lines()
        .filter(|line| !line.starts_with(['#', '+', '-']))
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.trim().parse().ok()?;
            Some((name.to_owned(), id))
        })
        .collect()
}
