//! How long a cache line takes from one core to another: two threads write to it in turn.
//!
//! Half of a round trip, the median of several rounds. It is what a lock's cache line costs to be handed over, the
//! floor under every figure of a contended lock. Threads read without a pause, so siblings of one core slow each other
//! down a little.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plywood_kernel::affinity;
use serde::{Deserialize, Serialize};

use super::random::median;
use super::section::Padded;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct MatrixConfig {
    /// Round trips in a round.
    pub trips: u64,
    /// Rounds for each pair.
    pub rounds: usize,
    /// A round that takes longer is given up, and the pair skipped.
    pub limit: Duration,
}

impl Default for MatrixConfig {
    fn default() -> Self {
        Self { trips: 1000, rounds: 5, limit: Duration::from_millis(500) }
    }
}

/// Latencies between CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The CPUs, in the order of rows and columns.
    pub cpus: Vec<u32>,
    /// One way, in nanoseconds; symmetric. None on the diagonal and where a pair was skipped.
    pub ns: Vec<Vec<Option<f64>>>,
    /// Pairs without a figure.
    pub skipped: Vec<SkippedPair>,
}

/// A pair that was not measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedPair {
    /// The two CPUs.
    pub cpus: [u32; 2],
    /// Why.
    pub reason: String,
}

impl Matrix {
    /// The fastest, the median and the slowest pair, in nanoseconds.
    pub fn summary(&self) -> Option<[f64; 3]> {
        let mut all: Vec<f64> = self.ns.iter().flatten().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        Some([*all.first()?, median(&all), *all.last()?])
    }
}

/// Measures every pair of these CPUs; `progress` is told how many pairs are done. Stops early if asked to, the pairs
/// that were left are named.
pub fn measure(
    cpus: &[u32],
    config: MatrixConfig,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(usize),
) -> Matrix {
    let mut ns = vec![vec![None; cpus.len()]; cpus.len()];
    let mut skipped = Vec::new();
    let mut done = 0;
    for (row, &one) in cpus.iter().enumerate() {
        for (column, &other) in cpus.iter().enumerate().skip(row + 1) {
            let measured = if cancel.load(Ordering::Relaxed) {
                Err("stopped before its turn".to_owned())
            } else {
                pair(one, other, config, cancel)
            };
            match measured {
                Ok(latency) => (ns[row][column], ns[column][row]) = (Some(latency), Some(latency)),
                Err(reason) => skipped.push(SkippedPair { cpus: [one, other], reason }),
            }
            done += 1;
            progress(done);
        }
    }
    Matrix { cpus: cpus.to_vec(), ns, skipped }
}

fn pair(one: u32, other: u32, config: MatrixConfig, cancel: &AtomicBool) -> Result<f64, String> {
    let line = Padded::<AtomicU64>::default();
    let give_up = Padded::<AtomicBool>::default();
    let start = Barrier::new(2);
    let play = |cpu: u32, first: bool| -> Result<Vec<f64>, String> {
        let confined = affinity::confine_current_thread(&[cpu]).map_err(|error| error.to_string());
        let mut rounds = Vec::new();
        // The other one waits at the barrier in any case.
        if confined.is_err() {
            give_up.store(true, Ordering::Relaxed);
        }
        start.wait();
        confined?;
        let mut value = 0;
        // The first round warms up.
        for round in 0..=config.rounds {
            let begin = Instant::now();
            for _ in 0..config.trips {
                // Whose turn it is shows in the value: 2n for the first, 2n + 1 for the second.
                if !turn(&line, value + u64::from(!first), &give_up, begin + config.limit, cancel) {
                    return Err(format!(
                        "gave up after {} ms: one of the two is busy",
                        config.limit.as_millis()
                    ));
                }
                line.store(value + u64::from(!first) + 1, Ordering::Release);
                value += 2;
            }
            if round > 0 {
                rounds.push(begin.elapsed().as_nanos() as f64 / (2 * config.trips) as f64);
            }
        }
        Ok(rounds)
    };
    std::thread::scope(|scope| {
        let players = [(one, true), (other, false)].map(|(cpu, first)| {
            let play = &play;
            scope.spawn(move || play(cpu, first))
        });
        let [first, second] =
            players.map(|player| player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // Whoever could not start knows the better reason.
        match (first, second) {
            (Ok(rounds), Ok(_)) => Ok(median(&rounds)),
            (Err(reason), _) if reason.starts_with("sched_setaffinity") => Err(reason),
            (_, Err(reason)) | (Err(reason), _) => Err(reason),
        }
    })
}

/// Waits until the line holds `wanted`; false if that takes too long.
fn turn(line: &AtomicU64, wanted: u64, give_up: &AtomicBool, deadline: Instant, cancel: &AtomicBool) -> bool {
    const LOOKS: u32 = 1 << 14;
    loop {
        for _ in 0..LOOKS {
            if line.load(Ordering::Acquire) == wanted {
                return true;
            }
        }
        let late = Instant::now() > deadline || cancel.load(Ordering::Relaxed);
        if late || give_up.load(Ordering::Relaxed) {
            give_up.store(true, Ordering::Relaxed);
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: MatrixConfig = MatrixConfig { trips: 200, rounds: 3, limit: Duration::from_secs(5) };

    #[test]
    fn every_pair_has_a_figure_or_a_reason() {
        let cpus = affinity::allowed().unwrap();
        let mut seen = 0;
        let matrix = measure(&cpus, QUICK, &AtomicBool::new(false), &mut |done| seen = done);
        assert_eq!(seen, cpus.len() * (cpus.len() - 1) / 2);
        assert_eq!(matrix.skipped, []);
        for row in 0..cpus.len() {
            for column in 0..cpus.len() {
                let latency = matrix.ns[row][column];
                assert_eq!(latency, matrix.ns[column][row]);
                assert_eq!(latency.is_some(), row != column);
                assert!(latency.is_none_or(|ns| ns > 0.5), "{latency:?}");
            }
        }
        assert_eq!(matrix.summary().is_some(), cpus.len() > 1);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named_and_hangs_nobody() {
        let cpu = affinity::allowed().unwrap()[0];
        let missing = affinity::MAX_CPUS - 1;
        for cpus in [[cpu, missing], [missing, cpu]] {
            let matrix = measure(&cpus, QUICK, &AtomicBool::new(false), &mut |_| {});
            assert_eq!(matrix.skipped[0].cpus, cpus);
            assert!(matrix.skipped[0].reason.contains("sched_setaffinity"), "{:?}", matrix.skipped);
            assert_eq!(matrix.summary(), None);
        }
    }

    #[test]
    fn a_pair_that_takes_too_long_is_given_up() {
        // Both on one CPU: each trip takes two switches of the scheduler.
        let cpu = affinity::allowed().unwrap()[0];
        let slow = MatrixConfig { trips: 100_000, rounds: 1, limit: Duration::from_millis(30) };
        let matrix = measure(&[cpu, cpu], slow, &AtomicBool::new(false), &mut |_| {});
        assert!(matrix.skipped[0].reason.contains("30 ms"), "{:?}", matrix.skipped);
        let stopped = measure(&[cpu, cpu], slow, &AtomicBool::new(true), &mut |_| {});
        assert!(stopped.skipped[0].reason.contains("stopped"), "{:?}", stopped.skipped);
    }
}
