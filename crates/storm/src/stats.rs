//! Statistics of repeated measurements: quantiles, medians, intervals, noise. Pure and without random numbers.
//!
//! Rounds are what is repeated. Launches of one round share its weather (one page cache, one neighbour, one clock
//! frequency), so a thousand launches in ten rounds are ten observations, not a thousand: every interval is made of one
//! value a round.
//!
//! Which intervals, and why not the bootstrap. Coverage in simulation, stated 95 %, normal, skewed, two-peaked and
//! outlier-ridden rounds (the tests repeat it):
//!
//! | interval | 7 rounds | 8 | 10 |
//! |---|---|---|---|
//! | of a median: percentile bootstrap, BCa | 87-88 % | 91-92 % | 93 % |
//! | of a median: t on logarithms | 91-96 % | 90-97 % | 86-96 % |
//! | **of a median: interpolated order statistics** | 94-95 % | 94-95 % | 94-95 % |
//! | **of a ratio: order statistics of all ratios of rounds** | 93-97 % | 93-96 % | 93-96 % |
//!
//! The bootstrap cannot see further than the few rounds it draws from, so it promises too much; where it covers, it finds
//! fewer real differences. Order statistics (Hettmansperger and Sheather 1986 for the median; Mann, Whitney, Hodges and
//! Lehmann for the ratio) assume no distribution, shrug off outliers and give the same answer every time.
//!
//! All of them take rounds to be independent of each other. Arms run in turn share what is slow to change, so their
//! ratio is none the worse; between two runs it is the whole difference, and [`widening`] says how much wider their
//! interval must be.
//!
//! Five rounds or fewer cannot carry 95 %: the interval is then the whole range, and [`Interval::confidence`] says what
//! that is worth.
//!
//! How many rounds a difference of 10 % needs to be called one in nine storms of ten: 7 if rounds differ by 4 %
//! (coefficient of variation), 10 if by 5 %, 18 if by 8 %. [`DEFAULT_ROUNDS`] is 10.

use serde::{Deserialize, Serialize};

mod dependence;
mod interval;
mod noise;
#[cfg(test)]
mod tests;

pub use dependence::widening;
pub use interval::{Interval, Ratio};
pub use noise::{Drift, coefficient_of_variation, drift, outliers};

/// Rounds that find a slowdown of 10 % when rounds differ by 5 %.
pub const DEFAULT_ROUNDS: u32 = 10;

/// Quantiles of a set of samples, by nearest rank: the smallest sample that at least so many percent do not exceed. Every
/// one of them was measured; none is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile; of fewer than 100 samples it is the largest.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Quantiles {
    /// None of no samples.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |percent: usize| sorted[(percent * sorted.len()).div_ceil(100).saturating_sub(1).min(last)];
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max: sorted[last] })
    }

    /// Of a histogram: values and how often each was seen. None if nothing was.
    #[must_use]
    pub fn weighted(histogram: &[(f64, u64)]) -> Option<Self> {
        let mut bins: Vec<(f64, u64)> = histogram.iter().copied().filter(|&(_, count)| count > 0).collect();
        bins.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: u128 = bins.iter().map(|&(_, count)| u128::from(count)).sum();
        let max = bins.last()?.0;
        let at = |percent: u128| {
            let rank = (percent * total).div_ceil(100).max(1);
            let mut seen = 0_u128;
            let reached = bins.iter().find(|&&(_, count)| {
                seen += u128::from(count);
                seen >= rank
            });
            reached.map_or(max, |&(value, _)| value)
        };
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max })
    }

    /// The same, with every value passed through `f`.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { p50: f(self.p50), p90: f(self.p90), p99: f(self.p99), max: f(self.max) }
    }
}

/// The middle value, or the mean of the two in the middle; none of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    median_sorted(&sorted(values))
}

pub(crate) fn median_sorted(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        // Halved first: the sum of two large values may be no number.
        _ => Some(sorted[n / 2 - 1] / 2.0 + sorted[n / 2] / 2.0),
    }
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
