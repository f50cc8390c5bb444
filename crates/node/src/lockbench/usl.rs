//! The universal scalability law: what a curve of throughput says about more threads than there are.
//!
//! ```text
//! X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1))
//! ```
//!
//! `lambda` is what one thread does, `sigma` the share that is done one after the other, `kappa` what every pair of
//! threads costs to agree (Gunther, *Guerrilla Capacity Planning*, 2007). N / X is linear in 1 / lambda, sigma / lambda
//! and kappa / lambda, so the least squares of the relative error have one solution, within lambda > 0, 0 <= sigma <= 1
//! and kappa >= 0. Intervals of 95 % come from resampling rounds; they hold the noise of the measurement, not whether
//! the law fits: that is what R² is for. It refuses to fit fewer than three different numbers of threads.

use serde::{Deserialize, Serialize};

use super::random::{Random, median};

/// The law has three unknowns.
const FEWEST_COUNTS: usize = 3;

/// Resampled fewer rounds would nearly always be the same ones.
const FEWEST_ROUNDS: usize = 3;

/// How often rounds are resampled.
const RESAMPLES: usize = 1000;

/// Machines the law is asked about: the incident's sizes.
pub const PREDICTED: [usize; 3] = [48, 96, 192];

/// Throughput with one number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Threads.
    pub threads: usize,
    /// Operations a second in each round.
    pub ops_per_s: Vec<f64>,
}

/// A figure with the interval it lies in with 95 %; none with fewer than three rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// From.
    pub low: Option<f64>,
    /// To.
    pub high: Option<f64>,
}

/// The law, fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Operations a second of one thread.
    pub lambda: Estimate,
    /// The serial share.
    pub sigma: Estimate,
    /// The cost of agreement.
    pub kappa: Estimate,
    /// 1 is a perfect fit; below 0.9 the law does not describe this curve.
    pub r_squared: f64,
    /// Where throughput is highest; None if it never falls.
    pub peak_threads: Option<Estimate>,
    /// The numbers of threads that were measured.
    pub measured_threads: Vec<usize>,
    /// How many rounds each.
    pub rounds: usize,
    /// What the law says about more threads than were measured. No measurement.
    pub predictions: Vec<Prediction>,
}

/// What the law says about a number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Threads.
    pub threads: usize,
    /// Operations a second of all together.
    pub ops_per_s: Estimate,
    /// Always: nothing of this was measured.
    pub prediction: bool,
}

/// Why there is no fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoFit {
    /// Too few numbers of threads.
    #[error("the law needs 3 different numbers of contending threads, {found:?} are {}", found.len())]
    TooFewCounts {
        /// Those there are.
        found: Vec<usize>,
    },
    /// Nothing was done at all in some point.
    #[error("with {threads} threads nothing was done")]
    NoThroughput {
        /// That point.
        threads: usize,
    },
    /// The equations have no solution.
    #[error("these points determine no curve")]
    Undetermined,
}

#[derive(Clone, Copy)]
struct Law {
    lambda: f64,
    sigma: f64,
    kappa: f64,
}

impl Law {
    fn at(self, threads: f64) -> f64 {
        let pairs = threads * (threads - 1.0);
        self.lambda * threads / (1.0 + self.sigma * (threads - 1.0) + self.kappa * pairs)
    }

    fn peak(self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma) / self.kappa).sqrt().max(1.0))
    }
}

/// Fits the law to medians over rounds, resampled with `seed`.
///
/// # Errors
/// With fewer than three different numbers of threads, or if a point has no throughput.
pub fn fit(observed: &[Observed], seed: u64) -> Result<Fit, NoFit> {
    let mut observed: Vec<&Observed> = observed.iter().filter(|one| one.threads > 0).collect();
    observed.sort_by_key(|one| one.threads);
    let mut counts: Vec<usize> = observed.iter().map(|one| one.threads).collect();
    counts.dedup();
    if counts.len() < FEWEST_COUNTS {
        return Err(NoFit::TooFewCounts { found: counts });
    }
    let points: Vec<(f64, f64)> =
        observed.iter().map(|one| (one.threads as f64, median(&one.ops_per_s))).collect();
    if let Some((threads, _)) = points.iter().find(|(_, throughput)| *throughput <= 0.0) {
        return Err(NoFit::NoThroughput { threads: *threads as usize });
    }
    let law = solve(&points).ok_or(NoFit::Undetermined)?;
    let rounds = observed.iter().map(|one| one.ops_per_s.len()).min().unwrap_or(0);
    let resampled = if rounds < FEWEST_ROUNDS { Vec::new() } else { resample(&observed, rounds, seed) };
    let estimate = |value: f64, of: &dyn Fn(&Law) -> f64| interval(value, resampled.iter().map(of).collect());
    let largest = counts.last().copied().unwrap_or(0);
    let mut predicted: Vec<usize> = PREDICTED.into_iter().filter(|threads| *threads > largest).collect();
    predicted.dedup();
    Ok(Fit {
        lambda: estimate(law.lambda, &|law| law.lambda),
        sigma: estimate(law.sigma, &|law| law.sigma),
        kappa: estimate(law.kappa, &|law| law.kappa),
        r_squared: r_squared(law, &points),
        peak_threads: law.peak().map(|peak| estimate(peak, &|law| law.peak().unwrap_or(f64::INFINITY))),
        measured_threads: counts,
        rounds,
        predictions: predicted
            .into_iter()
            .map(|threads| Prediction {
                threads,
                ops_per_s: estimate(law.at(threads as f64), &|law| law.at(threads as f64)),
                prediction: true,
            })
            .collect(),
    })
}

