//! Statistics held to distributions whose truth is known.

use std::f64::consts::{LN_2, PI};

use proptest::prelude::*;

use super::*;

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (2.0 * PI * self.uniform()).cos()
    }
}

/// How rounds may be spread; the median of each is 1.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Log-normal.
    Normal(f64),
    /// Never faster than the machine can, sometimes much slower.
    Skewed(f64),
    /// Log-normal, and every tenth round up to 1.8 times as long.
    Outliers(f64),
    /// Three rounds of ten are 20 % slower: two clock frequencies.
    TwoPeaks,
}

impl Shape {
    fn draw(self, random: &mut Random) -> f64 {
        match self {
            Self::Normal(cv) => (cv * random.normal()).exp(),
            Self::Skewed(cv) => (1.0 - cv * (1.0 - random.uniform()).ln()) / (1.0 + cv * LN_2),
            Self::Outliers(cv) => {
                let late = if random.uniform() < 0.1 { 1.0 + 0.8 * random.uniform() } else { 1.0 };
                (cv * random.normal()).exp() * late
            }
            Self::TwoPeaks => (0.03 * random.normal()).exp() * if random.uniform() < 0.3 { 1.2 } else { 1.0 },
        }
    }

    fn rounds(self, n: usize, random: &mut Random) -> Vec<f64> {
        (0..n).map(|_| self.draw(random)).collect()
    }

    /// The true median, by brute force where there is no formula.
    fn median(self) -> f64 {
        match self {
            Self::Normal(_) | Self::Skewed(_) => 1.0,
            Self::Outliers(_) | Self::TwoPeaks => median(&self.rounds(200_001, &mut Random(1))).unwrap(),
        }
    }
}

const SHAPES: [Shape; 5] =
    [Shape::Normal(0.05), Shape::Normal(0.3), Shape::Skewed(0.2), Shape::Outliers(0.05), Shape::TwoPeaks];

fn share(times: usize, mut happens: impl FnMut() -> bool) -> f64 {
    (0..times).filter(|_| happens()).count() as f64 / times as f64
}

