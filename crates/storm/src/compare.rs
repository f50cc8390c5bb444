//! Two saved runs, or two arms of one run, side by side.
//!
//! Arms of two runs match when they are the same in everything. For each pair the ratio of their wall times with its
//! interval decides, by a threshold below which differences do not matter (5 % unless another is given):
//!
//! | verdict | the whole interval | the ratio |
//! |---|---|---|
//! | `slower` | above 1 | above 1 + threshold |
//! | `faster` | below 1 | below 1 / (1 + threshold) |
//! | `same` | within the threshold either way | |
//! | `unclear` | anything else, and any interval that cannot promise 95 % | |
//!
//! A pair whose share of failed launches grows by more than one percentage point is `slower` whatever the clock says. The
//! whole is `slower` if one pair is, else `unclear` if one pair is, else `faster` if one pair is, else `same`. Where
//! containers were due at a given rate, which is how long a round takes, the medians of launches decide instead. Exit
//! status: 1 if the whole is `slower`, or if the second run did not finish or lacks an arm of the first; else 0. Of two runs that differ in nothing, one pair in forty is called slower by chance
//! at most, far fewer with the threshold; many arms make many chances.
//!
//! Runs made one after the other were not interleaved: what changed on the machine between them looks like a difference
//! of the arms. That is said each time, with every difference of the machines that was recorded; and where rounds
//! resemble those before them, which shows that the machine changes slowly, intervals are wider by as much.

use std::fmt;

use serde::Serialize;

use crate::arm::Arm;
use crate::record::Line;
use crate::stats::{Interval, Ratio, median, widening};
use crate::summary::gather::{Measured, Storm, gather};
use crate::summary::notes::loaded;
use crate::summary::{SummaryError, show};

mod differences;
#[cfg(test)]
mod tests;

/// Differences below this share do not matter, unless the user knows better.
pub const THRESHOLD: f64 = 0.05;
/// A share of failed launches that grows by more than this is a change for the worse.
const FAILING_MORE: f64 = 0.01;
/// Intervals that promise less decide nothing.
const SURE: f64 = 0.949;

/// What a comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// No difference that matters.
    Same,
    /// The second is faster.
    Faster,
    /// The second is slower, or fails more.
    Slower,
    /// These rounds do not say.
    Unclear,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "same",
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Unclear => "unclear",
        })
    }
}

impl Outcome {
    /// By the rule above.
    #[must_use]
    pub fn of(ratio: &Ratio, threshold: f64) -> Self {
        let Some(interval) = ratio.interval.filter(|i| i.confidence >= SURE) else { return Self::Unclear };
        let most = 1.0 + threshold;
        if interval.lo > 1.0 && ratio.value > most {
            Self::Slower
        } else if interval.hi < 1.0 && ratio.value < 1.0 / most {
            Self::Faster
        } else if interval.lo >= 1.0 / most && interval.hi <= most {
            Self::Same
        } else {
            Self::Unclear
        }
    }
}

/// One figure, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Of the first: the median of its rounds.
    pub before_ms: f64,
    /// Of the second.
    pub after_ms: f64,
    /// The second to the first, the median over all pairs of rounds; 2 is twice as long.
    pub ratio: f64,
    /// Where that ratio lies.
    pub ratio_interval: Option<Interval>,
    /// How sure that is.
    pub interval_confidence: Option<f64>,
    /// What follows.
    pub verdict: Outcome,
}

/// One pair of arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// What the two are: one arm, or `this -> that`.
    pub arm: String,
    /// One round; this decides, unless containers were due at a given rate.
    pub wall_ms: Option<Change>,
    /// One launch: the rounds' medians; decides otherwise.
    pub launch_p50_ms: Option<Change>,
    /// Share of launches that failed before.
    pub failed_before: f64,
    /// And after.
    pub failed_after: f64,
    /// What follows.
    pub verdict: Outcome,
}

/// Two runs, or two arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The whole, by the rule above.
    pub verdict: Outcome,
    /// The same in a sentence.
    pub sentence: String,
    /// Differences below this share do not matter.
    pub threshold: f64,
    /// The second run did not finish, or lacks rounds or arms that the first one has.
    pub missing: bool,
    /// Arms of both.
    pub pairs: Vec<Pair>,
    /// Arms of the first run that the second lacks.
    pub only_before: Vec<String>,
    /// Arms of the second run that the first lacks.
    pub only_after: Vec<String>,
    /// What may look like a difference of the arms and is none.
    pub warnings: Vec<String>,
}

