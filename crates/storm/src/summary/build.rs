//! From one arm's rounds to its summary.

use std::collections::BTreeMap;

use super::gather::{Measured, Storm, believable};
use super::{Cpu, Failure, Health, MountOps, Summary, Watcher, notes};
use crate::record::Round;
use crate::stats::{Interval, Quantiles, median};

/// Reasons shown; a thousand launches may each fail for one of their own.
const MOST_REASONS: usize = 5;

/// One an arm.
pub(super) fn summaries(storm: &Storm<'_>) -> Vec<Summary> {
    let mut summaries: Vec<Summary> = storm.arms.iter().map(|arm| summary(storm, arm)).collect();
    notes::add(storm, &mut summaries);
    summaries
}

fn summary(storm: &Storm<'_>, measured: &Measured<'_>) -> Summary {
    let arm = measured.arm;
    let wall = measured.each(|round| round.wall_ms);
    let wall_interval = Interval::of_median(&wall);
    let started = measured.started();
    let launch = Quantiles::of(&started.concat());
    let launches = measured.launches().count() as u64;
    let failed = measured.launches().filter(|l| l.failed.is_some()).count() as u64;
    Summary {
        launcher: arm.launcher,
        mechanism: arm.mechanism,
        lower: arm.lower,
        snapshotter: arm.snapshotter.clone(),
        userns: arm.userns,
        passes: arm.passes,
        layers: arm.layers,
        containers: arm.containers,
        concurrency: arm.concurrency,
        admission: arm.admission,
        one_cache: arm.one_cache,
        rounds: measured.rounds.len(),
        partial: storm.partial.is_some(),
        launches,
        failed,
        success_rate: share(launches - failed, launches),
        failures: failures(measured),
        wall_ms: median(&wall).map(rounded),
        wall_ms_interval: wall_interval.map(|i| i.map(rounded)),
        interval_confidence: wall_interval.map(|i| rounded(i.confidence)),
        wall_ms_rounds: wall.iter().copied().map(rounded).collect(),
        removed_ms: median(&measured.each(|round| round.removed_ms)).map(rounded),
        launch_ms: launch.map(|q| q.map(rounded)),
        launch_p50_ms_interval: interval_of(&started, launch, |q| q.p50),
        launch_p99_ms_interval: interval_of(&started, launch, |q| q.p99),
        waited_ms: waited(measured),
        mount_ops: mount_ops(measured),
        health_ms: health(measured),
        path_walk_us: path_walk(measured),
        mount_table_peak: measured.rounds.iter().map(|(round, _)| round.mount_table_peak).max(),
        watcher: watcher(measured),
        cpu_ms: cpu(measured),
        context_switches: middle_count(measured, |round| Some(round.context_switches)),
        notes: Vec::new(),
    }
}

/// To the thousandth: what a clock says beyond it is noise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A share of a whole, to the millionth; 1 and 0 only if it is all or nothing. None of nothing.
#[expect(clippy::cast_precision_loss, reason = "a share to six digits")]
fn share(part: u64, whole: u64) -> Option<f64> {
    let exact = part as f64 / whole as f64;
    match (part, whole) {
        (_, 0) => None,
        (0, _) => Some(0.0),
        _ if part == whole => Some(1.0),
        _ => Some(((exact * 1e6).round() / 1e6).clamp(1e-6, 1.0 - 1e-6)),
    }
}

/// The interval of the rounds' own quantiles, around the quantile of all samples.
fn interval_of(
    rounds: &[Vec<f64>],
    all: Option<Quantiles>,
    which: impl Fn(Quantiles) -> f64,
) -> Option<Interval> {
    let each: Vec<f64> = rounds.iter().filter_map(|times| Quantiles::of(times)).map(&which).collect();
    Some(Interval::of_median(&each)?.including(which(all?)).map(rounded))
}

fn failures(measured: &Measured<'_>) -> Vec<Failure> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for reason in measured.launches().filter_map(|launch| launch.failed.as_deref()) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut failures: Vec<Failure> = counts
        .into_iter()
        .map(|(reason, launches)| Failure { reason: reason.to_owned(), launches })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.launches));
    failures.truncate(MOST_REASONS);
    failures
}