#[test]
fn quantiles_are_nearest_rank() {
    let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    let q = Quantiles::of(&samples).unwrap();
    assert_eq!((q.p50, q.p90, q.p99, q.max), (100.0, 180.0, 198.0, 200.0));
    assert_eq!(Quantiles::of(&[7.0]).unwrap(), Quantiles { p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
    assert_eq!(Quantiles::of(&[]), None);
    let bins: Vec<(f64, u64)> = (1..=200).map(|v| (f64::from(v), 1)).collect();
    assert_eq!(Quantiles::weighted(&bins).unwrap(), q);
    assert_eq!(Quantiles::weighted(&[(1.0, u64::MAX), (2.0, u64::MAX), (9.0, 0)]).unwrap().max, 2.0);
    assert_eq!(Quantiles::weighted(&[(1.0, 0)]), None);
}

#[test]
fn medians() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(median(&[f64::MAX, f64::MAX]), Some(f64::MAX));
}

/// The promise: near 95 % already with the few rounds people run, whatever the shape.
#[test]
fn intervals_of_medians_cover_95_percent() {
    let mut random = Random(11);
    for shape in SHAPES {
        let truth = shape.median();
        for n in [6, 7, 8, 10, 15, 80] {
            let covered =
                share(4000, || Interval::of_median(&shape.rounds(n, &mut random)).unwrap().contains(truth));
            assert!((0.925..0.97).contains(&covered), "{shape:?}, {n} rounds: {covered}");
        }
    }
}

/// Why not the usual bootstrap: it promises 95 % and keeps 88 % with seven rounds.
#[test]
fn the_percentile_bootstrap_promises_too_much() {
    let mut random = Random(12);
    let covered = share(1500, || {
        let rounds = Shape::Normal(0.05).rounds(7, &mut random);
        let mut medians: Vec<f64> = (0..400)
            .map(|_| {
                let drawn: Vec<f64> = (0..7).map(|_| rounds[(random.uniform() * 7.0) as usize]).collect();
                median(&drawn).unwrap()
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        (medians[9]..=medians[389]).contains(&1.0)
    });
    assert!(covered < 0.91, "{covered}: then the simpler bootstrap would do");
}

#[test]
fn intervals_of_ratios_cover_95_percent() {
    let mut random = Random(13);
    let pairs = SHAPES.map(|shape| (shape, shape));
    for (these, those) in pairs.into_iter().chain([(Shape::Normal(0.05), Shape::Outliers(0.05))]) {
        let truth = 3.0 * these.median() / those.median();
        for n in [4, 7, 8, 10, 15] {
            let covered = share(3000, || {
                let slow: Vec<f64> = these.rounds(n, &mut random).iter().map(|v| 3.0 * v).collect();
                Ratio::of(&slow, &those.rounds(n, &mut random)).unwrap().interval.unwrap().contains(truth)
            });
            assert!((0.925..0.985).contains(&covered), "{these:?}, {those:?}, {n} rounds: {covered}");
        }
    }
}

/// Few rounds carry less than 95 %, and the interval says how much.
#[test]
fn few_rounds_say_what_they_are_worth() {
    let mut random = Random(14);
    for n in 2..=5 {
        let stated = Interval::of_median(&Shape::TwoPeaks.rounds(n, &mut random)).unwrap().confidence;
        let exact = 1.0 - 2.0 * 0.5_f64.powi(n as i32);
        assert!((stated - exact).abs() < 1e-9, "{n}: {stated}");
        let covered = share(4000, || {
            Interval::of_median(&Shape::Normal(0.1).rounds(n, &mut random)).unwrap().contains(1.0)
        });
        assert!((covered - stated).abs() < 0.025, "{n}: {covered}, stated {stated}");
    }
    for (n, exact) in [(2, 1.0 - 2.0 / 6.0), (3, 0.9)] {
        let rounds = Shape::Normal(0.1).rounds(n, &mut random);
        let stated = Ratio::of(&rounds, &rounds).unwrap().interval.unwrap().confidence;
        assert!((stated - exact).abs() < 1e-9, "{n}: {stated}");
    }
    assert_eq!(Interval::of_median(&[1.0]), None);
    assert_eq!(Ratio::of(&[2.0], &[1.0, 1.0]).unwrap(), Ratio { value: 2.0, interval: None });
    assert_eq!(Ratio::of(&[], &[1.0]), None);
    assert_eq!(Ratio::of(&[0.0, f64::NAN], &[1.0]), None);
}

/// Exact tables: 7 against 7 is the 9th of 49 from either end, 10 against 10 the 24th of 100.
#[test]
fn ranks_are_those_of_the_mann_whitney_tables() {
    for (n, k) in [(5, 3), (7, 9), (8, 14), (10, 24)] {
        let low: Vec<f64> = (0..n).map(|i| 1.0 + f64::from(i) / 100.0).collect();
        let interval = Ratio::of(&low, &low).unwrap().interval.unwrap();
        let mut all: Vec<f64> = low.iter().flat_map(|a| low.iter().map(move |b| a / b)).collect();
        all.sort_by(f64::total_cmp);
        assert_eq!((interval.lo, interval.hi), (all[k - 1], all[all.len() - k]), "{n}");
    }
}

/// Two storms of one arm agree within their stated intervals: at least nine times in ten.
#[test]
fn two_storms_of_one_arm_agree() {
    let mut random = Random(15);
    for shape in SHAPES {
        let agreed = share(2000, || {
            let mut storm = || shape.rounds(DEFAULT_ROUNDS as usize, &mut random);
            let (one, other) = (storm(), storm());
            let both = Interval::of_median(&one).zip(Interval::of_median(&other));
            let ratio = Ratio::of(&one, &other).unwrap().interval.unwrap();
            both.is_some_and(|(a, b)| a.overlaps(&b)) && ratio.contains(1.0)
        });
        assert!(agreed >= 0.93, "{shape:?}: {agreed}");
    }
}

/// What the default number of rounds is chosen for.
#[test]
fn a_slowdown_of_ten_percent_is_found() {
    let mut random = Random(16);
    let mut found = |shape: Shape, n: usize| {
        share(2000, || {
            let slow: Vec<f64> = shape.rounds(n, &mut random).iter().map(|v| 1.1 * v).collect();
            let ratio = Ratio::of(&slow, &shape.rounds(n, &mut random)).unwrap();
            ratio.interval.unwrap().lo > 1.0 && ratio.value > 1.05
        })
    };
    let default = DEFAULT_ROUNDS as usize;
    for (shape, rounds, least) in [
        (Shape::Normal(0.04), 7, 0.9),
        (Shape::Normal(0.05), default, 0.93),
        (Shape::Outliers(0.03), default, 0.9),
        (Shape::Normal(0.08), 18, 0.9),
    ] {
        let share = found(shape, rounds);
        assert!(share >= least, "{shape:?}, {rounds} rounds: {share}");
    }
}

#[test]
fn spread_drift_and_outliers_are_seen() {
    assert_eq!(coefficient_of_variation(&[1.0]), None);
    assert!((coefficient_of_variation(&[90.0, 110.0]).unwrap() - 0.1414).abs() < 1e-3);
    let rising: Vec<f64> = (0..10).map(|i| 100.0 + 3.0 * f64::from(i)).collect();
    let factor = drift(&rising).unwrap().factor;
    assert!((factor - 1.27).abs() < 0.03, "{factor}");
    let falling: Vec<f64> = rising.iter().rev().copied().collect();
    assert!((drift(&falling).unwrap().factor * factor - 1.0).abs() < 1e-9);
    assert_eq!(drift(&rising[..5]), None);
    assert_eq!(outliers(&[100.0, 103.0, 98.0, 250.0, 101.0, 99.0]), [3]);
    assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.0, 1.01]), Vec::<usize>::new());
    assert_eq!(outliers(&[1.0, 1.0, 1.0, 9.0]), Vec::<usize>::new());
}

