//! Signs that a run was noisy: spread and drift from round to round, and rounds far from the rest.
//!
//! Nothing is thrown away on their account. Outliers are kept and named: what slowed one round down may be what the storm
//! is there to find.

use super::{median, median_sorted};

/// Rounds further from the median than so many robust standard deviations are named.
const FAR: f64 = 3.5;
/// A robust standard deviation below this share of the median counts as this: of ten rounds it is too uncertain to call
/// what is within a fifth of the median far.
const FINEST: f64 = 0.05;
/// Drift is named when chance makes so clear an order in one run of a hundred.
const DRIFT_Z: f64 = 2.576;
/// Rounds looked at: comparing every pair of more would take for ever.
const MOST_ROUNDS: usize = 1000;

/// A change from the first round to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// What the last round is to the first, along the median slope: 1.2 is 20 % slower.
    pub factor: f64,
}

/// Standard deviation as a share of the mean; none of fewer than two values, or of nothing above zero.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "numbers of rounds are small")]
pub fn coefficient_of_variation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v / n).sum::<f64>();
    if values.len() < 2 || !mean.is_finite() || mean <= 0.0 {
        return None;
    }
    // Relative first: squares of large values overflow.
    let variance = values.iter().map(|v| (v / mean - 1.0).powi(2)).sum::<f64>() / (n - 1.0);
    Some(variance.sqrt())
}

/// Whether values in the order they were measured rise or fall more than chance explains: Mann-Kendall for whether,
/// Theil-Sen for how much. Needs six.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "numbers of rounds are small")]
pub fn drift(values: &[f64]) -> Option<Drift> {
    let values = &values[..values.len().min(MOST_ROUNDS)];
    let n = values.len();
    let middle = median(values)?;
    if n < 6 || middle <= 0.0 {
        return None;
    }
    let mut order = 0.0;
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    for (i, early) in values.iter().enumerate() {
        for (j, late) in values.iter().enumerate().skip(i + 1) {
            let rise = late / middle - early / middle;
            order += if rise > 0.0 { 1.0 } else { f64::from(-i8::from(rise < 0.0)) };
            slopes.push(rise / (j - i) as f64);
        }
    }
    let nf = n as f64;
    let spread = (nf * (nf - 1.0) * (2.0 * nf + 5.0) / 18.0).sqrt();
    if (order.abs() - 1.0) / spread < DRIFT_Z {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    let half = median_sorted(&slopes)? * (nf - 1.0) / 2.0;
    // From half the change below the median to half above it; a fall to nothing is not told from its steepness.
    Some(Drift { factor: (1.0 + half).max(0.01) / (1.0 - half).max(0.01) })
}

/// Positions of the values far from the rest, on a scale of ratios. Needs five.
#[must_use]
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let logs: Vec<f64> = values.iter().map(|v| v.max(f64::MIN_POSITIVE).ln()).collect();
    let Some(middle) = median(&logs).filter(|_| values.len() >= 5) else { return Vec::new() };
    let away: Vec<f64> = logs.iter().map(|log| (log - middle).abs()).collect();
    // 1.4826 makes the median distance from the median a standard deviation, of normal values.
    let spread = (1.4826 * median(&away).unwrap_or(0.0)).max(FINEST);
    (0..values.len()).filter(|&i| away[i] > FAR * spread).collect()
}
