//! Durations by the million, in constant memory: 64 buckets for each power of two, so quantiles are within 1.6 %.

use serde::{Deserialize, Serialize};

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;

/// Quantiles, in the unit of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The largest, exact.
    pub max: f64,
}

/// Nanoseconds; kept in picoseconds, since an uncontended lock takes a few nanoseconds only.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Adds `weight` samples of `ns / weight` each: what a batch of that many operations is known by.
    pub(super) fn add_batch(&mut self, ns: u64, weight: u32) {
        let value = ns.saturating_mul(1000) / u64::from(weight.max(1));
        let index = index(value);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += u64::from(weight);
        self.total += u64::from(weight);
        self.max = self.max.max(value);
    }

    /// Adds all samples of another.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// None without samples.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        (self.total > 0).then(|| Quantiles {
            p50: self.quantile(0.50),
            p90: self.quantile(0.90),
            p99: self.quantile(0.99),
            max: self.max as f64 / 1000.0,
        })
    }

    fn quantile(&self, q: f64) -> f64 {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        index.map_or(self.max, |index| middle(index).min(self.max)) as f64 / 1000.0
    }
}

/// Values below `BUCKETS` have a bucket each; above, the leading bits choose one.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    shift as usize * BUCKETS + (value >> shift) as usize
}

fn middle(index: usize) -> u64 {
    let shift = (index / BUCKETS).saturating_sub(1) as u32;
    let leading = (index - shift as usize * BUCKETS) as u64;
    (leading << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_samples(samples in prop::collection::vec(0_u64..10_000_000_000, 1..300)) {
            let mut histogram = Histogram::default();
            let (low, high) = samples.split_at(samples.len() / 2);
            low.iter().for_each(|ns| histogram.add_batch(*ns, 1));
            let mut other = Histogram::default();
            high.iter().for_each(|ns| other.add_batch(*ns, 1));
            histogram.merge(&other);
            let mut sorted = samples.clone();
            sorted.sort_unstable();
            let exact = |q: f64| sorted[((sorted.len() as f64 * q).ceil() as usize).max(1) - 1] as f64;
            let found = histogram.quantiles().unwrap();
            for (found, exact) in [(found.p50, exact(0.5)), (found.p90, exact(0.9)), (found.p99, exact(0.99))] {
                prop_assert!((found - exact).abs() <= exact * 0.016 + 0.001, "{found} is not {exact}");
            }
            prop_assert_eq!(found.max, exact(1.0));
        }
    }

    #[test]
    fn a_batch_counts_as_its_operations() {
        let mut histogram = Histogram::default();
        histogram.add_batch(990, 99);
        histogram.add_batch(500, 1);
        let found = histogram.quantiles().unwrap();
        assert!((found.p50 - 10.0).abs() < 0.2 && (found.p99 - 10.0).abs() < 0.2, "{found:?}");
        assert_eq!(found.max, 500.0);
        assert_eq!(Histogram::default().quantiles(), None);
    }

    #[test]
    fn extremes_have_buckets() {
        for value in [0, 1, 63, 64, 127, 128, u64::MAX] {
            let back = middle(index(value));
            assert!(back.abs_diff(value) as f64 <= value as f64 / 64.0, "{value} became {back}");
        }
    }
}
