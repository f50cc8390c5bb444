//! What a killed launch leaves: directories in `scratch/`, and mounts attached below them in the caller's namespace.
//!
//! ```text
//! scratch/<container>/      mount points of a launch, as long as it assembles the root file system
//! scratch/.trial-<pid>-<n>/ a trial of what the kernel can do here, likewise .plywood-probe-<pid>-<n>;
//!                           either may also be in the root itself
//! ```
//! Nothing is unmounted but what lies at or below an entry whose owner is dead. The rest goes by way of the trash, as
//! everything else does.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use plywood_kernel::table::{self, MountEntry};
use plywood_kernel::{Kind, UnmountFlags};
use rusqlite::OptionalExtension as _;
use rustix::io::Errno;

use crate::db::parsed;
use crate::error::{OnFile as _, StateError};
use crate::recover::Liveness;
use crate::{Store, dirs, trash};

const TRIALS: [&str; 2] = [".trial-", ".plywood-probe-"];

/// Where entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    Root,
    Scratch,
}

/// An entry without a living owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    parent: Parent,
    name: String,
}

/// What no living process needs.
pub(crate) fn left_by_the_dead(store: &Store, liveness: &mut Liveness) -> Result<Vec<Left>, StateError> {
    let mut left = Vec::new();
    for name in utf8_names(store.root().dir(), "the state root")? {
        if trial_of(&name).is_some_and(|pid| !exists(pid)) {
            left.push(Left { parent: Parent::Root, name });
        }
    }
    // Listed before the containers are asked: an entry is younger than the row of its container.
    let names = utf8_names(store.root().scratch(), "scratch")?;
    if names.is_empty() {
        return Ok(left);
    }
    store.db().read(|connection| {
        let mut supervisor = connection.prepare_cached("SELECT supervisor FROM containers WHERE id = ?1")?;
        for name in names {
            let alive = match trial_of(&name) {
                Some(pid) => exists(pid),
                None => match supervisor.query_row([&name], |row| parsed(row, "supervisor")).optional()? {
                    Some(process) => liveness.is_alive(&process)?,
                    None => false,
                },
            };
            if !alive {
                left.push(Left { parent: Parent::Scratch, name });
            }
        }
        Ok(left)
    })
}

/// Unmounts and removes them, one result for each. Others may be doing the same.
pub(crate) fn remove(store: &Store, left: &[Left]) -> Result<Vec<Result<(), StateError>>, StateError> {
    if left.is_empty() {
        return Ok(Vec::new());
    }
    // As the mount table has it: without symbolic links on the way.
    let link = format!("/proc/self/fd/{}", store.root().dir().as_raw_fd());
    let root = std::fs::read_link(&link).on_file("readlink", &link)?;
    let mounts = table::list()?;
    Ok(left
        .iter()
        .map(|Left { parent, name }| {
            let (dir, path) = match parent {
                Parent::Root => (store.root().dir(), root.join(name)),
                Parent::Scratch => (store.root().scratch(), root.join("scratch").join(name)),
            };
            for point in deepest_first(&mounts, &path) {
                unmount(point)?;
            }
            trash::discard(store, dir, name)
        })
        .collect())
}

/// Mount points at and below `path`, each as often as something is mounted on it.
fn deepest_first<'a>(mounts: &'a [MountEntry], path: &Path) -> Vec<&'a PathBuf> {
    let mut points: Vec<_> =
        mounts.iter().map(|entry| &entry.mount_point).filter(|point| point.starts_with(path)).collect();
    points.sort_unstable_by(|a, b| b.cmp(a));
    points
}

fn unmount(point: &Path) -> Result<(), StateError> {
    match plywood_kernel::unmount(point, UnmountFlags::DETACH) {
        // Somebody else was quicker.
        Err(error) if error.kind() == Kind::Missing || error.errno() == Errno::INVAL => Ok(()),
        other => Ok(other?),
    }
}

/// The process a trial is named after.
fn trial_of(name: &str) -> Option<u32> {
    let rest = TRIALS.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    rest.split_once('-')?.0.parse().ok()
}

/// Whether a trial has this name.
pub(crate) fn is_trial(name: &str) -> bool {
    trial_of(name).is_some()
}

fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Names of ours are always text.
fn utf8_names(dir: BorrowedFd<'_>, shown: &str) -> Result<Vec<String>, StateError> {
    Ok(dirs::names(dir, shown)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}
