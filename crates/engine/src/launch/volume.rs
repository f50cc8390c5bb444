//! Volumes as detached clones, and the places they are attached at.
//!
//! The template's tmpfs holds empty directories and files to attach to: `d0`, `f0`, `d1`, ... They are the same inodes
//! in every copy of the template, while what is attached on them differs.

use std::io;
use std::path::{Path, PathBuf};

use plywood_kernel::{MountFd, SyscallError, UserNs};
use rustix::fs::{Mode, OFlags};

use super::RunDirectories;
use crate::bundle::{Volume, VolumeMount};

/// The most volumes a container can have.
pub const MAX_VOLUMES: usize = 32;

/// A volume of one container, attached nowhere.
#[derive(Debug)]
pub struct VolumeClone {
    pub(super) mount: MountFd,
    pub(super) place: PathBuf,
}

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeCloneError {
    /// Its source is not there.
    #[error("volume source {path}")]
    Source {
        /// The source.
        path: PathBuf,
        /// Why it cannot be used.
        #[source]
        source: io::Error,
    },
    /// More than fit.
    #[error("{0} volumes; {MAX_VOLUMES} is the most a container can have")]
    TooMany(usize),
    /// The kernel refused to clone it.
    #[error("cloning volume source {path}")]
    Clone {
        /// The source.
        path: PathBuf,
        /// The refused call.
        #[source]
        source: SyscallError,
    },
    /// The filesystem's owners cannot be mapped.
    #[error(
        "the owners of volume source {path} cannot be mapped to the container's ids; add the option noidmap to use it as it is"
    )]
    Idmap {
        /// The source.
        path: PathBuf,
        /// The refused call.
        #[source]
        source: SyscallError,
    },
}

/// Clones the source of `volume`, a container's `index`-th, with its owners mapped by `user_namespace`.
pub fn clone_volume(
    volume: &Volume,
    index: usize,
    user_namespace: &UserNs,
    directories: &RunDirectories,
) -> Result<(VolumeClone, VolumeMount), VolumeCloneError> {
    if index >= MAX_VOLUMES {
        return Err(VolumeCloneError::TooMany(index + 1));
    }
    let path = || volume.source.clone();
    let source_error = |source| VolumeCloneError::Source { path: path(), source };
    // Symbolic links on the way are the host's own and followed.
    let source = rustix::fs::open(&volume.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| source_error(errno.into()))?;
    let kind = rustix::fs::fstat(&source).map_err(|errno| source_error(errno.into()))?;
    let is_directory = rustix::fs::FileType::from_raw_mode(kind.st_mode).is_dir();

    let mount = MountFd::clone_tree(&source, "", false)
        .map_err(|source| VolumeCloneError::Clone { path: path(), source })?;
    if volume.idmap {
        mount.set_idmap(user_namespace).map_err(|source| VolumeCloneError::Idmap { path: path(), source })?;
    }
    let volumes = directories.volumes();
    let place = if is_directory { directory_place(&volumes, index) } else { file_place(&volumes, index) };
    Ok((VolumeClone { mount, place: place.clone() }, volume.mount(place)))
}

pub(super) fn directory_place(volumes: &Path, index: usize) -> PathBuf {
    volumes.join(format!("d{index}"))
}

pub(super) fn file_place(volumes: &Path, index: usize) -> PathBuf {
    volumes.join(format!("f{index}"))
}
