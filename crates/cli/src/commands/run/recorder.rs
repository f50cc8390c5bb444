//! Writing down what becomes of the containers, on a thread of its own.
//!
//! The database may be locked by another process or its disk be full. What cannot be written now is kept and tried
//! again: containers run on, and requests to stop are seen, whatever the database says. One outage is logged once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plywood_kernel::ProcessId;
use plywood_store::{ContainerId, StateError, Store};

use super::wakes::Wake;

/// Between two tries.
const RETRY: Duration = Duration::from_millis(500);

/// For how long the ends of kept containers are tried after the last one. Recovery finds them dead, too, but not their
/// exit codes.
const PATIENCE: Duration = Duration::from_secs(600);

/// What happened to a container.
#[derive(Debug)]
pub enum News {
    /// Its process runs; its launch took so many milliseconds.
    Started(ContainerId, ProcessId, f64),
    /// It ended with this exit code.
    Exited(ContainerId, i32),
}

/// The thread. Dropped, it gives up what is not written.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<Sender<News>>,
    unrecorded: Arc<AtomicUsize>,
    dropped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts the thread. The ends of containers that are not kept are not written: they are removed instead. `stop` is
    /// set when somebody asks this process to end; `bell` is told whenever all is written.
    pub fn start(store: Store, keep: bool, stop: Arc<AtomicBool>, bell: Sender<Wake>) -> Self {
        let (queue, news) = mpsc::channel();
        let unrecorded = Arc::new(AtomicUsize::new(0));
        let dropped = Arc::new(AtomicBool::new(false));
        let work = Work {
            store,
            keep,
            stop,
            bell,
            dropped: Arc::clone(&dropped),
            unrecorded: Arc::clone(&unrecorded),
            taken: 0,
            started: HashMap::new(),
            exited: HashMap::new(),
            failing: false,
        };
        let thread = std::thread::spawn(move || work.run(&news));
        Self { queue: Some(queue), unrecorded, dropped, thread: Some(thread) }
    }

    /// Takes one piece of news; never waits.
    pub fn note(&self, news: News) {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        // A thread that is gone has panicked; `is_done` is never true again.
        let _unheard = self.queue.as_ref().map(|queue| queue.send(news));
    }

    /// Whether everything noted so far is in the database.
    pub fn is_done(&self) -> bool {
        self.unrecorded.load(Ordering::Acquire) == 0
    }

    /// All containers have ended: waits until that is written, for as long as it is worth it.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that records containers panicked");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
        self.end();
    }
}

struct Work {
    store: Store,
    keep: bool,
    stop: Arc<AtomicBool>,
    bell: Sender<Wake>,
    dropped: Arc<AtomicBool>,
    unrecorded: Arc<AtomicUsize>,
    /// Taken from the queue and not yet written.
    taken: usize,
    started: HashMap<ContainerId, (ProcessId, f64)>,
    exited: HashMap<ContainerId, i32>,
    failing: bool,
}

impl Work {
    fn run(mut self, news: &Receiver<News>) {
        loop {
            let received = match self.taken {
                0 => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => news.recv_timeout(RETRY),
            };
            match received {
                Ok(first) => std::iter::once(first).chain(news.try_iter()).for_each(|one| self.take(one)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.write();
        }
        // Those that are not kept are about to be removed.
        if self.keep && self.taken > 0 && !self.dropped.load(Ordering::Relaxed) {
            self.insist();
        }
    }

    fn take(&mut self, news: News) {
        self.taken += 1;
        match news {
            News::Started(id, process, launch_ms) => {
                self.started.insert(id, (process, launch_ms));
            }
            News::Exited(id, code) if self.keep => {
                self.exited.insert(id, code);
            }
            // That it started is of no interest any more.
            News::Exited(id, _) => {
                self.started.remove(&id);
            }
        }
    }

    fn insist(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.taken > 0 && Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(RETRY);
            self.write();
        }
        if self.taken > 0 {
            tracing::error!("the ends of containers are not recorded");
        }
    }

    fn write(&mut self) {
        match self.try_write() {
            Ok(()) => {
                self.unrecorded.fetch_sub(std::mem::take(&mut self.taken), Ordering::Release);
                // A run that is over does not want to know.
                let _unwanted = self.bell.send(Wake::Recorded);
                if std::mem::take(&mut self.failing) {
                    tracing::warn!("what became of containers is recorded now");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "recording what became of containers; it is tried again");
                }
            }
        }
    }

    fn try_write(&mut self) -> Result<(), StateError> {
        if !self.started.is_empty() {
            let started: Vec<_> =
                self.started.iter().map(|(id, (process, ms))| (id.clone(), process.clone(), *ms)).collect();
            self.store.containers_started(&started)?;
            self.started.clear();
        }
        if !self.exited.is_empty() {
            let exited: Vec<_> = self.exited.iter().map(|(id, code)| (id.clone(), *code)).collect();
            self.store.containers_exited(&exited)?;
            self.exited.clear();
        }
        Ok(())
    }
}
