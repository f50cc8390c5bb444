//! The mount table by system calls: `listmount` for the ids, `statmount` for each.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::{MountEntry, statx_error};
use crate::error::{Result, SyscallError};
use crate::sys;

const SB_BASIC: u64 = 0x1;
const MNT_BASIC: u64 = 0x2;
const MNT_ROOT: u64 = 0x8;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
/// 6.11
const MNT_OPTS: u64 = 0x80;
/// 6.11, set only for filesystems that have one
const FS_SUBTYPE: u64 = 0x100;
/// 6.14, set only where there is a source
const SB_SOURCE: u64 = 0x200;
/// 6.15; tells a field this kernel cannot give from one that is empty
const SUPPORTED_MASK: u64 = 0x1000;

const WANTED: u64 = SB_BASIC
    | MNT_BASIC
    | MNT_ROOT
    | MNT_POINT
    | FS_TYPE
    | MNT_OPTS
    | FS_SUBTYPE
    | SB_SOURCE
    | SUPPORTED_MASK;

/// What the kernel must know for an entry to be as good as mountinfo's.
const NEEDED: u64 = SB_BASIC | MNT_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE | MNT_OPTS | SB_SOURCE;

/// Where the strings begin: after the fixed part of the structure.
const STRINGS: usize = 512;

/// Ids of all mounts, ascending; None without the system call.
pub(super) fn ids() -> Result<Option<Vec<u64>>> {
    let mut all = Vec::new();
    let mut page = [0u64; 1024];
    loop {
        let after = all.last().copied().unwrap_or(0);
        match sys::listmount(after, &mut page) {
            Ok(0) => return Ok(Some(all)),
            Ok(count) => all.extend_from_slice(&page[..count]),
            Err(Errno::NOSYS) => return Ok(None),
            Err(errno) => {
                let call = format!("listmount({{LSMT_ROOT, {after}}}, {}, 0)", page.len());
                return Err(SyscallError::new(call, errno));
            }
        }
    }
}

/// All mounts; None if the kernel cannot tell everything an entry holds.
pub(super) fn list() -> Result<Option<Vec<MountEntry>>> {
    let Some(ids) = ids()? else { return Ok(None) };
    let mut entries = Vec::with_capacity(ids.len());
    let mut buffer = vec![0u8; 4096];
    for id in ids {
        match fetch(id, WANTED, &mut buffer) {
            Ok(()) => {}
            // Unmounted between the two calls.
            Err(Errno::NOENT) => continue,
            Err(Errno::NOSYS) => return Ok(None),
            Err(errno) => return Err(refused(id, WANTED, errno)),
        }
        let raw = Raw(&buffer);
        if raw.u64_at(offset::SUPPORTED_MASK) & NEEDED != NEEDED {
            return Ok(None);
        }
        entries.push(raw.entry());
    }
    Ok(Some(entries))
}

/// Whether the mount of `fd` is attached here and not idmapped; None without `statmount`.
pub(super) fn is_plain(fd: BorrowedFd<'_>) -> Result<Option<bool>> {
    let id = match mount_id(fd, true) {
        Ok(id) => id,
        Err(error) if error.errno() == Errno::NODATA => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0u8; 1024];
    match fetch(id, MNT_BASIC, &mut buffer) {
        Ok(()) => Ok(Some(Raw(&buffer).u64_at(offset::MNT_ATTR) & ATTR_IDMAP == 0)),
        Err(Errno::NOENT) => Ok(Some(false)),
        Err(Errno::NOSYS) => Ok(None),
        Err(errno) => Err(refused(id, MNT_BASIC, errno)),
    }
}

/// The id of the mount `fd` lies on: mountinfo's number, or the unique one (ENODATA before 6.8).
pub(super) fn mount_id(fd: BorrowedFd<'_>, unique: bool) -> Result<u64> {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let (mask, name) = if unique {
        (StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE), "STATX_MNT_ID_UNIQUE")
    } else {
        (StatxFlags::MNT_ID, "STATX_MNT_ID")
    };
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)
        .map_err(|errno| statx_error(fd, name, errno))?;
    if stat.stx_mask & mask.bits() == 0 {
        return Err(statx_error(fd, name, Errno::NODATA));
    }
    Ok(stat.stx_mnt_id)
}

