//! Mounting a snapshot as the client of that containerd does, in containerd's mount namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use plywood_containerd::{Mounting, Rootfs, Snapshot, Version};
use plywood_engine::apply::{Context, apply};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::UserNsPool;
use plywood_engine::lower::{LowerRef, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Durability, Request, plan};
use plywood_kernel::idmap::IdMap;
use plywood_kernel::mount::MountAttrs;
use plywood_kernel::mountns::MountNs;
use plywood_kernel::reaper::Reaper;
use plywood_kernel::{ProcessId, UnmountFlags, unmount};
use rustix::io::Errno;

use super::unmapped::Overlay;
use crate::launcher::{LaunchFailure, LauncherError};
use crate::threads;

/// Where directories for mounts are made.
const RUN: &str = "/run";

/// What their names begin with; the process's number and when it started follow.
const PREFIX: &str = "plywood-storm-";

/// Of what is in them: a container's directory, its scratch directory, one for each layer.
const DEPTH: u32 = 2;

/// Which mount operations the client makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Those of this mechanism, with each container's id mapping.
    Mapped(Mechanism),
    /// The overlay alone, as every version does where there is no mapping.
    Unmapped,
}

/// Mounts snapshots; shared by all that are mounted.
#[derive(Debug)]
pub(super) struct Assembler {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespace: MountNs,
    /// That of the storm.
    home: MountNs,
    how: How,
    passes: u32,
    user_namespaces: UserNsPool,
    reaper: Reaper,
    /// In containerd's mount namespace: a directory for each container.
    dir: PathBuf,
}

/// A mounted snapshot; unmounted and removed when it is dropped.
#[derive(Debug)]
pub(super) struct Mounted {
    inner: Arc<Inner>,
    dir: PathBuf,
    snapshot: Option<Snapshot>,
}

impl How {
    /// As the client of that version maps ids.
    pub(super) fn mapped(version: &Version) -> Self {
        Self::Mapped(match version.mounting() {
            Mounting::PerLayer => Mechanism::PerLayer,
            Mounting::CommonParent | Mounting::Copies => Mechanism::CommonParent,
        })
    }
}

impl Assembler {
    pub(super) fn new(namespace: MountNs, how: How, passes: u32, number: u32) -> Result<Self, LauncherError> {
        let reaper =
            Reaper::start().map_err(LauncherError::doing("starting the thread that closes mounts"))?;
        let me = ProcessId::current().map_err(LauncherError::doing("telling this process from others"))?;
        let dir = Path::new(RUN).join(format!("{PREFIX}{}-{}-{number}", me.pid, me.start_time));
        let user_namespaces = UserNsPool::new();
        let home =
            MountNs::current().map_err(LauncherError::doing("opening this process's mount namespace"))?;
        let inner = Arc::new(Inner { namespace, home, how, passes, user_namespaces, reaper, dir });
        inner.sweep(&me)?;
        inner.inside(|inner| {
            fs::create_dir(&inner.dir).map_err(LauncherError::doing("making a directory for mounts"))
        })?;
        Ok(Self { inner })
    }

    /// Makes the user namespaces.
    pub(super) fn prepare(&self, mappings: &[IdMap]) -> Result<(), LauncherError> {
        self.inner.user_namespaces.prepare(mappings).map_err(LauncherError::doing("making user namespaces"))
    }

    /// Mounts it and says since when, on the calling thread.
    pub(super) fn mount(&self, id: &str, snapshot: Snapshot) -> Result<(Mounted, Instant), LaunchFailure> {
        self.inner.namespace.enter().map_err(|error| LaunchFailure::of(&error))?;
        let mounted = self.mount_here(id, snapshot).map(|mounted| (mounted, Instant::now()));
        // A thread that does not return is of no use any more; what it mounted goes with what is dropped here.
        self.inner.home.enter().map_err(|error| LaunchFailure::of(&error))?;
        mounted
    }