fn waited(measured: &Measured<'_>) -> Option<Quantiles> {
    measured.arm.admission?;
    let waited: Vec<f64> = measured.launches().filter(|l| l.failed.is_none()).map(|l| l.waited_ms).collect();
    Quantiles::of(&waited).map(|q| q.map(rounded))
}

/// The median of a count, by nearest rank: a count that was seen. None if a round lacks it.
pub(crate) fn middle_count(measured: &Measured<'_>, count: impl Fn(&Round) -> Option<u64>) -> Option<u64> {
    let mut counts: Vec<u64> =
        measured.rounds.iter().map(|(round, _)| count(round)).collect::<Option<_>>()?;
    counts.sort_unstable();
    counts.get(counts.len().checked_sub(1)? / 2).copied()
}

fn mount_ops(measured: &Measured<'_>) -> Option<MountOps> {
    Some(MountOps {
        attach: middle_count(measured, |round| round.mount_ops.attach),
        detach: middle_count(measured, |round| round.mount_ops.detach),
        host_attach: middle_count(measured, |round| Some(round.mount_ops.host_attach))?,
        host_detach: middle_count(measured, |round| Some(round.mount_ops.host_detach))?,
        exact: measured.rounds.iter().all(|(round, _)| round.mount_ops.exact),
    })
}

fn health(measured: &Measured<'_>) -> Option<Health> {
    let readings: Vec<(f64, u64)> = measured.rounds.iter().flat_map(|(round, _)| health_of(round)).collect();
    let over = |ms: f64| over(&readings, ms);
    Some(Health {
        quantiles: Quantiles::weighted(&readings)?.map(rounded),
        over_1s: over(1000.0)?,
        over_30s: over(30_000.0)?,
        readings: readings.len() as u64,
    })
}

/// How long each reading of a round took, in ms, and for how many microseconds it stands.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "believable times are neither large nor negative"
)]
pub(crate) fn health_of(round: &Round) -> impl Iterator<Item = (f64, u64)> {
    let readings = round.health_ms.iter().filter(|(took, stands)| believable(*took) && believable(*stands));
    readings.map(|(took, stands)| (*took, ((stands * 1000.0) as u64).max(1)))
}

/// The share of the launches' time in which a reading took longer.
pub(crate) fn over(readings: &[(f64, u64)], ms: f64) -> Option<f64> {
    let sum = |of: &dyn Fn(f64) -> bool| {
        readings
            .iter()
            .filter(|(took, _)| of(*took))
            .fold(0_u64, |sum, (_, stands)| sum.saturating_add(*stands))
    };
    share(sum(&|took| took > ms), sum(&|_| true))
}

fn path_walk(measured: &Measured<'_>) -> Option<Quantiles> {
    let bins: Vec<(f64, u64)> = measured
        .rounds
        .iter()
        .flat_map(|(round, _)| &round.path_walk_us)
        .copied()
        .filter(|(value, _)| believable(*value))
        .collect();
    Quantiles::weighted(&bins).map(|q| q.map(rounded))
}

fn watcher(measured: &Measured<'_>) -> Option<Watcher> {
    let lag = measured.each(|round| round.watcher.lag_max_ms).into_iter().filter(|v| believable(*v));
    Some(Watcher {
        cpu_ms: middle(measured, |round| round.watcher.cpu_ms)?,
        wakeups: middle_count(measured, |round| Some(round.watcher.wakeups))?,
        lag_max_ms: rounded(lag.fold(0.0, f64::max)),
    })
}

fn cpu(measured: &Measured<'_>) -> Option<Cpu> {
    Some(Cpu {
        machine: middle(measured, |round| round.machine_cpu_ms)?,
        storm: middle(measured, |round| round.storm_cpu_ms)?,
        measuring: middle(measured, |round| round.measuring_cpu_ms)?,
    })
}

/// The median of the believable values, one a round.
fn middle(measured: &Measured<'_>, value: impl Fn(&Round) -> f64) -> Option<f64> {
    let values: Vec<f64> = measured.each(value).into_iter().filter(|v| believable(*v)).collect();
    median(&values).map(rounded)
}
