//! What all arms of launcher `assembly` stand on: ids, user namespaces, the template namespace, a place for mount points.
//!
//! ```text
//! scratch/.trial-<pid>-storm/       swept by the store once this process is dead, mounts below it included
//!   rootfs/                         where root file systems are attached, each in its own namespace
//!   <snapshot>/                     mount points of one launch, while it assembles
//! ```
//!
//! Invariant: ids are leased in the store and on the machine before anything is made for them, and given back last.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use plywood_engine::apply::{PrivateWorker, Rootfs};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::{IdLease, IdPool, MachineIds, MachineIdsError, UserNsPool};
use plywood_kernel::{IdMap, MountNs, Reaper, SyscallError, UserNs, remove_tree};
use plywood_store::leases::LiveLease;
use plywood_store::{Lease, LeaseId, NewLease, Store};

use crate::launcher::LauncherError;

/// What a ground is made of.
#[derive(Debug)]
pub struct GroundConfig<'a> {
    /// Where images are, and writable directories.
    pub store: &'a Store,
    /// What the kernel can do on the store's file system.
    pub capabilities: Capabilities,
    /// Host ids that may be leased.
    pub pool: &'a IdPool,
    /// The machine's register of ids, in a directory that exists.
    pub register: &'a Path,
    /// Containers at a time.
    pub containers: usize,
}

/// Shared by all arms. Dropped, it gives back what it holds.
#[derive(Debug)]
pub struct Ground {
    store: Store,
    capabilities: Capabilities,
    leases: Vec<LeaseId>,
    tenants: Vec<Tenant>,
    reaper: Reaper,
    worker: Mutex<Option<Arc<PrivateWorker>>>,
    home: MountNs,
    template: MountNs,
    place: PathBuf,
    rootfs: PathBuf,
    /// The ids as others see them; last, so that they are given back last.
    _machine: MachineIds,
}

/// Whose ids a container has.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) map: IdMap,
    pub(super) user_ns: Arc<UserNs>,
}

impl Ground {
    /// Leases, prepares, makes.
    ///
    /// # Errors
    /// Too few id ranges are free, or a call was refused; what was taken is given back.
    pub fn open(config: GroundConfig<'_>) -> Result<Self, LauncherError> {
        let store = config.store.clone();
        let machine = MachineIds::open(config.register).map_err(LauncherError::doing("leasing host ids"))?;
        let (leases, maps) = lease(&store, &machine, config.pool, config.containers)?;
        let rest = || -> Result<_, SyscallError> {
            let namespaces = UserNsPool::new();
            namespaces.prepare(&maps)?;
            let tenants = maps
                .into_iter()
                .map(|map| Ok(Tenant { user_ns: namespaces.get(&map)?, map }))
                .collect::<Result<_, SyscallError>>()?;
            let template = MountNs::minimal(&[store.root().path(), Path::new("/proc")])?;
            Ok((tenants, template, MountNs::current()?, Reaper::start()?))
        };
        let made =
            rest().map_err(LauncherError::doing("making what all containers share")).and_then(|rest| {
                let place = store.root().path().join("scratch").join(place_name());
                let rootfs = place.join("rootfs");
                std::fs::create_dir_all(&rootfs)
                    .map_err(|source| LauncherError::new(format!("making {}", rootfs.display()), source))?;
                Ok((rest, place, rootfs))
            });
        match made {
            Ok(((tenants, template, home, reaper), place, rootfs)) => Ok(Self {
                store,
                capabilities: config.capabilities,
                leases,
                tenants,
                reaper,
                worker: Mutex::new(None),
                home,
                template,
                place,
                rootfs,
                _machine: machine,
            }),
            Err(error) => {
                if let Err(also) = store.release_leases(&leases) {
                    tracing::error!(error = &also as &dyn std::error::Error, "giving host ids back");
                }
                Err(error)
            }
        }
    }

    /// The id mappings of all containers, for launchers that leave the rest to others. Leased as long as this lives.
    pub fn maps(&self) -> Vec<IdMap> {
        self.tenants.iter().map(|tenant| tenant.map.clone()).collect()
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

    /// A directory that one launch may make and use.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    pub(super) fn start_worker(&self) -> Result<(), SyscallError> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Arc::new(PrivateWorker::start(&[self.store.root().path()])?));
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
        if let Err(error) = remove_tree(self.store.root().scratch(), Path::new(&place_name())) {
            tracing::error!(error = &error as &dyn std::error::Error, "removing {}", self.place.display());
        }
        if let Err(error) = self.store.release_leases(&self.leases) {
            tracing::error!(error = &error as &dyn std::error::Error, "giving host ids back");
        }
    }
}

/// As the store's recovery knows it: of no interest to anybody once this process is dead.
fn place_name() -> String {
    format!(".trial-{}-storm", std::process::id())
}

/// Ranges that nobody else on the machine has, as a run leases them.
fn lease(
    store: &Store,
    machine: &MachineIds,
    pool: &IdPool,
    count: usize,
) -> Result<(Vec<LeaseId>, Vec<IdMap>), LauncherError> {
    let doing = "leasing host ids";
    let leases = store
        .lease_ranges(|live: &[LiveLease]| {
            let live = live.iter().map(|lease| IdLease { uid: lease.uid, gid: lease.gid }).collect();
            let chosen = machine.choose(pool, live, count, &|| false)?;
            let new = |lease: IdLease| NewLease { uid: lease.uid, gid: lease.gid, container: None };
            Ok::<_, MachineIdsError>(chosen.into_iter().map(new).collect())
        })
        .map_err(LauncherError::doing(doing))?;
    let map = |lease: &Lease| IdMap::from_ranges(lease.uid, lease.gid);
    Ok((leases.iter().map(|lease| lease.id).collect(), leases.iter().map(map).collect()))
}
