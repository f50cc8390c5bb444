//! Rounds that resemble those before them tell less than as many that do not.

/// Rounds correlated more than this cannot be told from a trend.
const MOST: f64 = 0.8;
/// Fewer rounds say nothing of how they follow each other.
const FEWEST: usize = 6;

/// How many times as wide the interval between two runs must be than rounds independent of each other would make it.
///
/// `series` are the values of arms, each in the order they were measured; what the machine does to one of them it does to
/// all, so they are looked at together. First-order autoregression of the logarithms: with the correlation `r` of
/// neighbouring rounds, corrected for what short series hide of it (Kendall 1954), the factor is the root of
/// `(1 + r) / (1 - r)`. Between 1 and 3; 1 if nothing can be known.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "numbers of rounds are small")]
pub fn widening(series: &[&[f64]]) -> f64 {
    let (mut neighbours, mut all, mut rounds, mut count) = (0.0, 0.0, 0.0, 0.0);
    for values in series.iter().filter(|values| values.len() >= FEWEST) {
        let n = values.len() as f64;
        let logs: Vec<f64> = values.iter().map(|value| value.max(f64::MIN_POSITIVE).ln()).collect();
        let mean = logs.iter().sum::<f64>() / n;
        neighbours += logs.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>();
        all += logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
        rounds += n;
        count += 1.0;
    }
    if count == 0.0 || all <= 0.0 || !all.is_finite() {
        return 1.0;
    }
    let n = rounds / count;
    let correlation = ((n * neighbours / all + 1.0) / (n - 3.0)).clamp(0.0, MOST);
    ((1.0 + correlation) / (1.0 - correlation)).sqrt()
}
