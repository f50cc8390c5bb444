//! User namespaces, made before they are needed and kept with their mapping.
//!
//! A user namespace cannot be had without a process (0.1 to 0.7 ms here, on two processors), so none is made on
//! the launch path: the pool keeps a descriptor for each mapping until it is told to let go of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use plywood_kernel::SyscallError;
use plywood_kernel::idmap::IdMap;
use plywood_kernel::userns::UserNs;

/// Threads that make namespaces; more only wait for each other on the kernel's fork path.
const MAKERS: usize = 4;

/// User namespaces by mapping. Shared by reference between threads.
#[derive(Debug, Default)]
pub struct UserNsPool {
    kept: Mutex<HashMap<IdMap, Arc<UserNs>>>,
}

impl UserNsPool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// The namespace of a mapping, made now if the pool has none.
    pub fn get(&self, map: &IdMap) -> Result<Arc<UserNs>, SyscallError> {
        if let Some(found) = self.lock().get(map) {
            return Ok(Arc::clone(found));
        }
        // Made outside the lock. Two threads that both make one keep the first; the other's goes away with it.
        let made = Arc::new(UserNs::create(map)?);
        Ok(Arc::clone(self.lock().entry(map.clone()).or_insert(made)))
    }

    /// Makes the missing namespaces of `maps` on a few threads, ahead of their use.
    pub fn prepare(&self, maps: &[IdMap]) -> Result<(), SyscallError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(map) = maps.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.get(map)?;
            }
            Ok(())
        };
        let threads = MAKERS.min(maps.len());
        if threads <= 1 {
            return work();
        }
        thread::scope(|scope| {
            let makers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            makers.into_iter().try_for_each(|maker| match maker.join() {
                Ok(made) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Lets go of a mapping's namespace: what runs in it keeps it, and nothing more will start in it.
    pub fn forget(&self, map: &IdMap) {
        self.lock().remove(map);
    }

    /// How many namespaces are kept.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IdMap, Arc<UserNs>>> {
        // The map is never left half changed, so a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
