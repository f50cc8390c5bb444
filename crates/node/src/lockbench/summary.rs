//! From samples to points, from points to curves; pure.

use super::random::median;
use super::{Beside, CurveFit, LockKind, Point, Quantiles, Sample, Share, usl};

/// None without samples.
pub(super) fn point(samples: &[Sample], cpus: usize) -> Option<Point> {
    let first = samples.first()?;
    let over_rounds = |of: &dyn Fn(&Sample) -> f64| median(&samples.iter().map(of).collect::<Vec<_>>());
    let quantiles = |of: &dyn Fn(&Sample) -> Quantiles| Quantiles {
        p50: over_rounds(&|sample| of(sample).p50),
        p90: over_rounds(&|sample| of(sample).p90),
        p99: over_rounds(&|sample| of(sample).p99),
        max: samples.iter().map(|sample| of(sample).max).fold(0.0, f64::max),
    };
    let rates = |sample: &Sample, contends: bool| -> Vec<f64> {
        let threads = sample.per_thread.iter().filter(|thread| thread.contends == contends);
        threads.map(|thread| thread.ops_per_s).collect()
    };
    let contenders = rates(first, true).len();
    let others = first.threads - contenders;
    Some(Point {
        lock: first.lock,
        placement: first.placement.clone(),
        threads: first.threads,
        op_ns: quantiles(&|sample| sample.op_ns),
        ops_per_s: over_rounds(&|sample| sample.ops_per_s),
        fairness: over_rounds(&|sample| jain(&rates(sample, true))),
        share: Share {
            min: over_rounds(&|sample| shares(&rates(sample, true)).0),
            max: over_rounds(&|sample| shares(&rates(sample, true)).1),
        },
        contenders,
        beside: (others > 0).then(|| Beside {
            what: first.lock.beside().to_owned(),
            threads: others,
            op_ns: quantiles(&|sample| sample.beside_ns.unwrap_or_default()),
            ops_per_s: over_rounds(&|sample| rates(sample, false).iter().sum()),
        }),
        batch: samples.iter().flat_map(|sample| &sample.per_thread).map(|one| one.batch).max().unwrap_or(1),
        oversubscribed: first.threads > cpus,
        ops_per_s_rounds: samples.iter().map(|sample| sample.ops_per_s).collect(),
    })
}

/// Jain's index: the square of the sum over n times the sum of squares. 0 if nobody did anything.
pub(super) fn jain(rates: &[f64]) -> f64 {
    let (sum, squares) =
        rates.iter().fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
    if squares > 0.0 { sum * sum / (rates.len() as f64 * squares) } else { 0.0 }
}

/// The smallest and the largest part.
pub(super) fn shares(rates: &[f64]) -> (f64, f64) {
    let sum: f64 = rates.iter().sum();
    if sum <= 0.0 {
        return (0.0, 0.0);
    }
    rates.iter().fold((1.0_f64, 0.0_f64), |(min, max), rate| (min.min(rate / sum), max.max(rate / sum)))
}

/// One curve for each lock and placement, in the order of the points.
pub(super) fn fits(points: &[Point], seed: u64) -> Vec<CurveFit> {
    let mut curves: Vec<(LockKind, &str)> = Vec::new();
    for point in points {
        if !curves.contains(&(point.lock, &point.placement)) {
            curves.push((point.lock, &point.placement));
        }
    }
    let curve = |(lock, placement): (LockKind, &str)| {
        let usable = |point: &&Point| {
            let same = point.lock == lock && point.placement == placement;
            // Alone, a lock with others beside is another lock; with more threads than CPUs, a spin lock is none.
            let alone = !lock.beside().is_empty() && point.beside.is_none();
            same && !alone && !(lock.spins() && point.oversubscribed)
        };
        let used: Vec<&Point> = points.iter().filter(usable).collect();
        let observed: Vec<usl::Observed> = used
            .iter()
            .map(|point| usl::Observed {
                contenders: point.contenders,
                ops_per_s: point.ops_per_s_rounds.clone(),
            })
            .collect();
        let crowded = points.iter().any(|point| {
            point.lock == lock && point.placement == placement && lock.spins() && point.oversubscribed
        });
        let (fit, no_fit) = match usl::fit(&observed, |threads| lock.contenders(threads), seed) {
            Ok(fit) => (Some(fit), None),
            Err(why) if crowded => {
                (None, Some(format!("{why}; more threads than CPUs do not count for a lock that spins")))
            }
            Err(why) => (None, Some(why.to_string())),
        };
        let oversubscribed = used.iter().any(|point| point.oversubscribed);
        CurveFit { lock, placement: placement.to_owned(), fit, no_fit, oversubscribed }
    };
    curves.into_iter().map(curve).collect()
}