/// What cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// The first is no storm.
    #[error("the first run cannot be read")]
    Before(#[source] SummaryError),
    /// The second is no storm.
    #[error("the second run cannot be read")]
    After(#[source] SummaryError),
    /// The runs have nothing in common.
    #[error("no arm is in both runs; the first has {before}, the second {after}")]
    NothingInCommon {
        /// One arm of the first.
        before: String,
        /// One arm of the second.
        after: String,
    },
    /// Containers were not due alike.
    #[error(
        "they were not paced alike, so their times do not compare: in the first {before}, in the second {after}"
    )]
    Pace {
        /// Of the first.
        before: String,
        /// Of the second.
        after: String,
    },
    /// There are fewer arms.
    #[error("there is no arm {position}; the run has {arms}")]
    NoSuchArm {
        /// Counted from 0.
        position: usize,
        /// How many there are.
        arms: usize,
    },
}

/// Compares two runs, arm by arm.
///
/// # Errors
/// If either is no storm, or they have no arm in common.
pub fn compare_runs(before: &[Line], after: &[Line], threshold: f64) -> Result<Comparison, CompareError> {
    let before = gather(before).map_err(CompareError::Before)?;
    let after = gather(after).map_err(CompareError::After)?;
    if before.run.pace != after.run.pace {
        let [before, after] = [before, after].map(|storm| storm.run.pace.to_string());
        return Err(CompareError::Pace { before, after });
    }
    let mut left: Vec<&Measured<'_>> = after.arms.iter().collect();
    let series: Vec<Vec<f64>> = before.arms.iter().chain(&after.arms).map(Measured::times).collect();
    let wider = widening(&series.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (mut pairs, mut only_before) = (Vec::new(), Vec::new());
    for one in &before.arms {
        match left.iter().position(|other| other.arm == one.arm) {
            Some(at) => pairs.push(pair(one.arm.to_string(), one, left.remove(at), wider, threshold)),
            None => only_before.push(one.arm.to_string()),
        }
    }
    let only_after: Vec<String> = left.iter().map(|other| other.arm.to_string()).collect();
    if pairs.is_empty() {
        let first = |names: &[String]| names.first().cloned().unwrap_or_default();
        return Err(CompareError::NothingInCommon { before: first(&only_before), after: first(&only_after) });
    }
    let mut warnings = vec![
        "the runs were made one after the other, not in turn: whatever changed on the machine between them looks like \
         a difference of the arms"
            .to_owned(),
    ];
    warnings.extend(differences::of(before.run, after.run));
    for (storm, which) in [(&before, "first"), (&after, "second")] {
        warnings.extend(unfinished(storm, which));
        warnings
            .extend(loaded(storm.run).map(|load| format!("the {which} run is of a busy machine: {load}")));
    }
    let empty = after.arms.iter().any(|arm| arm.rounds.is_empty());
    let missing = after.partial.is_some() || !only_before.is_empty() || empty;
    Ok(Comparison { missing, only_before, only_after, warnings, ..comparison(pairs, threshold) })
}

/// Compares two arms of one run, by position.
///
/// # Errors
/// If it is no storm or has no such arm.
pub fn compare_arms(
    lines: &[Line],
    before: usize,
    after: usize,
    threshold: f64,
) -> Result<Comparison, CompareError> {
    let storm = gather(lines).map_err(CompareError::Before)?;
    let arm = |position: usize| {
        storm.arms.get(position).ok_or(CompareError::NoSuchArm { position, arms: storm.arms.len() })
    };
    let (one, other) = (arm(before)?, arm(after)?);
    let name = format!("{} -> {}", one.arm, other.arm);
    let mut warnings: Vec<String> = unfinished(&storm, "only").into_iter().collect();
    if load(one.arm) != load(other.arm) {
        warnings.push("the arms start different loads: layers, containers or concurrency differ".to_owned());
    }
    Ok(Comparison { warnings, ..comparison(vec![pair(name, one, other, 1.0, threshold)], threshold) })
}

fn load(arm: &Arm) -> (usize, usize, usize) {
    (arm.layers, arm.containers, arm.concurrency)
}

fn unfinished(storm: &Storm<'_>, which: &str) -> Option<String> {
    storm.partial.as_ref().map(|reason| format!("the {which} run did not finish: {reason}"))
}

impl Comparison {
    /// What a command that compares exits with: 1 for what a gate must not let pass.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        u8::from(self.verdict == Outcome::Slower || self.missing)
    }
}

