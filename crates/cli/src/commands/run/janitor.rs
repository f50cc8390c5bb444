//! Removing containers that have ended, while others still start: at the end of a burst little is left to do.

use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::Context as _;
use plywood_engine::launch::{RunDirectories, remove_bundle};
use plywood_store::{ContainerId, Store};

/// A thread that removes what it is told to, as many at once as have come in meanwhile. Dropped, it finishes its work.
#[derive(Debug)]
pub struct Janitor {
    queue: Option<Sender<ContainerId>>,
    thread: Option<JoinHandle<anyhow::Result<HashSet<ContainerId>>>>,
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
        // One who has given up says why in `finish`, and the container is removed with all others then.
        let _given_up = self.queue.as_ref().map(|queue| queue.send(id));
    }

    /// Waits until all is removed; answers what was.
    pub fn finish(mut self) -> anyhow::Result<HashSet<ContainerId>> {
        self.queue = None;
        let thread = self.thread.take().context("a janitor finishes once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the thread that removes containers panicked"))?
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && !matches!(thread.join(), Ok(Ok(_)))
        {
            tracing::error!("removing containers that have ended");
        }
    }
}

fn work(
    store: &Store,
    directories: &RunDirectories,
    ended: &Receiver<ContainerId>,
) -> anyhow::Result<HashSet<ContainerId>> {
    let mut removed = HashSet::new();
    while let Ok(first) = ended.recv() {
        let ids: Vec<ContainerId> = std::iter::once(first).chain(ended.try_iter()).collect();
        remove(store, directories, &ids)?;
        removed.extend(ids);
    }
    Ok(removed)
}

/// Removes bundles, records and snapshots of containers that have ended or never were.
pub fn remove(store: &Store, directories: &RunDirectories, ids: &[ContainerId]) -> anyhow::Result<()> {
    for id in ids {
        remove_bundle(directories, id.as_str())?;
    }
    Ok(store.remove_containers(ids)?)
}
