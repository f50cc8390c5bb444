//! One point, once: threads on their CPUs, a barrier, a warm-up, the measurement.
//!
//! ```text
//! phase    warm up             measure                         stop
//! thread   operations, timed    batches: clock, n operations ...   ends within one operation
//!                      └─ counts ─────────────────────────┘ └─ does not, but its wait does
//! ```
//!
//! All threads are measured in the same window: the time between the two changes of the phase. What ends within it
//! counts, whenever it began; rates are what ended there over its length, so that they can be added and compared, and a
//! thread that gets the lock late or never shows as the slow one it is. What is still under way when the window ends is
//! no operation done, but its wait until then enters the latencies; so does all of a wait that began before the window.
//! A window in which nobody has done anything yet goes on until somebody has.
//!
//! A batch is so long that reading the clock costs at most a twentieth of it; each thread chooses its own from the
//! warm-up. Latencies are means of batches, then: a batch of 1 where an operation takes long (`mount`), some tens where
//! it takes nanoseconds. One reading ends a batch and begins the next.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Condvar, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use plywood_kernel::{SyscallError, affinity};
use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Quantiles};
use super::lock::{Cas, Lock, LockKind, Mcs, Mount, Mutex, Seqlock, Ticket};
use super::roles::Roles;
use super::section::{Pace, Padded, Section};
use super::{Config, Spec};
use crate::Placement;
use crate::threads::{self, ThreadsError};

/// A batch is at least this many times as long as reading the clock.
const CLOCKS_A_BATCH: f64 = 20.0;

/// Batches are not longer than this, so that a thread which is preempted shows.
const LONGEST_BATCH: u32 = 256;

/// Operations timed together in the warm-up.
const WARM_CHUNK: u32 = 16;

/// Who waits for threads looks this often whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(20);

/// And so often whether anything was done, where nothing was.
const NOTHING_YET: Duration = Duration::from_millis(1);

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// One point, measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The lock.
    pub lock: LockKind,
    /// The placement's name.
    pub placement: String,
    /// All threads, those beside included.
    pub threads: usize,
    /// The round, from 0.
    pub round: usize,
    /// How long it was measured, the same for all threads.
    pub window_ms: f64,
    /// Latency of an operation of the threads that are measured, think time included, in nanoseconds.
    pub op_ns: Quantiles,
    /// Operations of all threads that are measured.
    pub ops_per_s: f64,
    /// The latency of whoever runs beside.
    pub beside_ns: Option<Quantiles>,
    /// Each thread.
    pub per_thread: Vec<ThreadSample>,
}

/// What one thread did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadSample {
    /// Where it ran.
    pub cpu: u32,
    /// Whether it is one of those that are measured.
    pub contends: bool,
    /// How many of its operations ended in the window.
    pub ops: u64,
    /// The same a second of the window.
    pub ops_per_s: f64,
    /// Operations between two readings of the clock.
    pub batch: u32,
    /// Latency of an operation, in nanoseconds.
    pub op_ns: Quantiles,
}

/// Measures `spec` once; None if somebody asked to stop.
pub(super) fn measure(
    config: &Config,
    spec: &Spec,
    round: usize,
    pace: Pace,
    cancel: &AtomicBool,
) -> Result<Option<Sample>, ThreadsError> {
    let run = match spec.lock {
        LockKind::Cas => contend::<Cas>,
        LockKind::Ticket => contend::<Ticket>,
        LockKind::Mcs => contend::<Mcs>,
        LockKind::Seqlock => contend::<Seqlock>,
        LockKind::Mutex => contend::<Mutex>,
        LockKind::Mount => contend::<Mount>,
    };
    let placement = &config.placements[spec.placement];
    let roles = Roles::new(spec.lock, placement, spec.threads);
    let Some(measured) = run(config, placement, &roles, pace, cancel)? else { return Ok(None) };
    let merged = |contends: bool| {
        let mut all = Histogram::default();
        let tallies = measured.tallies.iter().filter(|one| one.contends == contends);
        tallies.for_each(|one| all.merge(&one.histogram));
        all.quantiles()
    };
    let per_thread: Vec<ThreadSample> =
        measured.tallies.iter().map(|tally| tally.sample(measured.window)).collect();
    Ok(Some(Sample {
        lock: spec.lock,
        placement: placement.name.clone(),
        threads: spec.threads,
        round,
        window_ms: measured.window.as_secs_f64() * 1e3,
        op_ns: merged(true).unwrap_or_default(),
        ops_per_s: per_thread.iter().filter(|one| one.contends).map(|one| one.ops_per_s).sum(),
        beside_ns: merged(false),
        per_thread,
    }))
}