    fn mount_here(&self, id: &str, snapshot: Snapshot) -> Result<Mounted, LaunchFailure> {
        let of = |error: &(dyn std::error::Error + 'static)| LaunchFailure::of(error);
        let inner = &self.inner;
        let dir = inner.dir.join(id);
        let target = dir.join("rootfs");
        fs::create_dir_all(&target).map_err(|error| of(&error))?;
        let rootfs = snapshot.rootfs().map_err(|error| of(&error))?;
        // From here on dropping it takes everything back.
        let mounted = Mounted { inner: Arc::clone(inner), dir: dir.clone(), snapshot: Some(snapshot) };
        match (inner.how, rootfs) {
            (
                How::Mapped(mechanism),
                Rootfs::Overlay {
                    lower, upper: Some(upper), work: Some(work), mapping: Some(mapping), ..
                },
            ) => {
                let lowers = lowers(&lower)
                    .ok_or_else(|| LaunchFailure::new("the layers have no common parent directory"))?
                    .map_err(|error| of(&error))?;
                let request = Request::new(lowers, mapping, upper, work, dir.join("scratch"));
                inner.assemble(mechanism, request, target)?;
            }
            (
                How::Unmapped,
                Rootfs::Overlay { lower, upper: Some(upper), work: Some(work), mapping: None, options },
            ) => {
                let overlay = Overlay { lower, upper, work, options };
                for _ in 1..inner.passes {
                    overlay.look(&target).map_err(|error| of(&error))?;
                }
                overlay.mount(&target).map_err(|error| of(&error))?;
            }
            (How::Mapped(_), other) => {
                let what = format!("the snapshot is no overlay with an id mapping: {other:?}");
                return Err(LaunchFailure::new(what));
            }
            (How::Unmapped, other) => {
                let what = format!("the snapshot is no overlay without an id mapping: {other:?}");
                return Err(LaunchFailure::new(what));
            }
        }
        Ok(mounted)
    }

    /// Removes the directory, with the mounts that could not be unmounted when it was their turn.
    pub(super) fn close(&self) -> Result<(), LauncherError> {
        self.inner.reaper.drain();
        self.inner.inside(|inner| {
            match clear(&inner.dir, DEPTH).and_then(|()| fs::remove_dir(&inner.dir)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let dir = inner.dir.display();
                    let what = format!("{dir} may be left in containerd's mount namespace, with mounts; the next storm removes it");
                    Err(LauncherError::new(what, error))
                }
                _ => Ok(()),
            }
        })
    }
}

impl Inner {
    /// Makes the root file system with the mapping of the request, by the engine.
    fn assemble(
        &self,
        mechanism: Mechanism,
        mut request: Request,
        target: PathBuf,
    ) -> Result<(), LaunchFailure> {
        let of = |error: &(dyn std::error::Error + 'static)| LaunchFailure::of(error);
        request.choice = Choice::Forced(mechanism);
        request.passes = self.passes;
        request.attach = Some(target);
        // As containerd's.
        request.attrs = MountAttrs::NONE;
        request.durability = Durability::Synced;
        let plan = plan(&request, &Capabilities::assumed()).map_err(|error| of(&error))?;
        let user_ns = self.user_namespaces.get(&plan.idmap).map_err(|error| of(&error))?;
        let context = Context { user_ns: &user_ns, reaper: &self.reaper, worker: None };
        apply(&plan, &context).map_err(|error| of(&error))?;
        Ok(())
    }

    /// Takes back what storms left mounted that were killed. Whether they live is looked up in our own `/proc`: that of
    /// containerd may be of another PID namespace.
    fn sweep(self: &Arc<Self>, me: &ProcessId) -> Result<(), LauncherError> {
        const DOING: &str = "removing mounts that a killed storm left";
        let names = self.inside(|_| {
            let names = fs::read_dir(RUN).and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()
            });
            names.map_err(LauncherError::doing(DOING))
        })?;
        for name in names {
            let Some(owner) = name.to_str().and_then(|name| owner(name, me)) else { continue };
            if !owner.is_alive().map_err(LauncherError::doing(DOING))? {
                let dir = Path::new(RUN).join(name);
                self.inside(move |_| {
                    clear(&dir, DEPTH)
                        .and_then(|()| fs::remove_dir(&dir))
                        .map_err(LauncherError::doing(DOING))
                })?;
            }
        }
        Ok(())
    }

    /// Does something in containerd's mount namespace, on a thread of its own.
    fn inside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Inner) -> Result<T, LauncherError> + Send + 'static,
    ) -> Result<T, LauncherError> {
        let inner = Arc::clone(self);
        let entered = move || {
            inner.namespace.enter().map_err(LauncherError::doing("entering containerd's mount namespace"))?;
            work(&inner)
        };
        threads::spawn("storm-inside", entered)
            .map_err(LauncherError::doing("entering containerd's mount namespace"))?
            .join()
            .unwrap_or_else(|_| {
                Err(LauncherError::new("entering containerd's mount namespace", "it panicked"))
            })
    }
}

