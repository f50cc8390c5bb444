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
//! the law fits: that is what the error is for, the root mean square of what is minimised. R² would not do: of a lock that
//! is saturated and loses nothing the curve is flat, the law is right, and all that is left to explain is noise. It
//! refuses to fit fewer than three different numbers of threads.

use serde::{Deserialize, Serialize};

use super::random::{Random, median};

/// The law has three unknowns.
const FEWEST_COUNTS: usize = 3;

/// Intervals of fewer rounds are too narrow: those of 3 rounds held the truth 74 times in 100 where 95 were stated.
pub const FEWEST_ROUNDS: usize = 5;

/// A larger error says that the law does not describe the curve.
pub const WORST_ERROR: f64 = 0.1;

/// How often rounds are resampled.
const RESAMPLES: usize = 1000;

/// Machines the law is asked about: the incident's sizes.
pub const PREDICTED: [usize; 3] = [48, 96, 192];

/// Throughput with one number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Threads that contend.
    pub contenders: usize,
    /// Operations a second in each round.
    pub ops_per_s: Vec<f64>,
}

/// A figure with the interval it lies in with 95 %; none with fewer rounds than [`FEWEST_ROUNDS`].
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
    /// How far the law is off, as a part of the law's throughput: the root mean square over the curve's points. Above
    /// [`WORST_ERROR`] it does not describe this curve.
    pub error: f64,
    /// With how many contending threads throughput is highest; None if it never falls.
    pub peak_contenders: Option<Estimate>,
    /// The numbers of contending threads that were measured.
    pub measured_contenders: Vec<usize>,
    /// How many rounds each.
    pub rounds: usize,
    /// What the law says about more threads than were measured. No measurement.
    pub predictions: Vec<Prediction>,
}

impl Fit {
    /// Whether the law describes the curve: whether its predictions are worth anything.
    pub fn describes(&self) -> bool {
        self.error <= WORST_ERROR
    }
}

/// What the law says about a number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// All threads.
    pub threads: usize,
    /// Those of them that contend.
    pub contenders: usize,
    /// Operations a second of all that contend together.
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
    #[error("with {contenders} contending threads nothing was done")]
    NoThroughput {
        /// That point.
        contenders: usize,
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

/// Fits the law to medians over rounds, resampled with `seed`. `contenders` says how many of so many threads contend:
/// what is predicted is for machines of so many, the others running beside.
///
/// # Errors
/// With fewer than three different numbers of threads, or if a point has no throughput.
pub fn fit(observed: &[Observed], contenders: impl Fn(usize) -> usize, seed: u64) -> Result<Fit, NoFit> {
    let mut observed: Vec<&Observed> = observed.iter().filter(|one| one.contenders > 0).collect();
    observed.sort_by_key(|one| one.contenders);
    let mut counts: Vec<usize> = observed.iter().map(|one| one.contenders).collect();
    counts.dedup();
    if counts.len() < FEWEST_COUNTS {
        return Err(NoFit::TooFewCounts { found: counts });
    }
    let points: Vec<(f64, f64)> =
        observed.iter().map(|one| (one.contenders as f64, median(&one.ops_per_s))).collect();
    if let Some((contenders, _)) = points.iter().find(|(_, throughput)| *throughput <= 0.0) {
        return Err(NoFit::NoThroughput { contenders: *contenders as usize });
    }
    let law = solve(&points).ok_or(NoFit::Undetermined)?;
    let rounds = observed.iter().map(|one| one.ops_per_s.len()).min().unwrap_or(0);
    let resampled = if rounds < FEWEST_ROUNDS { Vec::new() } else { resample(&observed, rounds, seed) };
    let estimate = |value: f64, of: &dyn Fn(&Law) -> f64| interval(value, resampled.iter().map(of).collect());
    let largest = counts.last().copied().unwrap_or(0);
    let predicted = PREDICTED.into_iter().map(|threads| (threads, contenders(threads)));
    Ok(Fit {
        lambda: estimate(law.lambda, &|law| law.lambda),
        sigma: estimate(law.sigma, &|law| law.sigma),
        kappa: estimate(law.kappa, &|law| law.kappa),
        error: error(law, &points),
        peak_contenders: law.peak().map(|peak| estimate(peak, &|law| law.peak().unwrap_or(f64::INFINITY))),
        measured_contenders: counts,
        rounds,
        predictions: predicted
            .filter(|(_, contenders)| *contenders > largest)
            .map(|(threads, contenders)| Prediction {
                threads,
                contenders,
                ops_per_s: estimate(law.at(contenders as f64), &|law| law.at(contenders as f64)),
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
            (one.contenders as f64, median(&values))
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
    // The normal equations of all three; those of each face are made of them.
    let mut squares = [[0.0; 3]; 3];
    let mut sums = [0.0; 3];
    for row in &rows {
        for i in 0..3 {
            (0..3).for_each(|j| squares[i][j] += row[i] * row[j]);
            sums[i] += row[i];
        }
    }
    let error = |solution: &[f64; 3]| -> f64 {
        let residual = |row: &[f64; 3]| row.iter().zip(solution).map(|(a, b)| a * b).sum::<f64>() - 1.0;
        rows.iter().map(|row| residual(row).powi(2)).sum()
    };
    let within = |[inverse, serial, agreement]: &[f64; 3]| {
        *inverse > 0.0 && *serial >= 0.0 && serial <= &(inverse * (1.0 + 1e-9)) && *agreement >= 0.0
    };
    let best = faces
        .iter()
        .filter_map(|face| least_squares(&squares, &sums, face))
        .filter(within)
        .min_by(|a, b| error(a).total_cmp(&error(b)))?;
    let [inverse, serial, agreement] = best;
    Some(Law { lambda: scale / inverse, sigma: (serial / inverse).min(1.0), kappa: agreement / inverse })
}

/// The least squares among the combinations of `directions`, of the normal equations `squares * x = sums`.
fn least_squares(squares: &[[f64; 3]; 3], sums: &[f64; 3], directions: &[[f64; 3]]) -> Option<[f64; 3]> {
    let mut matrix = [[0.0; 4]; 3];
    for (i, one) in directions.iter().enumerate() {
        let along = [0, 1, 2].map(|column| (0..3).map(|row| one[row] * squares[row][column]).sum::<f64>());
        for (j, other) in directions.iter().enumerate() {
            matrix[i][j] = (0..3).map(|column| along[column] * other[column]).sum();
        }
        matrix[i][3] = (0..3).map(|row| one[row] * sums[row]).sum();
    }
    let solved = eliminate(matrix, directions.len())?;
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

/// The root mean square of what the fit minimises.
fn error(law: Law, points: &[(f64, f64)]) -> f64 {
    let off = |(threads, throughput): &(f64, f64)| (throughput / law.at(*threads) - 1.0).powi(2);
    (points.iter().map(off).sum::<f64>() / points.len() as f64).sqrt()
}

#[cfg(test)]
mod tests;
