//! Lines of `/etc/passwd` and `/etc/group`; whatever is not a whole line of the right shape is skipped.

use super::MAX_ID;

/// One user.
#[derive(Debug)]
pub(super) struct PasswdEntry<'a> {
    pub(super) name: &'a str,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a str,
}

/// One group; `members` is its comma-separated list.
#[derive(Debug)]
pub(super) struct GroupEntry<'a> {
    pub(super) name: &'a str,
    pub(super) gid: u32,
    pub(super) members: &'a str,
}

pub(super) fn passwd(bytes: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(bytes).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or("");
        Some(PasswdEntry { name, uid, gid, home })
    })
}

pub(super) fn group(bytes: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(bytes).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or("");
        Some(GroupEntry { name, gid, members })
    })
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim_ascii)
        .filter(|line| !line.starts_with('#') && !line.contains('\0'))
}

fn id(field: &str) -> Option<u32> {
    field.trim_ascii().parse().ok().filter(|&id| id <= MAX_ID)
}