/// Rounds, not samples: what disturbed one round disturbed all points of it.
fn resample(observed: &[&Observed], rounds: usize, seed: u64) -> Vec<Law> {
    let mut random = Random::new(seed);
    let mut laws = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let chosen: Vec<usize> = (0..rounds).map(|_| random.below(rounds)).collect();
        let point = |one: &&Observed| {
            let values: Vec<f64> = chosen.iter().map(|round| one.ops_per_s[*round]).collect();
            (one.threads as f64, median(&values))
        };
        let points: Vec<(f64, f64)> = observed.iter().map(point).collect();
        if points.iter().all(|(_, throughput)| *throughput > 0.0) {
            laws.extend(solve(&points));
        }
    }
    laws
}

/// The middle 95 % of the resampled values. Infinite ones (no peak) stay at the upper end.
fn interval(value: f64, mut values: Vec<f64>) -> Estimate {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = values.len().checked_sub(1)?;
        values.get((share * last as f64).round() as usize).copied().filter(|value| value.is_finite())
    };
    Estimate { value, low: at(0.025), high: at(0.975) }
}

/// Minimises the sum of (X / X(N) - 1)², X / X(N) being linear in (1, sigma, kappa) / lambda. The problem is convex, so the
/// best of the solutions on each face of the bounds is the solution.
fn solve(points: &[(f64, f64)]) -> Option<Law> {
    let scale = points.iter().map(|(threads, throughput)| throughput / threads).fold(0.0, f64::max);
    let rows: Vec<[f64; 3]> = points
        .iter()
        .map(|(threads, throughput)| {
            let weight = throughput / threads / scale;
            [weight, weight * (threads - 1.0), weight * threads * (threads - 1.0)]
        })
        .collect();
    // Each face as the directions that stay free: sigma free, 0 or 1 by kappa free or 0.
    let [inverse, serial, agreement] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let all_serial = [1.0, 1.0, 0.0];
    let faces: [&[[f64; 3]]; 6] = [
        &[inverse, serial, agreement],
        &[inverse, agreement],
        &[all_serial, agreement],
        &[inverse, serial],
        &[inverse],
        &[all_serial],
    ];
    let error = |solution: &[f64; 3]| -> f64 {
        let residual = |row: &[f64; 3]| row.iter().zip(solution).map(|(a, b)| a * b).sum::<f64>() - 1.0;
        rows.iter().map(|row| residual(row).powi(2)).sum()
    };
    let within = |[inverse, serial, agreement]: &[f64; 3]| {
        *inverse > 0.0 && *serial >= 0.0 && serial <= &(inverse * (1.0 + 1e-9)) && *agreement >= 0.0
    };
    let best = faces
        .iter()
        .filter_map(|face| least_squares(&rows, face))
        .filter(within)
        .min_by(|a, b| error(a).total_cmp(&error(b)))?;
    let [inverse, serial, agreement] = best;
    Some(Law { lambda: scale / inverse, sigma: (serial / inverse).min(1.0), kappa: agreement / inverse })
}

/// The solution of `rows * x = 1` among the combinations of `directions`, by the normal equations.
fn least_squares(rows: &[[f64; 3]], directions: &[[f64; 3]]) -> Option<[f64; 3]> {
    let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = directions.len();
    let mut matrix = [[0.0; 4]; 3];
    for row in rows {
        let along: Vec<f64> = directions.iter().map(|direction| dot(row, direction)).collect();
        for i in 0..size {
            for j in 0..size {
                matrix[i][j] += along[i] * along[j];
            }
            matrix[i][3] += along[i];
        }
    }
    let solved = eliminate(matrix, size)?;
    let mut solution = [0.0; 3];
    for (direction, amount) in directions.iter().zip(solved) {
        solution.iter_mut().zip(direction).for_each(|(sum, part)| *sum += amount * part);
    }
    Some(solution)
}

fn eliminate(mut matrix: [[f64; 4]; 3], size: usize) -> Option<[f64; 3]> {
    for column in 0..size {
        let pivot =
            (column..size).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        matrix.swap(column, pivot);
        let row = matrix[column];
        if row[column].abs() < 1e-12 {
            return None;
        }
        for (other, target) in matrix.iter_mut().enumerate().take(size) {
            if other != column {
                let factor = target[column] / row[column];
                target.iter_mut().zip(row).for_each(|(value, above)| *value -= factor * above);
            }
        }
    }
    let mut solution = [0.0; 3];
    for (index, value) in solution.iter_mut().enumerate().take(size) {
        *value = matrix[index][3] / matrix[index][index];
    }
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}

fn r_squared(law: Law, points: &[(f64, f64)]) -> f64 {
    let mean = points.iter().map(|(_, throughput)| throughput).sum::<f64>() / points.len() as f64;
    let total: f64 = points.iter().map(|(_, throughput)| (throughput - mean).powi(2)).sum();
    let left: f64 = points.iter().map(|(threads, throughput)| (throughput - law.at(*threads)).powi(2)).sum();
    if total > 0.0 { 1.0 - left / total } else { 1.0 }
}

#[cfg(test)]
mod tests;