/// What all threads did in one window.
struct Measured {
    window: Duration,
    tallies: Vec<Tally>,
}

struct Tally {
    cpu: u32,
    contends: bool,
    ops: u64,
    batch: u32,
    histogram: Histogram,
}

impl Tally {
    fn sample(&self, window: Duration) -> ThreadSample {
        let seconds = window.as_secs_f64();
        ThreadSample {
            cpu: self.cpu,
            contends: self.contends,
            ops: self.ops,
            ops_per_s: if seconds > 0.0 { self.ops as f64 / seconds } else { 0.0 },
            batch: self.batch,
            op_ns: self.histogram.quantiles().unwrap_or_default(),
        }
    }
}

/// What is measured, when, as all threads see it.
#[derive(Default)]
struct Window {
    phase: Padded<AtomicU8>,
    /// A thread that contends has done an operation.
    some: Padded<AtomicBool>,
    /// Set before the phase is [`MEASURE`].
    from: OnceLock<Instant>,
    /// Set before the phase is [`STOP`], unless the measurement is given up.
    to: OnceLock<Instant>,
}

impl Window {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    /// The next phase, unless threads have stopped already.
    fn enter(&self, phase: u8, since: &OnceLock<Instant>) {
        let _ = since.set(Instant::now());
        self.phase.fetch_max(phase, Ordering::Release);
    }

    fn give_up(&self) {
        self.phase.store(STOP, Ordering::Relaxed);
    }

    /// A moment of the phase that was seen; now, should the measurement have been given up.
    fn moment(moment: &OnceLock<Instant>) -> Instant {
        fence(Ordering::Acquire);
        moment.get().copied().unwrap_or_else(Instant::now)
    }
}

/// Where threads wait for one another before they begin: a barrier that can be given up.
struct Gate {
    awaited: std::sync::Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    fn new(awaited: usize) -> Self {
        Self { awaited: std::sync::Mutex::new(awaited), opened: Condvar::new() }
    }

    /// Waits for all others, or until somebody opens it.
    fn pass(&self) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = awaited.saturating_sub(1);
        if *awaited == 0 {
            self.opened.notify_all();
        }
        let waited = self.opened.wait_while(awaited, |awaited| *awaited > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn open(&self) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.opened.notify_all();
    }
}

