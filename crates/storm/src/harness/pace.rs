//! When containers are due.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How often a thread that waits looks whether it should stop.
const LOOK: Duration = Duration::from_millis(20);

/// When containers are due. The default is all at once.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pace {
    /// So many at the same moment; all of a round by default. Without a rate, the next burst is due when the one before
    /// has started or failed.
    pub burst: Option<usize>,
    /// So many a second, in bursts if there are any, else one by one; not bounded by what has started.
    pub rate: Option<f64>,
}

impl Pace {
    /// How many of a round's containers are due at the same moment.
    pub fn burst_of(&self, containers: usize) -> usize {
        let usual = if self.rate.is_some() { 1 } else { containers };
        self.burst.unwrap_or(usual).clamp(1, containers.max(1))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let burst = |f: &mut fmt::Formatter<'_>, count| write!(f, "bursts of {count}");
        match (self.burst, self.rate) {
            (None, None) => f.write_str("all at once"),
            (Some(count), None) => burst(f, count),
            (None, Some(rate)) => write!(f, "{rate} a second"),
            (Some(count), Some(rate)) => burst(f, count).and_then(|()| write!(f, ", {rate} a second")),
        }
    }
}

/// The moments of one round, shared by its threads.
#[derive(Debug)]
pub(super) struct Moments {
    burst: usize,
    /// Between bursts, if there is a rate.
    interval: Option<Duration>,
    threads: usize,
    ended: Mutex<Ended>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Ended {
    count: usize,
    /// When the latest burst became due.
    burst: usize,
    since: Option<Instant>,
}

impl Moments {
    pub(super) fn new(pace: &Pace, containers: usize, threads: usize) -> Self {
        let burst = pace.burst_of(containers);
        #[expect(clippy::cast_precision_loss, reason = "bursts are small")]
        let interval = pace.rate.map(|rate| Duration::from_secs_f64(burst as f64 / rate));
        let ended = Mutex::new(Ended { count: 0, burst: 0, since: None });
        Self { burst, interval, threads, ended, changed: Condvar::new(), stop: AtomicBool::new(false) }
    }

    /// Waits until the container is due, and says when that was; none if it is not to be started any more.
    pub(super) fn due(&self, container: usize, start: Instant) -> Option<Instant> {
        let burst = container / self.burst;
        let begun = match self.interval {
            Some(interval) => {
                let due = start + interval.mul_f64(burst as f64);
                self.sleep_until(due);
                due
            }
            None => self.after_burst(burst, start)?,
        };
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        // Whoever finds all threads busy is due when one is free; at a given rate, when the clock says so.
        let free = self.interval.is_some() || container % self.burst < self.threads;
        Some(if free { begun } else { Instant::now() })
    }

    /// A launch has returned.
    pub(super) fn ended(&self) {
        let mut ended = self.lock();
        ended.count += 1;
        if ended.count.is_multiple_of(self.burst) {
            ended.burst += 1;
            ended.since = Some(Instant::now());
            self.changed.notify_all();
        }
    }

    /// Nothing more becomes due.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn after_burst(&self, burst: usize, start: Instant) -> Option<Instant> {
        if burst == 0 {
            return Some(start);
        }
        let mut ended = self.lock();
        while ended.burst < burst {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            ended = self.changed.wait_timeout(ended, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        ended.since
    }

    fn sleep_until(&self, due: Instant) {
        while !self.stop.load(Ordering::Relaxed) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
