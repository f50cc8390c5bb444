//! From values to places: linear from zero, or logarithmic where a linear axis would hide the small ones.

/// Values further apart than this are shown on a logarithmic axis.
const WIDE: f64 = 20.0;
/// Nothing measured is larger.
const LARGEST: f64 = 1e15;
/// Decades of one axis; what is smaller is drawn at its end.
const DEEPEST: f64 = 1e12;

/// An axis.
#[derive(Debug, Clone, Copy)]
pub(in crate::report) struct Scale {
    pub(in crate::report) log: bool,
    min: f64,
    max: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// For these values, from one place to another. Linear axes begin at zero.
    pub(in crate::report) fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let usable: Vec<f64> = values.filter(|v| (0.0..=LARGEST).contains(v)).collect();
        let max = usable.iter().copied().fold(0.0, f64::max);
        let least = usable.iter().copied().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        if max <= 0.0 {
            return Self { log: false, min: 0.0, max: 1.0, from, to };
        }
        if max / least > WIDE {
            let (min, max) = (10_f64.powf((least.max(max / DEEPEST) * 0.999).log10().floor()), loosened(max));
            return Self { log: true, min, max, from, to };
        }
        Self { log: false, min: 0.0, max: max * 1.06, from, to }
    }

    /// Linear between two values.
    pub(in crate::report) fn linear(min: f64, max: f64, from: f64, to: f64) -> Self {
        Self { log: false, min, max, from, to }
    }

    /// Along what was asked for (numbers at once, layers): logarithmic if they grow by factors.
    pub(in crate::report) fn along(values: &[f64], from: f64, to: f64) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(0.0, f64::max);
        match min < max {
            true => Self { log: min > 0.0 && max / min > 8.0, min, max, from, to },
            false => Self { log: false, min: min - 1.0, max: min + 1.0, from, to },
        }
    }

    /// Where a value is; what is beyond an end, at the end.
    pub(in crate::report) fn at(&self, value: f64) -> f64 {
        let along = match self.log {
            true => (value.max(self.min) / self.min).ln() / (self.max / self.min).ln(),
            false => (value - self.min) / (self.max - self.min),
        };
        self.from + (self.to - self.from) * along.clamp(0.0, 1.0)
    }

    /// Round values along it: four to seven.
    pub(in crate::report) fn ticks(&self) -> Vec<f64> {
        if !self.log {
            let rough = (self.max - self.min) / 4.0;
            let size = 10_f64.powf(rough.log10().floor());
            let step =
                [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * size).find(|s| *s >= rough).unwrap_or(rough);
            return (0..=8).map(|i| self.min + f64::from(i) * step).filter(|t| *t <= self.max).collect();
        }
        let first = self.min.log10().round();
        let decades = (self.max / self.min).log10();
        let every: f64 = (decades / 6.0).ceil().max(1.0);
        let within: &[f64] = if decades <= 2.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut ticks = Vec::new();
        let mut decade = first;
        while ticks.len() < 24 && 10_f64.powf(decade) <= self.max * 1.001 {
            ticks.extend(within.iter().map(|m| m * 10_f64.powf(decade)).filter(|t| *t <= self.max * 1.001));
            decade += every;
        }
        ticks
    }
}

/// A little above the largest value of a logarithmic axis.
fn loosened(max: f64) -> f64 {
    max * 1.3
}
