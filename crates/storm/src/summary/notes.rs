//! What makes figures less certain than they look, said beside them.

use super::gather::{Measured, Storm, believable};
use super::{Note, NoteKind, Summary, show};
use crate::arm::{Arm, LauncherKind};
use crate::record::Run;
use crate::stats::{Ratio, coefficient_of_variation, drift, outliers};

/// Rounds that differ by more than this (coefficient of variation) hide a difference of 10 % from the default number of
/// rounds.
const SPREAD: f64 = 0.06;
/// A change from first to last round worth a word.
const DRIFT: f64 = 1.05;
/// Share of the machine that others may take.
const OTHERS: f64 = 0.25;
/// A load average of this share of the CPUs, before anything was started, is other work.
const LOADED: f64 = 0.5;
/// Rounds that carry an interval of 95 %.
const ENOUGH_ROUNDS: usize = 6;
/// Arms named that an arm cannot be told from.
const MOST_OVERLAPS: usize = 3;

/// Adds every arm's notes.
pub(super) fn add(storm: &Storm<'_>, summaries: &mut [Summary]) {
    let notes: Vec<Vec<Note>> = (0..storm.arms.len()).map(|position| notes(storm, position)).collect();
    for (summary, notes) in summaries.iter_mut().zip(notes) {
        summary.notes = notes;
    }
}

fn notes(storm: &Storm<'_>, position: usize) -> Vec<Note> {
    let measured = &storm.arms[position];
    let rounds = measured.rounds.len();
    let mut notes = Vec::new();
    let mut note = |kind, message: String| notes.push(Note { kind, message });
    if let Some(reason) = &storm.partial {
        note(
            NoteKind::Partial,
            format!("the storm did not finish ({reason}): {rounds} of {} rounds count", storm.run.repeat),
        );
    }
    if rounds < ENOUGH_ROUNDS {
        note(
            NoteKind::FewRounds,
            format!(
                "{} too few for intervals of 95 %; --repeat 6 is the least",
                show::count(rounds, "round is", "rounds are")
            ),
        );
    }
    let wall = measured.each(|round| round.wall_ms);
    if let Some(spread) = coefficient_of_variation(&wall).filter(|cv| *cv > SPREAD) {
        note(
            NoteKind::Spread,
            format!(
                "wall time differs by {} from round to round (coefficient of variation): a difference of 10 % may stay \
                 hidden",
                show::percent(spread)
            ),
        );
    }
    if let Some(drift) = drift(&wall).filter(|d| !(1.0 / DRIFT..=DRIFT).contains(&d.factor)) {
        let (word, by) =
            if drift.factor > 1.0 { ("slower", drift.factor - 1.0) } else { ("faster", 1.0 - drift.factor) };
        note(NoteKind::Drift, format!("rounds get {word}, by {} from first to last", show::percent(by)));
    }
    for at in outliers(&wall).into_iter().take(ENOUGH_ROUNDS) {
        let round = measured.rounds[at].0;
        let times = crate::stats::median(&wall).filter(|m| *m > 0.0).map(|m| wall[at] / m);
        note(
            NoteKind::Outlier,
            format!(
                "round {} took {}{}; it counts all the same",
                round.round,
                show::ms(wall[at]),
                times.map(|t| format!(", {} the median", show::times(t))).unwrap_or_default()
            ),
        );
    }
    if let Some(others) = others(storm, measured).filter(|share| *share > OTHERS) {
        note(
            NoteKind::OtherWork,
            format!("programs other than the storm took {} of the machine meanwhile", show::percent(others)),
        );
    }
    if let Some(load) = loaded(storm.run) {
        note(NoteKind::OtherWork, format!("{load}: another storm may well find other figures"));
    }
    for other in overlaps(storm, position).into_iter().take(MOST_OVERLAPS) {
        note(NoteKind::Overlap, other);
    }
    let left_out = measured.left_out + storm.left_out + impossible(measured);
    if left_out > 0 {
        note(
            NoteKind::LeftOut,
            format!(
                "{} left out: no such arm, a second of its kind, or no value a clock can show",
                show::count(
                    usize::try_from(left_out).unwrap_or(usize::MAX),
                    "line or value was",
                    "lines and values were"
                )
            ),
        );
    }
    if measured.rounds.iter().any(|(round, _)| !round.mount_ops.exact) {
        note(
            NoteKind::Inexact,
            "the host's mount operations were counted by comparing tables: what came and went in between is missing"
                .to_owned(),
        );
    }
    notes
}

/// A machine that had work before the storm. Intervals hold for the rounds of one storm; work that lasts longer than a
/// storm moves all of them together, and no interval shows it.
#[expect(clippy::cast_precision_loss, reason = "CPUs are few")]
pub(crate) fn loaded(run: &Run) -> Option<String> {
    let host = &run.host;
    let busy = host.cpus > 0 && host.load > LOADED * host.cpus as f64;
    busy.then(|| {
        let cpus = show::count(host.cpus, "CPU", "CPUs");
        format!("the load average was {:.1} on {cpus} before anything was started", host.load)
    })
}

/// The share of the machine that neither the storm nor its measuring took. Not known where another program starts the
/// containers: its work is the storm's.
#[expect(clippy::cast_precision_loss, reason = "CPUs are few")]
fn others(storm: &Storm<'_>, measured: &Measured<'_>) -> Option<f64> {
    if measured.arm.launcher != LauncherKind::Assembly {
        return None;
    }
    let each = measured.each(|round| {
        let machine = round.removed_ms.max(round.wall_ms) * storm.run.host.cpus as f64;
        // Ticks are coarse, and removal goes on a little after it is timed.
        ((round.machine_cpu_ms - round.storm_cpu_ms).max(0.0) / machine).min(1.0)
    });
    crate::stats::median(&each).filter(|share| share.is_finite())
}

/// Arms of the same load that rounds do not tell this one from.
fn overlaps(storm: &Storm<'_>, position: usize) -> Vec<String> {
    let this = &storm.arms[position];
    let load = |arm: &Arm| (arm.layers, arm.containers, arm.concurrency);
    let times = this.times();
    let others = storm
        .arms
        .iter()
        .enumerate()
        .filter(|(at, other)| *at != position && load(other.arm) == load(this.arm));
    others
        .filter_map(|(_, other)| {
            let ratio = Ratio::of(&times, &other.times())?;
            let interval = ratio.interval.filter(|interval| interval.contains(1.0))?;
            Some(format!(
                "not told from `{}` by these rounds: {} its wall time, {}",
                other.arm,
                show::times(ratio.value),
                show::interval(&interval, show::times)
            ))
        })
        .collect()
}

/// Values in rounds that count which no clock can have shown.
fn impossible(measured: &Measured<'_>) -> u64 {
    let of_round = |round: &crate::record::Round| {
        let health = round.health_ms.iter().filter(|(v, of)| !believable(*v) || !believable(*of)).count();
        let walks = round.path_walk_us.iter().filter(|(v, _)| !believable(*v)).count();
        let watcher = [round.watcher.cpu_ms, round.watcher.lag_max_ms];
        let cpu = [round.machine_cpu_ms, round.storm_cpu_ms, round.measuring_cpu_ms];
        let single = watcher.iter().chain(&cpu).filter(|v| !believable(**v)).count();
        (health + walks + single) as u64
    };
    measured.rounds.iter().map(|(round, _)| of_round(round)).sum()
}
