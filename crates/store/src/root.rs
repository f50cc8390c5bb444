//! The state root: one directory on one file system that only its owner may enter.
//!
//! Layers hold set-user-id files and devices with their unshifted ids, so a root that others could enter would
//! hand them out. [`Root::open`] therefore refuses any root that is not a plain directory of the caller with
//! mode 0700, and any that somebody but root and the caller could rename to have another in its place; it never loosens or repairs one it did not make.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{FileError, OnFile};

/// The directories below the root, made on demand.
const DIRECTORIES: [&str; 7] = ["blobs", "blobs/ingest", "layers", "flat", "snapshots", "scratch", "trash"];

/// An opened state root.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    layers: OwnedFd,
    flat: OwnedFd,
    snapshots: OwnedFd,
    blobs: OwnedFd,
    scratch: OwnedFd,
    trash: OwnedFd,
}

/// Why a directory cannot be the state root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A symbolic link could be pointed elsewhere later.
    #[error("state root {0:?} is a symbolic link; name the directory itself")]
    Symlink(PathBuf),
    /// Something else is there.
    #[error("state root {0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// Something else lives there, which must not be locked away from others or mixed with ours.
    #[error(
        "{path:?} holds other things ({entry:?}) and is no state root; choose another directory with --root, an empty or a new one"
    )]
    InUse {
        /// The root.
        path: PathBuf,
        /// One of these things.
        entry: String,
    },
    /// What is renamed between its directories, linked and made durable together has to be in one place.
    #[error(
        "{directory:?} of the state root {path:?} is a file system or mount of its own; have the whole root on one: unmount \
         it, or choose another root with --root"
    )]
    Elsewhere {
        /// The root.
        path: PathBuf,
        /// The directory below it.
        directory: &'static str,
    },
    /// Somebody else could change it.
    #[error(
        "state root {path:?} belongs to user {owner}, not to user {expected}; choose another with --root"
    )]
    Owner {
        /// The root.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The effective user of this process.
        expected: u32,
    },
    /// Somebody else could put another in its place.
    #[error(
        "the directory {dir:?} above the state root {path:?} is {how}, who could put another root there; \
         choose a root elsewhere with --root, or after checking: {remedy}"
    )]
    Parent {
        /// The root.
        path: PathBuf,
        /// The directory above it.
        dir: PathBuf,
        /// Whose it is.
        how: String,
        /// The command that changes that.
        remedy: String,
    },
    /// Others may enter it.
    #[error("state root {path:?} has mode {mode:04o}, others may enter it; after checking what it holds: chmod 0700 {}", .path.display())]
    Mode {
        /// The root.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A call failed.
    #[error("cannot open the state root")]
    File(#[from] FileError),
}

impl Root {
    /// Opens the root at `path`, making it (and missing parents, mode 0755) if it does not exist.
    ///
    /// # Errors
    /// [`RootError`]: not a plain directory, not ours, open to others, or in a place where others can rename it.
    pub fn open(path: &Path) -> Result<Root, RootError> {
        let path = std::path::absolute(path).on_file("getcwd", path)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).on_file("mkdir", parent)?;
        }
        match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FileError::new("mkdir", &path, errno).into()),
        }
        let dir = match rustix::fs::openat(CWD, &path, DIR_FLAGS, Mode::empty()) {
            Ok(dir) => dir,
            // O_DIRECTORY with O_NOFOLLOW answers ENOTDIR for a symlink too.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat =
                    rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).on_file("lstat", &path)?;
                return Err(match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => RootError::Symlink(path),
                    _ => RootError::NotADirectory(path),
                });
            }
            Err(errno) => return Err(FileError::new("open", &path, errno).into()),
        };
        if let Some(entry) = foreign_entry(&dir, &path)? {
            return Err(RootError::InUse { path, entry });
        }
        let stat = rustix::fs::fstat(&dir).on_file("fstat", &path)?;
        let expected = rustix::process::geteuid().as_raw();
        if stat.st_uid != expected {
            return Err(RootError::Owner { path, owner: stat.st_uid, expected });
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(RootError::Mode { path, mode: stat.st_mode & 0o7777 });
        }
        no_other_can_replace(&path, expected)?;
        for name in DIRECTORIES {
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(FileError::new("mkdirat", name, errno).into()),
            }
        }
        let open = |name: &'static str| open_here(&dir, &stat, name, &path);
        let blobs = open("blobs")?;
        // Reached through its parent.
        open("blobs/ingest")?;
        Ok(Root {
            layers: open("layers")?,
            flat: open("flat")?,
            snapshots: open("snapshots")?,
            blobs,
            scratch: open("scratch")?,
            trash: open("trash")?,
            path,
            dir,
        })
    }

    /// The absolute path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root itself.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// `layers`.
    pub fn layers(&self) -> BorrowedFd<'_> {
        self.layers.as_fd()
    }

    /// `flat`.
    pub fn flat(&self) -> BorrowedFd<'_> {
        self.flat.as_fd()
    }

    /// `snapshots`.
    pub fn snapshots(&self) -> BorrowedFd<'_> {
        self.snapshots.as_fd()
    }

    /// `blobs`.
    pub fn blobs(&self) -> BorrowedFd<'_> {
        self.blobs.as_fd()
    }

    /// `scratch`: mount points and trials that end with the command that made them. Entries are named by their
    /// container, or as trials by their process; any other is removed by the next recovery.
    pub fn scratch(&self) -> BorrowedFd<'_> {
        self.scratch.as_fd()
    }

    /// `trash`: what is about to be removed.
    pub fn trash(&self) -> BorrowedFd<'_> {
        self.trash.as_fd()
    }
}

