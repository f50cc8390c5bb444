//! Waiting for other processes that hold the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::BUSY_TIMEOUT;

/// After this time it is said what is waited for. A write takes milliseconds, on a slow disk a second.
const TELL: Duration = Duration::from_millis(1500);
/// How long who was asked to stop waits all the same: it may be taking back what it did, and others write now and then.
const STOPPING: Duration = Duration::from_secs(2);
/// The same after that was not enough once.
const STOPPED: Duration = Duration::from_millis(100);

/// What one connection waits with.
#[derive(Debug)]
pub(super) struct Wait {
    path: PathBuf,
    cancel: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
    since: Instant,
    told: bool,
}

impl Wait {
    /// Nobody is waited for yet.
    pub(super) fn new(path: &Path, cancel: Arc<AtomicBool>) -> Wait {
        let given_up = Arc::new(AtomicBool::new(false));
        Wait { path: path.to_owned(), cancel, given_up, since: Instant::now(), told: false }
    }

    /// Set while the last wait ended because of the request to stop.
    pub(super) fn given_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.given_up)
    }

    /// Waits a little; false if that was long enough. `tries` counts from 0 each time somebody else is found to hold the
    /// database.
    pub(super) fn again(&mut self, tries: i32) -> bool {
        if tries == 0 {
            self.since = Instant::now();
        }
        let waited = self.since.elapsed();
        let stop = self.cancel.load(Ordering::Relaxed);
        let patience = match (stop, self.given_up.load(Ordering::Relaxed)) {
            (false, _) => BUSY_TIMEOUT,
            (true, false) => STOPPING,
            (true, true) => STOPPED,
        };
        if waited >= patience {
            self.given_up.store(stop, Ordering::Relaxed);
            return false;
        }
        if waited >= TELL && !self.told {
            self.told = true;
            let path = self.path.display();
            tracing::warn!("waiting for another process, which holds {path}; `fuser -v {path}` names it");
        }
        thread::sleep(Duration::from_millis(1 << tries.clamp(0, 5)));
        true
    }
}
