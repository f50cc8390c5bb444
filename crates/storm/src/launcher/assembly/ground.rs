//! What all arms of launcher `assembly` stand on: user namespaces, the template namespace, a place for mount points.
//!
//! ```text
//! scratch/.trial-<pid>-storm/       swept by the store once this process is dead, mounts below it included
//!   rootfs/                         where root file systems are attached, each in its own namespace
//!   memory/                         writable directories and mount points of launches: a tmpfs
//! ```
//!
//! Invariant: the ids of its containers are leased as long as it lives.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use plywood_engine::apply::{PrivateWorker, Rootfs};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::UserNsPool;
use plywood_kernel::{IdMap, MountNs, Reaper, SyscallError, UserNs, remove_tree};
use plywood_store::Store;

use super::writable::Memory;
use crate::launcher::LauncherError;
use crate::launcher::ids::Ids;

/// What a ground is made of.
#[derive(Debug)]
pub struct GroundConfig<'a> {
    /// Where images are.
    pub store: &'a Store,
    /// What the kernel can do on the store's file system.
    pub capabilities: Capabilities,
    /// Of as many containers as a round has.
    pub ids: Arc<Ids>,
}

/// Shared by all arms. Dropped, it gives back what it holds.
#[derive(Debug)]
pub struct Ground {
    store: Store,
    capabilities: Capabilities,
    tenants: Vec<Tenant>,
    reaper: Reaper,
    worker: Mutex<Option<Arc<PrivateWorker>>>,
    home: MountNs,
    template: MountNs,
    memory: Memory,
    rootfs: PathBuf,
    /// Last, so that they are given back last.
    _ids: Arc<Ids>,
}

/// Whose ids a container has.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) map: IdMap,
    pub(super) user_ns: Arc<UserNs>,
}

impl Ground {
    /// Prepares and makes what all containers share.
    ///
    /// # Errors
    /// A call was refused.
    pub fn open(config: GroundConfig<'_>) -> Result<Self, LauncherError> {
        let store = config.store.clone();
        let maps = config.ids.maps();
        let prepare = || -> Result<_, SyscallError> {
            let namespaces = UserNsPool::new();
            namespaces.prepare(maps)?;
            let tenants = maps
                .iter()
                .map(|map| Ok(Tenant { user_ns: namespaces.get(map)?, map: map.clone() }))
                .collect::<Result<_, SyscallError>>()?;
            let template = MountNs::minimal(&[store.root().path(), Path::new("/proc")])?;
            Ok((tenants, template, MountNs::current()?, Reaper::start()?))
        };
        let (tenants, template, home, reaper) =
            prepare().map_err(LauncherError::doing("making what all containers share"))?;
        let place = store.root().path().join("scratch").join(place_name());
        let rootfs = place.join("rootfs");
        std::fs::create_dir_all(&rootfs)
            .map_err(|source| LauncherError::new(format!("making {}", rootfs.display()), source))?;
        // After the template namespace, which has no use for it.
        let memory = Memory::attach(place.join("memory")).inspect_err(|_| remove_place(&store))?;
        Ok(Self {
            memory,
            store,
            capabilities: config.capabilities,
            tenants,
            reaper,
            worker: Mutex::new(None),
            home,
            template,
            rootfs,
            _ids: config.ids,
        })
    }

    pub(super) fn tenant(&self, container: usize) -> Option<Tenant> {
        self.tenants.get(container).cloned()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// The namespace of whoever opened the ground.
    pub(super) fn home(&self) -> &MountNs {
        &self.home
    }

    pub(super) fn template(&self) -> &MountNs {
        &self.template
    }

    /// Where root file systems are attached.
    pub(super) fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Where writable directories are.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn start_worker(&self) -> Result<(), SyscallError> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Arc::new(PrivateWorker::start(&[self.store.root().path(), self.memory.path()])?));
        }
        Ok(())
    }

    pub(super) fn worker(&self) -> Option<Arc<PrivateWorker>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn reap(&self, namespace: MountNs, rootfs: Rootfs) {
        self.reaper.close(namespace);
        self.reaper.close(rootfs.into_fd());
    }

    /// Waits until all that was reaped is closed.
    pub(super) fn drain(&self) {
        self.reaper.drain();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.reaper.drain();
        self.memory.detach();
        remove_place(&self.store);
    }
}

fn remove_place(store: &Store) {
    let name = place_name();
    if let Err(error) = remove_tree(store.root().scratch(), Path::new(&name)) {
        tracing::error!(error = &error as &dyn std::error::Error, "removing scratch/{name}");
    }
}

/// As the store's recovery knows it: of no interest to anybody once this process is dead.
fn place_name() -> String {
    format!(".trial-{}-storm", std::process::id())
}
