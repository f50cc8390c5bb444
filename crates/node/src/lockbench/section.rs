//! What is done while a lock is held, and between two operations; clocks.
//!
//! The critical section writes two words on two cache lines, with some work between them: enough for a lock that lets
//! two threads in to be found out, since the words then differ. Work is arithmetic that the compiler cannot drop, by
//! count, calibrated once: reading a clock would cost as much as the work.

use std::hint::black_box;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Alone on its cache lines; two of them, since processors fetch neighbours in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// How fast this machine counts and how long it takes to read the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    steps_per_ns: f64,
    /// One reading of the clock, in nanoseconds.
    pub(super) clock_ns: f64,
}

impl Pace {
    /// Measures both, in some milliseconds; the fastest of several tries, since whatever disturbs makes slower.
    pub(super) fn measure() -> Self {
        const TRIES: usize = 9;
        const STEPS: u32 = 50_000;
        const READS: u32 = 2_000;
        let least = |work: &dyn Fn()| {
            let time = |_| {
                let start = Instant::now();
                work();
                start.elapsed().as_nanos() as f64
            };
            (0..TRIES).map(time).fold(f64::INFINITY, f64::min).max(1.0)
        };
        Self {
            steps_per_ns: f64::from(STEPS) / least(&|| count(STEPS)),
            clock_ns: least(&|| (0..READS).for_each(|_| _ = black_box(Instant::now()))) / f64::from(READS),
        }
    }

    fn steps(self, time: Duration) -> u32 {
        (time.as_nanos() as f64 * self.steps_per_ns) as u32
    }
}

/// The protected data, and the work.
#[derive(Debug)]
pub(super) struct Section {
    first: Padded<AtomicU64>,
    second: Padded<AtomicU64>,
    torn: Padded<AtomicU64>,
    section_steps: u32,
    think_steps: u32,
}

impl Section {
    /// Work of these durations.
    pub(super) fn new(pace: Pace, section: Duration, think: Duration) -> Self {
        Self {
            first: Padded::default(),
            second: Padded::default(),
            torn: Padded::default(),
            section_steps: pace.steps(section),
            think_steps: pace.steps(think),
        }
    }

    /// The critical section of whoever changes the data. Not atomic: that is what the lock is for.
    pub(super) fn write(&self) {
        self.first.store(self.first.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        count(self.section_steps);
        self.second.store(self.second.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The critical section of a reader.
    pub(super) fn read(&self) -> (u64, u64) {
        let first = self.first.load(Ordering::Relaxed);
        count(self.section_steps);
        (first, self.second.load(Ordering::Relaxed))
    }

    /// Counts a reader that was let in while the data changed.
    pub(super) fn check(&self, (first, second): (u64, u64)) {
        if first != second {
            self.torn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The time between two operations.
    pub(super) fn think(&self) {
        count(self.think_steps);
    }

    /// How often it was written, if never by two at once nor read meanwhile.
    #[cfg(test)]
    pub(super) fn consistent_writes(&self) -> Option<u64> {
        let [first, second, torn] =
            [&self.first, &self.second, &self.torn].map(|word| word.load(Ordering::Relaxed));
        (first == second && torn == 0).then_some(first)
    }
}

fn count(steps: u32) {
    for step in 0..steps {
        black_box(step);
    }
}
