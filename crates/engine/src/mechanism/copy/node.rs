//! One entry of the copy: made, given its owner, attributes, mode and times.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use super::tree::{Copy, CopyError, at, file, proc_name, stat};
use super::{data, xattr};

pub(super) type Times = Timestamps;

/// Copies the attributes of the image's root, whose owner and mode the plan has already dealt with.
pub(super) fn root_attributes(
    copy: &mut Copy<'_>,
    from: &OwnedFd,
    into: &OwnedFd,
) -> Result<Times, CopyError> {
    let (name, path) = (Path::new("."), Path::new("/"));
    xattr::copy(copy.idmap, &proc_name(from, name), &proc_name(into, name), path)?;
    Ok(times(&stat(from, name, path)?))
}

/// Makes a directory; its times are for the end, when it is full.
pub(super) fn make_dir(
    copy: &mut Copy<'_>,
    from: &OwnedFd,
    into: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<Times, CopyError> {
    let stat = stat(from, Path::new(name), path)?;
    rustix::fs::mkdirat(into, name, Mode::RWXU).map_err(at(path, "mkdirat"))?;
    attributes(copy, from, into, name, path, &stat)?;
    Ok(times(&stat))
}

/// Finishes a directory that is full: what new entries would inherit, and its times.
pub(super) fn finish_dir(
    copy: &mut Copy<'_>,
    from: &OwnedFd,
    into: &OwnedFd,
    path: &Path,
    times: &Times,
) -> Result<(), CopyError> {
    let name = Path::new(".");
    xattr::copy_default_acl(copy.idmap, &proc_name(from, name), &proc_name(into, name), path)?;
    rustix::fs::futimens(into, times).map_err(at(path, "utimensat"))
}

/// Copies anything but a directory. `root` is where names of links already copied start.
pub(super) fn copy(
    copy: &mut Copy<'_>,
    layer: usize,
    from: &OwnedFd,
    root: &OwnedFd,
    into: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<(), CopyError> {
    let stat = stat(from, Path::new(name), path)?;
    if stat.st_nlink > 1 {
        if let Some(first) = copy.links.get(&(layer, stat.st_ino)) {
            copy.stats.entries += 1;
            return rustix::fs::linkat(root, first, into, name, AtFlags::empty()).map_err(at(path, "linkat"));
        }
        copy.links.insert((layer, stat.st_ino), path.to_owned());
    }
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => regular(copy, from, into, name, path, &stat)?,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(at(path, "readlinkat"))?;
            rustix::fs::symlinkat(target, into, name).map_err(at(path, "symlinkat"))?;
        }
        _ => {
            rustix::fs::mknodat(into, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
                .map_err(at(path, "mknodat"))?;
        }
    }
    attributes(copy, from, into, name, path, &stat)?;
    rustix::fs::utimensat(into, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).map_err(at(path, "utimensat"))
}

fn regular(
    copy: &mut Copy<'_>,
    from: &OwnedFd,
    into: &OwnedFd,
    name: &OsStr,
    path: &Path,
    stat: &Stat,
) -> Result<(), CopyError> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOATIME | flags, Mode::empty())
        .map_err(at(path, "openat"))?;
    let target = rustix::fs::openat(
        into,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(at(path, "openat"))?;
    data::copy(copy, &file(source), &file(target), stat.st_size.unsigned_abs(), path)
}

/// Owner, extended attributes and mode, in this order: a change of owner clears capabilities and set-id bits.
fn attributes(
    copy: &mut Copy<'_>,
    from: &OwnedFd,
    into: &OwnedFd,
    name: &OsStr,
    path: &Path,
    stat: &Stat,
) -> Result<(), CopyError> {
    copy.stats.entries += 1;
    let (Some(uid), Some(gid)) = (copy.idmap.to_host_uid(stat.st_uid), copy.idmap.to_host_gid(stat.st_gid))
    else {
        return Err(CopyError::Unmapped { path: path.to_owned(), uid: stat.st_uid, gid: stat.st_gid });
    };
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(into, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(at(path, "fchownat"))?;
    xattr::copy(copy.idmap, &proc_name(from, Path::new(name)), &proc_name(into, Path::new(name)), path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::chmodat(into, name, mode, AtFlags::empty()).map_err(at(path, "fchmodat"))
}

fn times(stat: &Stat) -> Times {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
    }
}
