//! Removing containers that have ended, while others still start: at the end of a burst little is left to do.

use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use plywood_engine::launch::{RunDirectories, remove_bundle};
use plywood_store::{ContainerId, Store};

/// A thread that removes what it is told to, as many at once as have come in meanwhile. Dropped, it finishes its work.
#[derive(Debug)]
pub struct Janitor {
    queue: Option<Sender<ContainerId>>,
    thread: Option<JoinHandle<HashSet<ContainerId>>>,
}

impl Janitor {
    /// Starts the thread.
    pub fn start(store: Store, directories: RunDirectories) -> Self {
        let (queue, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || work(&store, &directories, &ended));
        Self { queue: Some(queue), thread: Some(thread) }
    }

    /// The container has ended, and nothing of its runtime is left.
    pub fn take(&self, id: ContainerId) {
        // A thread that has panicked removes nothing more; what is left is tried again after the run.
        let _left = self.queue.as_ref().map(|queue| queue.send(id));
    }

    /// Waits until it has seen all; answers what it removed. The rest, which it has logged, may be tried again.
    pub fn finish(mut self) -> HashSet<ContainerId> {
        self.end()
    }

    fn end(&mut self) -> HashSet<ContainerId> {
        self.queue = None;
        let Some(thread) = self.thread.take() else { return HashSet::new() };
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the thread that removes containers panicked");
            HashSet::new()
        })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.end();
    }
}

fn work(store: &Store, directories: &RunDirectories, ended: &Receiver<ContainerId>) -> HashSet<ContainerId> {
    let mut removed = HashSet::new();
    while let Ok(first) = ended.recv() {
        let ids: Vec<ContainerId> = std::iter::once(first).chain(ended.try_iter()).collect();
        match remove(store, directories, &ids) {
            Ok(()) => removed.extend(ids),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "removing containers that have ended; it is tried again after the run");
            }
        }
    }
    removed
}

/// Removes bundles, records and snapshots of containers that have ended or never were.
pub fn remove(store: &Store, directories: &RunDirectories, ids: &[ContainerId]) -> anyhow::Result<()> {
    for id in ids {
        remove_bundle(directories, id.as_str())?;
    }
    Ok(store.remove_containers(ids)?)
}