fn fetch(id: u64, mask: u64, buffer: &mut Vec<u8>) -> core::result::Result<(), Errno> {
    // An overlay of 500 layers shows megabytes of options.
    const LIMIT: usize = 16 << 20;
    loop {
        match sys::statmount(id, mask, buffer) {
            Err(Errno::OVERFLOW) if buffer.len() < LIMIT => {
                let larger = buffer.len() * 2;
                buffer.resize(larger, 0);
            }
            other => return other,
        }
    }
}

fn refused(id: u64, mask: u64, errno: Errno) -> SyscallError {
    SyscallError::new(format!("statmount({{{id:#x}, {mask:#x}}}, 0)"), errno)
}

/// Offsets of `struct statmount`, part of the kernel's ABI.
mod offset {
    pub(super) const MNT_OPTS: usize = 4;
    pub(super) const MASK: usize = 8;
    pub(super) const SB_DEV_MAJOR: usize = 16;
    pub(super) const SB_DEV_MINOR: usize = 20;
    pub(super) const FS_TYPE: usize = 36;
    pub(super) const MNT_ID: usize = 40;
    pub(super) const MNT_ID_OLD: usize = 56;
    pub(super) const MNT_PARENT_ID_OLD: usize = 60;
    pub(super) const MNT_ATTR: usize = 64;
    pub(super) const MNT_PROPAGATION: usize = 72;
    pub(super) const MNT_ROOT: usize = 104;
    pub(super) const MNT_POINT: usize = 108;
    pub(super) const FS_SUBTYPE: usize = 120;
    pub(super) const SB_SOURCE: usize = 124;
    pub(super) const SUPPORTED_MASK: usize = 144;
}

const ATTR_IDMAP: u64 = 0x0010_0000;

/// Mount attributes in the order mountinfo shows them.
const ATTRS: &[(u64, &str)] = &[
    (0x02, "nosuid"),
    (0x04, "nodev"),
    (0x08, "noexec"),
    (0x10, "noatime"),
    (0x80, "nodiratime"),
    (0x0020_0000, "nosymfollow"),
    (ATTR_IDMAP, "idmapped"),
];

/// A filled `struct statmount` with its strings.
struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    fn u32_at(&self, offset: usize) -> u32 {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn u64_at(&self, offset: usize) -> u64 {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// The NUL-terminated string a field points to, empty if the kernel did not set the field.
    fn string(&self, field: usize, bit: u64) -> &[u8] {
        if self.u64_at(offset::MASK) & bit == 0 {
            return b"";
        }
        let start = STRINGS + self.u32_at(field) as usize;
        let rest = self.0.get(start..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn path(&self, field: usize, bit: u64) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(self.string(field, bit)))
    }

    fn text(&self, field: usize, bit: u64) -> String {
        String::from_utf8_lossy(self.string(field, bit)).into_owned()
    }

    fn options(&self) -> String {
        let attrs = self.u64_at(offset::MNT_ATTR);
        let mut options = vec![if attrs & 0x01 == 0 { "rw" } else { "ro" }];
        options.extend(ATTRS.iter().filter(|(bit, _)| attrs & bit != 0).map(|(_, name)| *name));
        // Relative access times are the attribute without a bit: neither noatime nor strictatime.
        if attrs & 0x70 == 0 {
            options.push("relatime");
        }
        options.join(",")
    }

    fn entry(&self) -> MountEntry {
        let mut fs_type = self.text(offset::FS_TYPE, FS_TYPE);
        let subtype = self.text(offset::FS_SUBTYPE, FS_SUBTYPE);
        if !subtype.is_empty() {
            fs_type = format!("{fs_type}.{subtype}");
        }
        let source = match self.text(offset::SB_SOURCE, SB_SOURCE) {
            none if none.is_empty() => "none".to_owned(),
            source => source,
        };
        let propagation = self.u64_at(offset::MNT_PROPAGATION);
        MountEntry {
            id: u64::from(self.u32_at(offset::MNT_ID_OLD)),
            parent_id: u64::from(self.u32_at(offset::MNT_PARENT_ID_OLD)),
            unique_id: Some(self.u64_at(offset::MNT_ID)),
            device: (self.u32_at(offset::SB_DEV_MAJOR), self.u32_at(offset::SB_DEV_MINOR)),
            root: self.path(offset::MNT_ROOT, MNT_ROOT),
            mount_point: self.path(offset::MNT_POINT, MNT_POINT),
            fs_type,
            source,
            options: self.options(),
            fs_options: self.text(offset::MNT_OPTS, MNT_OPTS),
            propagates: propagation & (libc::MS_SHARED | libc::MS_SLAVE) != 0,
        }
    }
}