impl Mounted {
    /// Unmounts it and removes the snapshot.
    pub(super) fn remove(mut self) -> Result<(), LauncherError> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<(), LauncherError> {
        let Some(snapshot) = self.snapshot.take() else { return Ok(()) };
        let dir = self.dir.clone();
        self.inner.inside(move |_| {
            let target = dir.join("rootfs");
            match unmount(&target, UnmountFlags::empty()) {
                // It was never mounted.
                Err(error) if error.errno() == Errno::INVAL => {}
                result => result.map_err(LauncherError::doing("unmounting a snapshot"))?,
            }
            fs::remove_dir(&target)
                .and_then(|()| fs::remove_dir(&dir))
                .map_err(LauncherError::doing("removing the directory of a mount"))
        })?;
        snapshot.remove().map_err(LauncherError::doing("removing a snapshot"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a mounted snapshot is left until the launcher is closed"
            );
        }
    }
}

/// Whose directory this is.
fn owner(name: &str, me: &ProcessId) -> Option<ProcessId> {
    let mut numbers = name.strip_prefix(PREFIX)?.split('-');
    let (pid, start_time) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(ProcessId { pid, start_time, boot_id: me.boot_id.clone() })
}

/// Unmounts what is mounted right in the directory and below it, and removes the empty directories that remain. Nothing is
/// looked into before nothing is mounted on it.
fn clear(dir: &Path, depth: u32) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        loop {
            match unmount(&path, UnmountFlags::empty()) {
                Ok(()) => {}
                Err(error) if error.errno() == Errno::INVAL => break,
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
        if depth > 0 {
            clear(&path, depth - 1)?;
        }
        fs::remove_dir(&path)?;
    }
    Ok(())
}

/// The layers below the directory that all of them are in; topmost first, as overlay and the engine have them.
fn lowers(paths: &[PathBuf]) -> Option<Result<Lowers, plywood_engine::lower::LowersError>> {
    let mut parent = paths.first()?.parent()?;
    while !paths.iter().all(|path| path.starts_with(parent)) {
        parent = parent.parent()?;
    }
    // containerd idmaps the directory with all snapshots, even if it holds one layer of this image.
    if paths.len() == 1 {
        parent = parent.parent()?;
    }
    let name = |path: &PathBuf| LowerRef::new(path.strip_prefix(parent).unwrap_or(path));
    let names = paths.iter().map(name).collect::<Result<Vec<_>, _>>();
    Some(names.and_then(|names| Lowers::layers(parent, names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_say_whose_they_are() {
        let me = ProcessId::current().unwrap();
        let name = format!("{PREFIX}{}-{}-0", me.pid, me.start_time);
        assert_eq!(owner(&name, &me), Some(me.clone()));
        assert!(owner("plywood-storm-x-1-0", &me).is_none() && owner("plywood", &me).is_none());
    }

    #[test]
    fn layers_are_named_below_the_directory_with_all_snapshots() {
        for paths in [["/c/snapshots/12/fs", "/c/snapshots/1/fs"].as_slice(), &["/c/snapshots/7/fs"]] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let found = lowers(&paths).unwrap().unwrap();
            assert_eq!(found.parent(), Path::new("/c/snapshots"));
            let full: Vec<PathBuf> =
                found.names().iter().map(|name| found.parent().join(name.name())).collect();
            assert_eq!(full, paths);
        }
        assert!(lowers(&[]).is_none());
    }
}
