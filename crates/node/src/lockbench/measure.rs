//! One point, once: threads on their CPUs, a barrier, a warm-up, the measurement.
//!
//! ```text
//! phase    warm up             measure                         stop
//! thread   operations, counted  batches: clock, n operations ...   ends within one operation
//! ```
//!
//! A batch is so long that reading the clock costs at most a twentieth of it; each thread chooses its own from the
//! warm-up. Latencies are means of batches, then: a batch of 1 where an operation takes long (`mount`), some tens where
//! it takes nanoseconds. One reading ends a batch and begins the next.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use plywood_kernel::{SyscallError, affinity};
use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Quantiles};
use super::lock::{Cas, Lock, LockKind, Mcs, Mount, Mutex, Seqlock, Ticket};
use super::section::{Pace, Padded, Section};
use super::{Config, Spec};
use crate::Placement;

/// A batch is at least this many times as long as reading the clock.
const CLOCKS_A_BATCH: f64 = 20.0;

/// Batches are not longer than this, so that a thread which is preempted shows.
const LONGEST_BATCH: u32 = 256;

/// Operations timed together in the warm-up.
const WARM_CHUNK: u32 = 16;

/// Who waits for threads looks this often whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(20);

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
    /// How many operations it did.
    pub ops: u64,
    /// The same a second.
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
) -> Result<Option<Sample>, SyscallError> {
    let run = match spec.lock {
        LockKind::Cas => contend::<Cas>,
        LockKind::Ticket => contend::<Ticket>,
        LockKind::Mcs => contend::<Mcs>,
        LockKind::Seqlock => contend::<Seqlock>,
        LockKind::Mutex => contend::<Mutex>,
        LockKind::Mount => contend::<Mount>,
    };
    let placement = &config.placements[spec.placement];
    let Some(tallies) = run(config, placement, spec.threads, pace, cancel)? else { return Ok(None) };
    let merged = |contends: bool| {
        let mut all = Histogram::default();
        tallies.iter().filter(|one| one.contends == contends).for_each(|one| all.merge(&one.histogram));
        all.quantiles()
    };
    let per_thread: Vec<ThreadSample> = tallies.iter().map(Tally::sample).collect();
    Ok(Some(Sample {
        lock: spec.lock,
        placement: placement.name.clone(),
        threads: spec.threads,
        round,
        op_ns: merged(true).unwrap_or_default(),
        ops_per_s: per_thread.iter().filter(|one| one.contends).map(|one| one.ops_per_s).sum(),
        beside_ns: merged(false),
        per_thread,
    }))
}

struct Tally {
    cpu: u32,
    contends: bool,
    ops: u64,
    elapsed: Duration,
    batch: u32,
    histogram: Histogram,
}

impl Tally {
    fn sample(&self) -> ThreadSample {
        let seconds = self.elapsed.as_secs_f64();
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

fn contend<L: Lock>(
    config: &Config,
    placement: &Placement,
    threads: usize,
    pace: Pace,
    cancel: &AtomicBool,
) -> Result<Option<Vec<Tally>>, SyscallError> {
    let lock = L::new(threads)?;
    let section = Section::new(pace, config.section, config.think);
    let phase = Padded::<AtomicU8>::default();
    let start = Barrier::new(threads + 1);
    let tallies: Result<Vec<Tally>, SyscallError> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|me| {
                let (lock, section, phase, start) = (&lock, &section, &*phase, &start);
                let cpu = placement.cpu(me).unwrap_or_default();
                scope.spawn(move || {
                    let ready = affinity::confine_current_thread(&[cpu]).and_then(|()| lock.join());
                    start.wait();
                    let done = ready.and_then(|()| work(lock, me, cpu, section, phase, pace));
                    // One that cannot go on leaves nothing to measure for the others.
                    done.inspect_err(|_| phase.store(STOP, Ordering::Relaxed))
                })
            })
            .collect();
        start.wait();
        for (time, next) in [(config.warm_up, MEASURE), (config.duration, STOP)] {
            wait(time, &phase, cancel);
            phase.fetch_max(if cancel.load(Ordering::Relaxed) { STOP } else { next }, Ordering::Relaxed);
        }
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let tallies = tallies?;
    Ok((!cancel.load(Ordering::Relaxed)).then_some(tallies))
}

fn wait(time: Duration, phase: &AtomicU8, cancel: &AtomicBool) {
    let end = Instant::now() + time;
    while !cancel.load(Ordering::Relaxed) && phase.load(Ordering::Relaxed) != STOP {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// Runs operations until the phase ends.
fn work<L: Lock>(
    lock: &L,
    me: usize,
    cpu: u32,
    section: &Section,
    phase: &AtomicU8,
    pace: Pace,
) -> Result<Tally, SyscallError> {
    let operate = || {
        section.think();
        lock.operate(me, section)
    };
    // The fastest of the warm-up: a mean would count the time slices that others took.
    let mut op_ns = f64::INFINITY;
    while phase.load(Ordering::Relaxed) == WARM_UP {
        let (start, mut done) = (Instant::now(), 0);
        while done < WARM_CHUNK && phase.load(Ordering::Relaxed) == WARM_UP {
            operate()?;
            done += 1;
        }
        if done > 0 {
            op_ns = op_ns.min(start.elapsed().as_nanos() as f64 / f64::from(done));
        }
    }
    let batch = (CLOCKS_A_BATCH * pace.clock_ns / op_ns).ceil().clamp(1.0, f64::from(LONGEST_BATCH)) as u32;
    let mut tally = Tally {
        cpu,
        contends: lock.contends(me),
        ops: 0,
        elapsed: Duration::ZERO,
        batch,
        histogram: Histogram::default(),
    };
    let begin = Instant::now();
    let mut last = begin;
    while phase.load(Ordering::Relaxed) == MEASURE {
        let mut done = 0;
        // Within a batch, too: a spin lock with more threads than CPUs may take milliseconds for one operation.
        while done < batch && phase.load(Ordering::Relaxed) == MEASURE {
            operate()?;
            done += 1;
        }
        if done == 0 {
            break;
        }
        let now = Instant::now();
        tally.histogram.add_batch(u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX), done);
        tally.ops += u64::from(done);
        last = now;
    }
    tally.elapsed = last - begin;
    Ok(tally)
}