#[test]
fn steady_rounds_are_rarely_called_drifting() {
    let mut random = Random(17);
    let called = share(2000, || drift(&Shape::Normal(0.05).rounds(10, &mut random)).is_some());
    assert!(called < 0.015, "{called}");
}

proptest! {
    /// Whatever was measured, nothing panics and intervals are in order.
    #[test]
    fn any_values_make_ordered_intervals(values in prop::collection::vec(prop_oneof![0.0..1e6_f64, Just(0.0), Just(1e300)], 0..40)) {
        if let Some(interval) = Interval::of_median(&values) {
            let middle = median(&values).unwrap();
            prop_assert!(interval.lo <= middle && middle <= interval.hi, "{interval:?} {middle}");
            prop_assert!((0.4..=1.0).contains(&interval.confidence));
        }
        if let Some(ratio) = Ratio::of(&values, &values) {
            prop_assert!((ratio.value - 1.0).abs() < 1e-9);
        }
        let _ = (drift(&values), outliers(&values), coefficient_of_variation(&values));
    }
}

/// Rounds of a machine that changes slowly: each keeps so much of what the one before had.
fn slow(n: usize, keeps: f64, random: &mut Random) -> Vec<f64> {
    let mut weather = random.normal();
    let fresh = (1.0 - keeps * keeps).sqrt();
    (0..n)
        .map(|_| {
            weather = keeps * weather + fresh * random.normal();
            (0.05 * weather).exp()
        })
        .collect()
}

/// The promise of a comparison of two runs, kept where rounds resemble those before them; without the widening it is not.
#[test]
fn intervals_between_runs_know_of_slow_changes() {
    let mut random = Random(21);
    for (n, keeps, narrow) in [(10, 0.3, 0.90), (15, 0.3, 0.90), (30, 0.3, 0.90), (30, 0.5, 0.80)] {
        let (mut without, mut with) = (0, 0);
        for _ in 0..2000 {
            let arms: Vec<Vec<f64>> = (0..4).map(|_| slow(n, keeps, &mut random)).collect();
            let wider = widening(&arms.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let ratio = Ratio::of(&arms[0], &arms[1]).unwrap();
            without += usize::from(ratio.interval.unwrap().contains(1.0));
            with += usize::from(ratio.widened(wider).interval.unwrap().contains(1.0));
        }
        let share = |covered: usize| covered as f64 / 2000.0;
        assert!(share(without) < narrow, "{n} rounds, {keeps}: {}", share(without));
        assert!(share(with) > 0.92, "{n} rounds, {keeps}: {}", share(with));
    }
}

#[test]
fn independent_rounds_widen_little() {
    let mut random = Random(22);
    for (n, most) in [(10, 1.2), (30, 1.1)] {
        let mean = (0..1000)
            .map(|_| {
                let arms: Vec<Vec<f64>> = (0..4).map(|_| slow(n, 0.0, &mut random)).collect();
                widening(&arms.iter().map(Vec::as_slice).collect::<Vec<_>>())
            })
            .sum::<f64>()
            / 1000.0;
        assert!((1.0..most).contains(&mean), "{n} rounds: {mean}");
    }
    for nothing in [&[][..], &[&[1.0; 20][..]], &[&[1.0, 2.0][..]]] {
        assert_eq!(widening(nothing), 1.0);
    }
    let rising: Vec<f64> = (1..40).map(f64::from).collect();
    assert!((2.9..3.1).contains(&widening(&[&rising])));
}
