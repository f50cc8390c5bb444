//! Times in bins: as wide as a 32nd of what they hold, so that no quantile is off by more than 1.6 %.
//!
//! ```text
//! 0 1 2 ... 63 | 64 66 68 ... 126 | 128 132 ... 252 | ...    nanoseconds; 32 bins a power of two
//! ```

use std::time::Duration;

/// Bins of a power of two.
const PARTS: u64 = 32;
const PARTS_LOG2: u32 = PARTS.trailing_zeros();
/// The last power of two that has bins of its own, 2^42 ns: longer times (over an hour) count as that.
const LAST: u32 = 42;
const BINS: usize = ((LAST - PARTS_LOG2 + 2) as usize) * PARTS as usize;

/// How often which time was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Histogram(Vec<u64>);

impl Histogram {
    pub(super) fn new() -> Self {
        Self(vec![0; BINS])
    }

    /// Adds it so many times.
    pub(super) fn add(&mut self, time: Duration, times: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get_mut(bin(ns)) {
            *count += times;
        }
    }

    /// Middle of each bin in microseconds, and how often; bins with nothing are left out.
    pub(super) fn bins_us(&self) -> Vec<(f64, u64)> {
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bin, count)| (middle_ns(bin) / 1e3, *count)).collect()
    }
}

fn bin(ns: u64) -> usize {
    // Below twice the parts a bin holds one value.
    let power = ns.checked_ilog2().unwrap_or(0).clamp(PARTS_LOG2, LAST);
    let shift = power - PARTS_LOG2;
    let part = (ns >> shift).min(2 * PARTS - 1);
    (u64::from(shift) * PARTS + part) as usize
}

fn middle_ns(bin: usize) -> f64 {
    let shift = (bin as u64 / PARTS).saturating_sub(1);
    let first = (bin as u64 - shift * PARTS) << shift;
    first as f64 + ((1u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_times_are_exact() {
        for ns in 0..64 {
            assert_eq!(middle_ns(bin(ns)), ns as f64);
        }
        assert_eq!((bin(64), bin(65), bin(66)), (64, 64, 65));
    }

    #[test]
    fn the_longest_times_share_the_last_bin() {
        assert_eq!(bin(u64::MAX), BINS - 1);
        assert_eq!(bin((1 << (LAST + 1)) - 1), BINS - 1);
        assert!(bin(1 << LAST) < BINS - 1);
    }

    #[test]
    fn times_come_out_rising_with_their_counts() {
        let mut histogram = Histogram::new();
        for us in [1500, 3, 3, 40] {
            histogram.add(Duration::from_micros(us), 1);
        }
        let bins = histogram.bins_us();
        assert_eq!(bins.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 1]);
        for ((us, _), expected) in bins.into_iter().zip([3.0, 40.0, 1500.0]) {
            assert!((us / expected - 1.0).abs() < 0.016, "{us} for {expected}");
        }
    }

    proptest! {
        #[test]
        fn a_bin_is_at_most_a_32nd_wide_and_its_middle_close(ns in 1u64..(1 << LAST)) {
            let middle = middle_ns(bin(ns));
            prop_assert!((middle - ns as f64).abs() <= ns as f64 / 64.0, "{middle} for {ns}");
        }

        #[test]
        fn bins_rise(a in 0u64..(1 << LAST), b in 0u64..(1 << LAST)) {
            prop_assert!(bin(a.min(b)) <= bin(a.max(b)));
            prop_assert_eq!(bin(a) == bin(b), middle_ns(bin(a)) == middle_ns(bin(b)));
        }
    }
}