fn contend<L: Lock>(
    config: &Config,
    placement: &Placement,
    roles: &Roles,
    pace: Pace,
    cancel: &AtomicBool,
) -> Result<Option<Measured>, ThreadsError> {
    let lock = L::new(roles)?;
    let section = Section::new(pace, config.section, config.think);
    let window = Window::default();
    let start = Gate::new(roles.threads() + 1);
    let tallies: Result<Vec<Tally>, ThreadsError> = std::thread::scope(|scope| {
        let workers: Result<Vec<_>, ThreadsError> = (0..roles.threads())
            .map(|me| {
                let (lock, section, window, start) = (&lock, &section, &window, &start);
                let cpu = placement.cpu(me).unwrap_or_default();
                threads::spawn_scoped(scope, "lockbench", move || {
                    let ready = affinity::confine_current_thread(&[cpu]).and_then(|()| lock.join());
                    start.pass();
                    let operate = || {
                        section.think();
                        lock.operate(me, section)
                    };
                    let thread = Thread { cpu, contends: roles.contends(me), window, pace };
                    // One that cannot go on leaves nothing to measure for the others.
                    ready.and_then(|()| thread.work(operate)).inspect_err(|_| window.give_up())
                })
            })
            .collect();
        // Those that were started wait for one that will never come.
        let workers = workers.inspect_err(|_| {
            window.give_up();
            start.open();
        })?;
        start.pass();
        wait(config.warm_up, &window, cancel);
        window.enter(MEASURE, &window.from);
        wait(config.duration, &window, cancel);
        while !window.some.load(Ordering::Relaxed)
            && window.phase() != STOP
            && !cancel.load(Ordering::Relaxed)
        {
            std::thread::sleep(NOTHING_YET);
        }
        window.enter(STOP, &window.to);
        workers
            .into_iter()
            .map(|worker| Ok(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
            .collect()
    });
    let measured = Measured {
        tallies: tallies?,
        window: Window::moment(&window.to).saturating_duration_since(Window::moment(&window.from)),
    };
    Ok((!cancel.load(Ordering::Relaxed)).then_some(measured))
}

fn wait(time: Duration, window: &Window, cancel: &AtomicBool) {
    let end = Instant::now() + time;
    while !cancel.load(Ordering::Relaxed) && window.phase() != STOP {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// One thread's part.
#[derive(Clone, Copy)]
struct Thread<'a> {
    cpu: u32,
    contends: bool,
    window: &'a Window,
    pace: Pace,
}

impl Thread<'_> {
    /// Runs operations until the phase ends.
    fn work(&self, operate: impl Fn() -> Result<(), SyscallError>) -> Result<Tally, SyscallError> {
        let window = self.window;
        let mut tally = Tally {
            cpu: self.cpu,
            contends: self.contends,
            ops: 0,
            batch: 1,
            histogram: Histogram::default(),
        };
        // The fastest of the warm-up: a mean would count the time slices that others took.
        let mut op_ns = f64::INFINITY;
        let mut begin = Instant::now();
        // The operations of a batch that ended in the phase it began in; the next one ends in another.
        let mut whole;
        loop {
            whole = self.batch(WARM_UP, WARM_CHUNK, &operate)?;
            if whole < WARM_CHUNK {
                break;
            }
            let now = Instant::now();
            op_ns = op_ns.min((now - begin).as_nanos() as f64 / f64::from(whole));
            begin = now;
        }
        let from = Window::moment(&window.from);
        let mut now = Instant::now();
        op_ns = op_ns.min((now - begin).as_nanos() as f64 / f64::from(whole + 1));
        tally.batch =
            (CLOCKS_A_BATCH * self.pace.clock_ns / op_ns).ceil().clamp(1.0, f64::from(LONGEST_BATCH)) as u32;
        let ended_inside = window.phase() == MEASURE;
        if ended_inside {
            tally.count(1, window);
        } else {
            now = Window::moment(&window.to);
        }
        // One that began before the window took no less than until now from the window's begin.
        let mean = now.saturating_duration_since(begin) / (whole + 1);
        tally.add(mean.max(now.saturating_duration_since(from)), 1);
        if !ended_inside {
            return Ok(tally);
        }
        loop {
            let begin = now;
            // Looked at after each operation: with more threads than CPUs one may take milliseconds.
            whole = self.batch(MEASURE, tally.batch, &operate)?;
            tally.count(whole, window);
            if whole < tally.batch {
                // The last one was under way when the window ended, and had waited until then at least.
                let to = Window::moment(&window.to);
                tally.add(to.saturating_duration_since(begin), whole + 1);
                return Ok(tally);
            }
            now = Instant::now();
            tally.add(now - begin, whole);
        }
    }

    /// So many operations, or one more than are returned, which has not ended in this phase.
    fn batch(
        &self,
        phase: u8,
        operations: u32,
        operate: impl Fn() -> Result<(), SyscallError>,
    ) -> Result<u32, SyscallError> {
        for done in 0..operations {
            operate()?;
            if self.window.phase() != phase {
                return Ok(done);
            }
        }
        Ok(operations)
    }
}

impl Tally {
    fn count(&mut self, operations: u32, window: &Window) {
        if self.ops == 0 && operations > 0 && self.contends {
            window.some.store(true, Ordering::Relaxed);
        }
        self.ops += u64::from(operations);
    }

    fn add(&mut self, time: Duration, operations: u32) {
        self.histogram.add_batch(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), operations);
    }
}

#[cfg(test)]
mod tests;