/// Opens one of our directories, if it is where the root is: in its file system, by its mount (a rename between two mounts
/// is refused even if one file system is mounted twice), and no subvolume, which has a device number of its own.
fn open_here(dir: &OwnedFd, root: &Stat, name: &'static str, path: &Path) -> Result<OwnedFd, RootError> {
    let elsewhere = || RootError::Elsewhere { path: path.to_owned(), directory: name };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let opened = match rustix::fs::openat2(dir, name, DIR_FLAGS, Mode::empty(), resolve) {
        Err(Errno::XDEV) => return Err(elsewhere()),
        other => other.on_file("openat2", name)?,
    };
    let stat = rustix::fs::fstat(&opened).on_file("fstat", name)?;
    if stat.st_dev == root.st_dev { Ok(opened) } else { Err(elsewhere()) }
}

/// Something in a directory without our database that we have not put there.
fn foreign_entry(dir: &OwnedFd, path: &Path) -> Result<Option<String>, FileError> {
    match rustix::fs::statat(dir, "plywood.db", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(None),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(FileError::new("lstat", "plywood.db", errno)),
    }
    let names = crate::dirs::names(dir.as_fd(), path)?;
    let mut names = names.iter().map(|name| name.to_string_lossy().into_owned());
    Ok(names.find(|name| !is_ours(name)))
}

/// Whether we may have made an entry of the root before its database was there, or mkfs has: what was interrupted, trials
/// of what the kernel can do there, the runtime's directory.
fn is_ours(name: &str) -> bool {
    DIRECTORIES.contains(&name)
        || ["ballast", "run", "lost+found"].contains(&name)
        // The database itself if another process has just made it.
        || ["plywood.db", "plywood.db-wal", "plywood.db-shm", "plywood.db-journal"].contains(&name)
        || crate::scratch::is_trial(name)
}

/// Checks each directory above the root, those named and those that links among them lead to.
fn no_other_can_replace(path: &Path, user: u32) -> Result<(), RootError> {
    let real = std::fs::canonicalize(path).on_file("realpath", path)?;
    for dir in path.ancestors().skip(1).chain(real.ancestors().skip(1)) {
        let stat = rustix::fs::statat(CWD, dir, AtFlags::SYMLINK_NOFOLLOW).on_file("lstat", dir)?;
        let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let shown = dir.display();
        let (how, remedy) = if owner != 0 && owner != user {
            (format!("of user {owner}"), format!("chown -h {user} {shown}"))
        } else if mode & 0o022 != 0 && mode & 0o1000 == 0 && !is_link {
            (format!("of mode {mode:04o}, writable by others"), format!("chmod go-w {shown}"))
        } else {
            continue;
        };
        return Err(RootError::Parent { path: path.to_owned(), dir: dir.to_owned(), how, remedy });
    }
    Ok(())
}

/// How every directory of ours is opened.
pub(crate) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
