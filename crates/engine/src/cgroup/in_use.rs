//! Who launches at the moment: a lock that all of the machine share, on the very group that they keep each other from
//! removing.
//!
//! Any user can open a control group of mode 0755, and lock it for ever. So this one has mode 0711: containers and those
//! who know an id pass through it, and root alone opens it. The kernel gives the lock back when its holder ends, however
//! that happens. It is never waited for inside the kernel, where a request to stop could not be heeded.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::CgroupError;

/// Root opens it, everybody passes.
const MODE: u32 = 0o711;
/// It is held alone for as long as a few `rmdir` take; whoever keeps it longer than this is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried.
const KNOCK: Duration = Duration::from_millis(2);

/// A shared lock on our parent group; see [`Cgroups::in_use`](super::Cgroups::in_use).
#[derive(Debug)]
pub struct InUse {
    group: File,
    path: PathBuf,
}

impl InUse {
    pub(super) fn share(path: &Path, give_up: &dyn Fn() -> bool) -> Result<InUse, CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failed = |source| failed("opening", path, source);
            let lock = match open(path) {
                Ok(group) => InUse { group, path: path.to_owned() },
                // Removed since it was made or found.
                Err(error) if error.kind() == io::ErrorKind::NotFound && parent_exists(path) => continue,
                Err(error) => return Err(failed(error)),
            };
            if lock.try_lock(FlockOperation::NonBlockingLockShared)? {
                if lock.is_in_place()? {
                    return Ok(lock);
                }
            } else if give_up() {
                return Err(CgroupError::Cancelled);
            } else if Instant::now() >= deadline {
                return Err(CgroupError::Locked { group: path.to_owned(), after: PATIENCE });
            } else {
                thread::sleep(KNOCK);
            }
        }
    }

    /// Makes it this holder's alone; false while others share it. Then, and if somebody has removed the group, this
    /// holder has lost it.
    pub(super) fn claim(&self) -> Result<bool, CgroupError> {
        Ok(self.try_lock(FlockOperation::NonBlockingLockExclusive)? && self.is_in_place()?)
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<bool, CgroupError> {
        match rustix::fs::flock(&self.group, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(failed("locking", &self.path, errno.into())),
        }
    }

    /// Whether it still is the group of that name: a lock on a removed one is seen by nobody.
    fn is_in_place(&self) -> Result<bool, CgroupError> {
        let failed = |source| failed("looking at", &self.path, source);
        let held = self.group.metadata().map_err(failed)?;
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Made if it is missing.
fn open(path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let group = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    // Made by a runtime, or under a umask that locks containers out.
    if group.metadata()?.mode() & 0o777 != MODE {
        group.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(group)
}

fn parent_exists(path: &Path) -> bool {
    path.parent().is_some_and(Path::exists)
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: fn() -> bool = || false;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn only_root_can_open_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("plywood");
        drop(InUse::share(&group, &NOBODY).unwrap());
        assert_eq!(mode(&group), 0o711);
        // As runtimes make it.
        fs::set_permissions(&group, Permissions::from_mode(0o755)).unwrap();
        drop(InUse::share(&group, &NOBODY).unwrap());
        assert_eq!(mode(&group), 0o711);
        let nowhere = dir.path().join("no/plywood");
        let error = InUse::share(&nowhere, &NOBODY).unwrap_err();
        assert!(matches!(&error, CgroupError::Io { path, .. } if *path == nowhere), "{error}");
    }

    #[test]
    fn it_is_shared_until_somebody_has_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("plywood");
        let share = || InUse::share(&group, &NOBODY).unwrap();
        let (one, two) = (share(), share());
        assert!(!one.claim().unwrap());
        drop(one);
        assert!(two.claim().unwrap());
        let asked = std::cell::Cell::new(0);
        let third_time = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let error = InUse::share(&group, &third_time).unwrap_err();
        assert!(matches!(error, CgroupError::Cancelled), "{error}");
    }

    /// Who had waited for a removal would otherwise launch in, or remove, a group that is not the one it has locked.
    #[test]
    fn a_group_that_was_removed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("plywood");
        let old = InUse::share(&group, &NOBODY).unwrap();
        assert!(old.claim().unwrap());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| InUse::share(&group, &NOBODY).unwrap());
            thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            fs::remove_dir(&group).unwrap();
            let new = waiting.join().unwrap();
            assert!(!old.claim().unwrap(), "another group has its name");
            assert!(new.claim().unwrap());
        });
    }
}
