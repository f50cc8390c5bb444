//! Host ids for the containers of a storm: leased in the store and on the machine, as a run leases them.
//!
//! Invariant: nobody else on the machine has them while this lives.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood_engine::idrange::{IdLease, IdPool, MachineIds};
use plywood_kernel::IdMap;
use plywood_store::{LeaseId, NewLease, Store};

use super::LauncherError;

const DOING: &str = "leasing host ids";

/// As many ranges as containers of a round. Dropped, they are given back.
#[derive(Debug)]
pub struct Ids {
    store: Store,
    leases: Vec<LeaseId>,
    maps: Vec<IdMap>,
    /// As others see them; last, so that they are given back last.
    _machine: MachineIds,
}

impl Ids {
    /// Leases `count` ranges of `pool`. `register` is the machine's, in a directory that exists. Waiting for others who
    /// lease ends when `cancel` is set.
    ///
    /// # Errors
    /// Too few are free, or a call was refused; then none is leased.
    pub fn lease(
        store: &Store,
        register: &Path,
        pool: &IdPool,
        count: usize,
        cancel: &AtomicBool,
    ) -> Result<Self, LauncherError> {
        let machine = MachineIds::open(register).map_err(LauncherError::doing(DOING))?;
        // Others of this machine are waited for before the database is locked, which would make this state root wait.
        let door = machine.enter(&|| cancel.load(Ordering::Relaxed)).map_err(LauncherError::doing(DOING))?;
        let live = store.leases().map_err(LauncherError::doing(DOING))?;
        let live = live.iter().map(|lease| IdLease { uid: lease.uid, gid: lease.gid }).collect();
        let chosen = door.choose(pool, live, count).map_err(LauncherError::doing(DOING))?;
        let new = |lease: IdLease| NewLease { uid: lease.uid, gid: lease.gid, container: None };
        let chosen = chosen.into_iter().map(new).collect();
        let leases =
            store.lease_ranges(|_| Ok::<_, Infallible>(chosen)).map_err(LauncherError::doing(DOING))?;
        Ok(Self {
            store: store.clone(),
            maps: leases.iter().map(|lease| IdMap::from_ranges(lease.uid, lease.gid)).collect(),
            leases: leases.iter().map(|lease| lease.id).collect(),
            _machine: machine,
        })
    }

    /// The mapping of each range.
    pub fn maps(&self) -> &[IdMap] {
        &self.maps
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        if let Err(error) = self.store.release_leases(&self.leases) {
            tracing::error!(error = &error as &dyn std::error::Error, "giving host ids back");
        }
    }
}
