//! When to try again, and how long to wait before.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

/// How often and how patiently transient failures are retried.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries in a row that may fail without any progress, the first included.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub base: Duration,
    /// The longest pause of our own choice.
    pub max: Duration,
    /// The longest pause a server may impose by `Retry-After`; a longer one ends the fetch.
    pub max_server: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            max: Duration::from_secs(20),
            max_server: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// The pause after `failures` failures in a row, `None` when the tries are used up. `server` is what the
    /// server asked for.
    pub(super) fn pause(&self, failures: u32, server: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        if let Some(asked) = server {
            return (asked <= self.max_server).then(|| asked.max(self.base));
        }
        let doubled =
            self.base.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.max);
        // Between half and all of it, so that a hundred nodes refused at once do not come back at once.
        Some(full.mul_f64(0.5 + 0.5 * random_fraction()))
    }
}

/// `Retry-After` in its form of seconds. Dates are not used by registries and count as absent.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// A number in `0..1`, different in each call. The standard library's hash keys are random.
fn random_fraction() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let policy = RetryPolicy::default();
        for (failures, full_ms) in [(1, 500), (2, 1000), (3, 2000), (5, 8000)] {
            let pause = policy.pause(failures, None).unwrap().as_millis();
            assert!((full_ms / 2..=full_ms).contains(&pause), "{failures}: {pause}");
        }
        let patient = RetryPolicy { attempts: 100, ..policy.clone() };
        assert!(patient.pause(99, None).unwrap() <= patient.max);
        assert_eq!(policy.pause(6, None), None);
    }

    #[test]
    fn the_server_decides_within_bounds() {
        let policy = RetryPolicy::default();
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(policy.pause(1, seconds(7)), seconds(7));
        assert_eq!(policy.pause(1, seconds(0)), Some(policy.base));
        assert_eq!(policy.pause(1, seconds(100_000)), None);
        assert_eq!(retry_after(" 7 "), seconds(7));
        assert_eq!(retry_after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after("-1"), None);
    }
}
