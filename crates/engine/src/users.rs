//! Who a container runs as, and which file its command is: answered from the image's own files, before any mount.
//!
//! The caller reads `/etc/passwd` and `/etc/group` from the merged layers and hands over their bytes; nothing here
//! opens a file. The bytes are hostile: input past [`MAX_TABLE_BYTES`] is refused, a line that does not parse is
//! skipped (as the C library does), and no number outside `0..=`[`MAX_ID`] is ever returned.

mod command;
mod table;

pub use command::{CommandError, Lookup, MAX_DIRECTORIES, find_command, needs_check};

use table::{GroupEntry, PasswdEntry};

/// The largest `/etc/passwd` or `/etc/group` read, in bytes.
pub const MAX_TABLE_BYTES: usize = 4 << 20;

/// The largest user or group id accepted: the highest that fits a signed 32-bit number, as runtimes demand.
pub const MAX_ID: u32 = i32::MAX as u32;

/// The most supplementary groups a process can have on Linux (`NGROUPS_MAX`).
pub const MAX_GROUPS: usize = 65_536;

/// A user of the image, as the container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUser {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// Supplementary group ids inside the container, ascending, without `gid`; empty when a group was named.
    pub groups: Vec<u32>,
    /// Home directory: an absolute path, `/` when the image knows none.
    pub home: String,
    /// Login name, when the image's `/etc/passwd` has one.
    pub name: Option<String>,
}

/// Why a user could not be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A name the image's `/etc/passwd` does not have.
    #[error("user `{0}` is not in the image's /etc/passwd; name one that is, or give a number")]
    NoSuchUser(String),
    /// A group the image's `/etc/group` does not have.
    #[error(
        "group `{group}` of user `{user}` is not in the image's /etc/group; name one that is, or give a number"
    )]
    NoSuchGroup {
        /// What was asked for, whole.
        user: String,
        /// Its part after the colon.
        group: String,
    },
    /// A number no process can have.
    #[error("user `{0}`: ids go from 0 to {MAX_ID}")]
    OutOfRange(String),
    /// A colon with nothing after it, or more than one.
    #[error("user `{0}` is not of the form USER[:GROUP]")]
    Malformed(String),
    /// A table longer than anything sane.
    #[error("the image's {file} is {bytes} bytes long; {MAX_TABLE_BYTES} is the limit")]
    TableTooLong {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Resolves `user`, of the form `USER[:GROUP]` with names or numbers, against the image's tables.
///
/// An empty `user`, or an empty part before the colon, is user 0. A part that is both a name in a table and a number
/// is taken as the name. A user given by number needs no entry: then its group is 0 and its home `/`.
/// Supplementary groups are those listing the user's name, and none when a group is named.
pub fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<ContainerUser, UserError> {
    for (file, bytes) in [("/etc/passwd", passwd.len()), ("/etc/group", group.len())] {
        if bytes > MAX_TABLE_BYTES {
            return Err(UserError::TableTooLong { file, bytes });
        }
    }
    let (user_part, group_part) = match user.split_once(':') {
        None => (user, None),
        Some((_, "")) => return Err(UserError::Malformed(user.to_owned())),
        Some((_, group)) if group.contains(':') => return Err(UserError::Malformed(user.to_owned())),
        Some((name, group)) => (name, Some(group)),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };

    let entry = find_user(user_part, passwd);
    let uid = match (&entry, parse_id(user_part)) {
        (Some(entry), _) => entry.uid,
        (None, Some(Ok(uid))) => uid,
        (None, Some(Err(()))) => return Err(UserError::OutOfRange(user.to_owned())),
        (None, None) => return Err(UserError::NoSuchUser(user_part.to_owned())),
    };
    let (gid, groups) = match group_part {
        Some(name) => (find_group(user, name, group)?, Vec::new()),
        None => {
            let gid = entry.as_ref().map_or(0, |entry| entry.gid);
            (gid, entry.as_ref().map_or_else(Vec::new, |entry| groups_of(entry.name, gid, group)))
        }
    };
    let home = entry.as_ref().map(|entry| entry.home).filter(|home| home.starts_with('/')).unwrap_or("/");
    Ok(ContainerUser {
        uid,
        gid,
        groups,
        home: home.to_owned(),
        name: entry.as_ref().map(|entry| entry.name.to_owned()),
    })
}

/// The entry named `wanted`, else the first with that number.
fn find_user<'a>(wanted: &str, passwd: &'a [u8]) -> Option<PasswdEntry<'a>> {
    table::passwd(passwd).find(|entry| entry.name == wanted).or_else(|| {
        let uid = parse_id(wanted)?.ok()?;
        table::passwd(passwd).find(|entry| entry.uid == uid)
    })
}

fn find_group(user: &str, wanted: &str, group: &[u8]) -> Result<u32, UserError> {
    if let Some(entry) = table::group(group).find(|entry| entry.name == wanted) {
        return Ok(entry.gid);
    }
    match parse_id(wanted) {
        Some(Ok(gid)) => Ok(gid),
        Some(Err(())) => Err(UserError::OutOfRange(user.to_owned())),
        None => Err(UserError::NoSuchGroup { user: user.to_owned(), group: wanted.to_owned() }),
    }
}

fn groups_of(name: &str, gid: u32, group: &[u8]) -> Vec<u32> {
    let lists = |entry: &GroupEntry<'_>| entry.members.split(',').any(|member| member == name);
    let mut groups: Vec<u32> = table::group(group)
        .filter(lists)
        .map(|entry| entry.gid)
        .filter(|&id| id != gid)
        .take(MAX_GROUPS)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// `None`: not a number. `Some(Err)`: a number no id can be.
fn parse_id(text: &str) -> Option<Result<u32, ()>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse::<u32>().ok().filter(|&id| id <= MAX_ID).ok_or(()))
}

#[cfg(test)]
mod tests;