fn comparison(pairs: Vec<Pair>, threshold: f64) -> Comparison {
    let count = |outcome| pairs.iter().filter(|pair| pair.verdict == outcome).count();
    let worst = [Outcome::Slower, Outcome::Unclear, Outcome::Faster].into_iter().find(|o| count(*o) > 0);
    let verdict = worst.unwrap_or(Outcome::Same);
    Comparison {
        verdict,
        sentence: sentence(verdict, &pairs, threshold),
        threshold,
        pairs,
        missing: false,
        only_before: Vec::new(),
        only_after: Vec::new(),
        warnings: Vec::new(),
    }
}

fn sentence(verdict: Outcome, pairs: &[Pair], threshold: f64) -> String {
    let which: Vec<&Pair> = pairs.iter().filter(|pair| pair.verdict == verdict).collect();
    let share = format!("{} of {}", which.len(), show::count(pairs.len(), "arm", "arms"));
    let most = show::percent(threshold);
    match verdict {
        Outcome::Same => format!("No arm differs by more than {most}."),
        Outcome::Faster => format!("Faster: {share} by more than {most}, none slower."),
        Outcome::Unclear => {
            format!("Unclear: {share} may or may not differ by more than {most}; more rounds tell.")
        }
        Outcome::Slower => {
            let failing =
                which.iter().filter(|pair| failing_more(pair.failed_before, pair.failed_after)).count();
            let more =
                if failing > 0 { format!(", {failing} of them failing more often") } else { String::new() };
            format!("Slower: {share}{more}.")
        }
    }
}

fn failing_more(before: f64, after: f64) -> bool {
    after - before > FAILING_MORE
}

fn pair(arm: String, before: &Measured<'_>, after: &Measured<'_>, wider: f64, threshold: f64) -> Pair {
    let walls = |measured: &Measured<'_>| measured.each(|round| round.wall_ms);
    let wall = change(&walls(before), &walls(after), wider, threshold);
    let launch = change(&before.launch_medians(), &after.launch_medians(), wider, threshold);
    let decides = if before.paced { launch } else { wall };
    let (failed_before, failed_after) = (failed(before), failed(after));
    let verdict = if failing_more(failed_before, failed_after) {
        Outcome::Slower
    } else {
        decides.map_or(Outcome::Unclear, |change| change.verdict)
    };
    Pair { arm, wall_ms: wall, launch_p50_ms: launch, failed_before, failed_after, verdict }
}

fn change(before: &[f64], after: &[f64], wider: f64, threshold: f64) -> Option<Change> {
    let ratio = Ratio::of(after, before)?.widened(wider);
    let thousandth = |value: f64| (value * 1000.0).round() / 1000.0;
    Some(Change {
        before_ms: thousandth(median(before)?),
        after_ms: thousandth(median(after)?),
        ratio: thousandth(ratio.value),
        ratio_interval: ratio.interval.map(|i| i.map(thousandth)),
        interval_confidence: ratio.interval.map(|i| thousandth(i.confidence)),
        verdict: Outcome::of(&ratio, threshold),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(crate) fn failed(measured: &Measured<'_>) -> f64 {
    let all = measured.launches().count();
    measured.launches().filter(|launch| launch.failed.is_some()).count() as f64 / all.max(1) as f64
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["ARM", "BEFORE", "AFTER", "RATIO", "95 %", "FAILED", "VERDICT"].map(str::to_owned);
        let row = |pair: &Pair| {
            let wall =
                |show: &dyn Fn(Change) -> String| pair.wall_ms.map_or_else(|| show::NOTHING.to_owned(), show);
            let interval = |change: Change| {
                let sure = change.ratio_interval.zip(change.interval_confidence);
                sure.map_or_else(
                    || show::NOTHING.to_owned(),
                    |(i, confidence)| show::interval(&Interval { confidence, ..i }, show::times),
                )
            };
            [
                pair.arm.clone(),
                wall(&|change| show::ms(change.before_ms)),
                wall(&|change| show::ms(change.after_ms)),
                wall(&|change| show::times(change.ratio)),
                wall(&interval),
                format!("{} -> {}", show::percent(pair.failed_before), show::percent(pair.failed_after)),
                pair.verdict.to_string(),
            ]
        };
        f.write_str(&show::table(&head, &self.pairs.iter().map(row).collect::<Vec<_>>()))?;
        for (names, which) in [(&self.only_before, "first"), (&self.only_after, "second")] {
            for name in names {
                writeln!(f, "only in the {which} run: {name}")?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "note: {warning}")?;
        }
        writeln!(f, "{}", self.sentence)?;
        if self.missing {
            writeln!(f, "The second run lacks something: what it did not measure is not passed.")?;
        }
        Ok(())
    }
}
