//! Extended attributes of the copy. Two kinds hold ids, which are shifted as owners are: file capabilities, which
//! also say whose root they are for, and POSIX access control lists. Those of overlay itself are left out.

use std::ffi::CStr;
use std::path::Path;

use plywood_kernel::idmap::IdMap;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::tree::{CopyError, at};

/// The kernel's limits on all names together and on one value.
const MAX: usize = 65_536;

const CAPABILITY: &[u8] = b"security.capability";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", DEFAULT_ACL.to_bytes()];

/// Copies all attributes from one name to the other; `path` is for errors. Not the default access control list,
/// which whatever is still to be copied below would inherit.
pub(super) fn copy(idmap: &IdMap, from: &Path, to: &Path, path: &Path) -> Result<(), CopyError> {
    let names = match read(|buffer| rustix::fs::llistxattr(from, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(at(path, "llistxattr")(errno)),
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !name.to_bytes().starts_with(b"trusted.overlay.") && name != DEFAULT_ACL {
            copy_one(idmap, from, to, name, path)?;
        }
    }
    Ok(())
}

/// Copies the default access control list of a directory, if it has one.
pub(super) fn copy_default_acl(idmap: &IdMap, from: &Path, to: &Path, path: &Path) -> Result<(), CopyError> {
    copy_one(idmap, from, to, DEFAULT_ACL, path)
}

fn copy_one(idmap: &IdMap, from: &Path, to: &Path, name: &CStr, path: &Path) -> Result<(), CopyError> {
    let value = match read(|buffer| rustix::fs::lgetxattr(from, name, buffer)) {
        Ok(value) => value,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(at(path, "lgetxattr")(errno)),
    };
    let value = shifted(idmap, name.to_bytes(), value).ok_or_else(|| CopyError::Attribute {
        path: path.to_owned(),
        name: name.to_string_lossy().into_owned(),
    })?;
    rustix::fs::lsetxattr(to, name, &value, XattrFlags::empty()).map_err(at(path, "lsetxattr"))
}

/// Most attributes are short; the few that are not are asked for once more with all the room there can be.
fn read(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(MAX, 0);
            call(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// The value for the container; `None` if it is malformed or holds an id that is not mapped.
fn shifted(idmap: &IdMap, name: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
    if name == CAPABILITY {
        return capability(idmap, &value);
    }
    if ACLS.contains(&name) {
        return access_list(idmap, value);
    }
    Some(value)
}

/// Revision 3 of a capability names the root user it holds for; 1 and 2 hold for the machine's and are rewritten.
fn capability(idmap: &IdMap, value: &[u8]) -> Option<Vec<u8>> {
    const REVISION: u32 = 0xff00_0000;
    let word = |index: usize| value.get(4 * index..4 * index + 4)?.try_into().ok().map(u32::from_le_bytes);
    let magic = word(0)?;
    let (words, root) = match (magic & REVISION, value.len()) {
        (0x0100_0000, 12) => ([word(1)?, word(2)?, 0, 0], 0),
        (0x0200_0000, 20) => ([word(1)?, word(2)?, word(3)?, word(4)?], 0),
        (0x0300_0000, 24) => ([word(1)?, word(2)?, word(3)?, word(4)?], word(5)?),
        _ => return None,
    };
    let head = 0x0300_0000 | (magic & !REVISION);
    let all = [head].into_iter().chain(words).chain([idmap.to_host_uid(root)?]);
    Some(all.flat_map(u32::to_le_bytes).collect())
}

/// Version 2: entries of tag, permissions and id. Only named users and groups have an id.
fn access_list(idmap: &IdMap, mut value: Vec<u8>) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk_mut::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    for entry in entries.chunks_exact_mut(8) {
        let id = u32::from_le_bytes(entry[4..].try_into().ok()?);
        let host = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => idmap.to_host_uid(id)?,
            GROUP => idmap.to_host_gid(id)?,
            _ => continue,
        };
        entry[4..].copy_from_slice(&host.to_le_bytes());
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use plywood_kernel::idmap::IdRange;

    use super::*;

    fn idmap() -> IdMap {
        let range = |start| IdRange { start, length: 65_536 };
        IdMap::from_ranges(range(100_000), range(200_000))
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().copied().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn capabilities_become_those_of_the_containers_root() {
        for (given, root) in
            [(words(&[0x0200_0001, 1, 2, 3, 4]), 100_000), (words(&[0x0300_0001, 1, 2, 3, 4, 7]), 100_007)]
        {
            let want = words(&[0x0300_0001, 1, 2, 3, 4, root]);
            assert_eq!(shifted(&idmap(), CAPABILITY, given), Some(want));
        }
        let old = words(&[0x0100_0000, 1, 2]);
        assert_eq!(shifted(&idmap(), CAPABILITY, old), Some(words(&[0x0300_0000, 1, 2, 0, 0, 100_000])));
        assert_eq!(shifted(&idmap(), CAPABILITY, words(&[0x0200_0000, 1])), None);
        assert_eq!(shifted(&idmap(), CAPABILITY, words(&[0x0300_0001, 1, 2, 3, 4, 70_000])), None);
    }

    #[test]
    fn named_users_and_groups_of_access_lists_are_shifted() {
        let entry = |tag: u32, id: u32| [tag | 7 << 16, id];
        let list = |user: u32, group: u32| {
            let none = u32::MAX;
            words(
                &[
                    &[2][..],
                    &entry(1, none),
                    &entry(2, user),
                    &entry(4, none),
                    &entry(8, group),
                    &entry(16, none),
                ]
                .concat(),
            )
        };
        assert_eq!(shifted(&idmap(), ACLS[0], list(5, 6)), Some(list(100_005, 200_006)));
        assert_eq!(shifted(&idmap(), ACLS[1], list(5, 70_000)), None);
        assert_eq!(shifted(&idmap(), ACLS[1], words(&[3])), None);
    }

    #[test]
    fn other_attributes_stay_as_they_are() {
        assert_eq!(shifted(&idmap(), b"user.note", b"x".to_vec()), Some(b"x".to_vec()));
    }
}
