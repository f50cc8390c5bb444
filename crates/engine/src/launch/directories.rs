//! Our directories below `/run`.
//!
//! ```text
//! <anchor>/             0711, the default is /run/plywood
//!   rootfs/             0755, empty: every root file system is attached here, each in its own mount namespace
//!   volumes/            0755, empty: a tmpfs of the template namespace is attached here
//! <run>/                the same directory, or the one of another state root
//!   bundles/<id>/       0700, see crate::bundle
//!   pids/<id>           0600, written by the runtime
//!   <runtime>/          the runtime's own state
//! ```
//!
//! A container's root walks from `/` to its root file system with its own, unprivileged ids: that is why the anchor
//! can be passed by everybody and is the same for all state roots. With the default state root the anchor is `<run>`
//! too; what must stay private is private by the modes of the children.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::LauncherError;

/// The two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectories {
    /// Where everything is attached.
    pub anchor: PathBuf,
    /// Bundles and state.
    pub run: PathBuf,
}

impl RunDirectories {
    /// The anchor every installation uses.
    pub const ANCHOR: &str = "/run/plywood";

    /// The usual anchor, with bundles and state in `run`.
    pub fn with_run(run: &Path) -> RunDirectories {
        RunDirectories { anchor: PathBuf::from(Self::ANCHOR), run: run.to_owned() }
    }

    /// Where a container's root file system is attached.
    pub fn rootfs(&self) -> PathBuf {
        self.anchor.join("rootfs")
    }

    /// Where volumes are attached.
    pub fn volumes(&self) -> PathBuf {
        self.anchor.join("volumes")
    }

    /// The machine's register of host ids in use ([`crate::idrange::MachineIds`]).
    pub fn ids(&self) -> PathBuf {
        self.anchor.join("ids.lock")
    }

    /// The bundle directory of container `id`.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles().join(id)
    }

    /// All bundle directories.
    pub fn bundles(&self) -> PathBuf {
        self.run.join("bundles")
    }

    /// Where the runtime writes process ids.
    pub fn pids(&self) -> PathBuf {
        self.run.join("pids")
    }

    /// Makes what is missing, and opens an anchor of ours that strangers could not pass.
    pub fn create(&self) -> Result<(), LauncherError> {
        can_be_reached(&self.anchor)?;
        // First: with the default state root it is also `run`, whose own mode would lock every container out.
        passage(&self.anchor, 0o711)?;
        passage(&self.rootfs(), 0o755)?;
        passage(&self.volumes(), 0o755)?;
        if self.run != self.anchor {
            directory(&self.run, 0o700)?;
        }
        directory(&self.bundles(), 0o700)?;
        directory(&self.pids(), 0o700)
    }
}

/// Containers walk to the anchor with ids that own nothing.
fn can_be_reached(anchor: &Path) -> Result<(), LauncherError> {
    for path in anchor.ancestors().skip(1) {
        let Ok(found) = path.metadata() else { continue };
        if found.mode() & 0o001 == 0 {
            let (path, mode) = (path.to_owned(), found.mode() & 0o7777);
            return Err(LauncherError::Closed { path, mode });
        }
    }
    Ok(())
}

/// A directory on the way to every root file system: a real one, root's, which everybody can pass and root alone
/// can write.
fn passage(path: &Path, mode: u32) -> Result<(), LauncherError> {
    if path.symlink_metadata().is_ok_and(|found| !found.is_dir() && !found.is_symlink()) {
        return Err(LauncherError::NotOurs { path: path.to_owned(), what: "is no directory".to_owned() });
    }
    directory(path, mode)?;
    let failed = |source| LauncherError::Directory { doing: "making", path: path.to_owned(), source };
    let not_ours = |what: String| LauncherError::NotOurs { path: path.to_owned(), what };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(not_ours("is a symbolic link".to_owned())),
        Err(errno) => return Err(failed(errno.into())),
    };
    let found = directory.metadata().map_err(failed)?;
    if found.uid() != 0 {
        return Err(not_ours(format!("belongs to user {}, not to root", found.uid())));
    }
    if found.mode() & 0o001 == 0 || found.mode() & 0o022 != 0 {
        directory.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

fn directory(path: &Path, mode: u32) -> Result<(), LauncherError> {
    let make = || match fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| fs::create_dir(path))
    {
        // Whatever the umask says: containers have to pass through some of these.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    };
    make().map_err(|source| LauncherError::Directory { doing: "making", path: path.to_owned(), source })
}

/// Removes the bundle and the process id file of container `id`; none is fine.
///
/// Only for containers that have ended or failed.
pub fn remove_bundle(directories: &RunDirectories, id: &str) -> Result<(), LauncherError> {
    let pid_file = directories.pids().join(id);
    match fs::remove_file(&pid_file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(LauncherError::Directory { doing: "removing", path: pid_file, source });
        }
        _ => {}
    }
    let path = directories.bundle(id);
    let failed = |source| LauncherError::Directory { doing: "removing", path: path.clone(), source };
    let parent = match File::open(directories.bundles()) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    match plywood_kernel::remove_tree(&parent, id) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == plywood_kernel::Kind::Missing => Ok(()),
        Err(error) => Err(failed(io::Error::from(error.errno()))),
    }
}
