//! Confidence intervals from order statistics: of a median, and of the ratio between two sets of rounds.

use serde::{Deserialize, Serialize};

use super::{median_sorted, sorted};

/// What intervals promise when there are rounds enough.
const CONFIDENCE: f64 = 0.95;
/// Two normal standard deviations, nearly: the 97.5th percentile.
const Z: f64 = 1.96;
/// Beyond so many rounds the normal approximation of a count of signs is exact to three digits.
const MANY_ROUNDS: usize = 60;
/// Beyond so many pairs of rounds the same holds for ranks.
const MANY_PAIRS: usize = 1600;
/// Rounds of one side that ratios are made of: their number is a product.
const MOST_ROUNDS: usize = 1000;

/// Where a value lies; as JSON `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// How often such an interval holds the true value: 0.95, or less of too few rounds. Not part of the JSON.
    pub confidence: f64,
}

impl Serialize for Interval {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.lo, self.hi].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [lo, hi] = <[f64; 2]>::deserialize(deserializer)?;
        Ok(Self { lo, hi, confidence: CONFIDENCE })
    }
}

impl Interval {
    /// Of the median of what these values were drawn from: interpolated order statistics. None of fewer than two values.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "numbers of rounds are small")]
    pub fn of_median(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let n = sorted.len();
        if n < 2 {
            return None;
        }
        // The k-th smallest and the k-th largest hold the median unless fewer than k values lie on one side of it.
        let below = signs(n);
        let covered = |k: usize| 1.0 - 2.0 * below.get(k - 1).copied().unwrap_or(0.5).min(0.5);
        let mut k = 1;
        while k < n / 2 && covered(k + 1) >= CONFIDENCE {
            k += 1;
        }
        let (outer, inner) = (covered(k), if k < n / 2 { covered(k + 1) } else { 0.0 });
        let whole = Self { lo: sorted[0], hi: sorted[n - 1], confidence: outer };
        if outer < CONFIDENCE || k >= n / 2 {
            return Some(whole);
        }
        // Between the two pairs of order statistics that cover too much and too little, as Hettmansperger and Sheather.
        let excess = (outer - CONFIDENCE) / (outer - inner);
        let (nf, kf) = (n as f64, k as f64);
        let inward = (nf - kf) * excess / (kf + (nf - 2.0 * kf) * excess);
        let between = |from: f64, to: f64| from * (1.0 - inward) + to * inward;
        Some(Self {
            lo: between(sorted[k - 1], sorted[k]),
            hi: between(sorted[n - k], sorted[n - k - 1]),
            confidence: CONFIDENCE,
        })
    }

    /// Whether the two have a value in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lo <= other.hi && other.lo <= self.hi
    }

    /// Whether the value lies inside.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.lo..=self.hi).contains(&value)
    }

    /// The same, made wide enough to hold the value.
    #[must_use]
    pub fn including(self, value: f64) -> Self {
        Self { lo: self.lo.min(value), hi: self.hi.max(value), ..self }
    }

    /// The same, with both ends passed through `f`.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { lo: f(self.lo), hi: f(self.hi), ..self }
    }
}

/// How many times as much as another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The median of the ratios of every round of one to every round of the other.
    pub value: f64,
    /// Where the true ratio lies; none if a side has a single round.
    pub interval: Option<Interval>,
}

impl Ratio {
    /// Of `these` to `those`: 2 if these take twice as long. None if a side has nothing above zero.
    ///
    /// Exact where the two differ by a factor alone; in simulation 93 to 97 % where their shapes differ as well. Rounds
    /// run in turn share the machine's slow changes, which makes the interval wider than it need be, never narrower.
    #[must_use]
    pub fn of(these: &[f64], those: &[f64]) -> Option<Self> {
        let usable = |values: &[f64]| -> Vec<f64> {
            values.iter().copied().filter(|v| v.is_finite() && *v > 0.0).take(MOST_ROUNDS).collect()
        };
        let (these, those) = (usable(these), usable(those));
        let mut ratios: Vec<f64> = these.iter().flat_map(|a| those.iter().map(move |b| a / b)).collect();
        ratios.sort_by(f64::total_cmp);
        let value = median_sorted(&ratios)?;
        let (m, n) = (these.len(), those.len());
        if m < 2 || n < 2 {
            return Some(Self { value, interval: None });
        }
        let (k, confidence) = rank(m, n);
        let interval = Interval { lo: ratios[k - 1], hi: ratios[m * n - k], confidence };
        Some(Self { value, interval: Some(interval) })
    }

    /// The same, its interval so many times as wide, on a scale of ratios.
    #[must_use]
    pub fn widened(self, times: f64) -> Self {
        let away = |end: f64| self.value * (end / self.value).powf(times);
        Self { interval: self.interval.map(|interval| interval.map(away)), ..self }
    }
}

/// The chance that at most so many of n values lie below their median: 0, 1, ... up to the half.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of rounds are small, and what is truncated is positive"
)]
fn signs(n: usize) -> Vec<f64> {
    if n > MANY_ROUNDS {
        // Only where 0.025 is crossed matters.
        let last = (n as f64 / 2.0 - Z / 2.0 * (n as f64).sqrt() - 0.5).max(0.0) as usize;
        let mut chances = vec![0.0; last];
        chances.extend([0.025, 0.5]);
        return chances;
    }
    let mut chance = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    let mut chances = Vec::new();
    for k in 0..=n / 2 {
        sum += chance;
        chances.push(sum);
        chance *= (n - k) as f64 / (k + 1) as f64;
    }
    chances
}

/// Which ratios, counted from both ends of the m times n, enclose the true one, and how surely.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most a million pairs, and what is truncated is positive"
)]
fn rank(m: usize, n: usize) -> (usize, f64) {
    let pairs = m * n;
    if pairs > MANY_PAIRS {
        let spread = (pairs as f64 * (m + n + 1) as f64 / 12.0).sqrt();
        return (((pairs as f64 / 2.0 - Z * spread).max(1.0) as usize).max(1), CONFIDENCE);
    }
    // How many orders of m and n values have u inversions: the Mann-Whitney distribution, as the coefficients of a
    // Gaussian binomial, built one factor at a time.
    let mut chances = vec![0.0_f64; pairs + 1];
    chances[0] = 1.0;
    for i in 1..=m {
        // Times (1 - q^(n+i)) / (1 - q^i), and divided by the ratio of totals to stay a probability.
        for u in (n + i..=pairs).rev() {
            chances[u] -= chances[u - n - i];
        }
        for u in i..=pairs {
            chances[u] += chances[u - i];
        }
        let share = i as f64 / (n + i) as f64;
        chances.iter_mut().for_each(|c| *c *= share);
    }
    let mut below = 0.0;
    let mut k = 0;
    while k < pairs / 2 && below + chances[k] <= (1.0 - CONFIDENCE) / 2.0 {
        below += chances[k];
        k += 1;
    }
    match k {
        0 => (1, 1.0 - 2.0 * chances[0]),
        _ => (k, CONFIDENCE),
    }
}
