//! Recorded lines put in order: what belongs to which arm and round, and what cannot be believed left out.

use std::collections::BTreeMap;

use super::SummaryError;
use crate::arm::Arm;
use crate::record::{Launch, Line, Round, Run, VERSION};
use crate::stats::Quantiles;

/// Nothing takes longer than thirty years.
const LONGEST: f64 = 1e12;

/// Arms are held against each other, pair by pair.
const MOST_ARMS: usize = 1000;

/// A storm, in order.
#[derive(Debug)]
pub(crate) struct Storm<'a> {
    pub(crate) run: &'a Run,
    pub(crate) arms: Vec<Measured<'a>>,
    /// Why it ended early; none if all rounds were run.
    pub(crate) partial: Option<String>,
    /// Lines and values left out that belong to no arm.
    pub(crate) left_out: u64,
}

/// One arm.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pub(crate) arm: &'a Arm,
    /// Containers were due at a given rate, so how long a round takes says nothing of them.
    pub(crate) paced: bool,
    /// Finished rounds that count, in the order they were run, with their launches.
    pub(crate) rounds: Vec<(&'a Round, Vec<&'a Launch>)>,
    /// Lines and values left out.
    pub(crate) left_out: u64,
}

impl Measured<'_> {
    /// One value a round.
    pub(crate) fn each(&self, value: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|(round, _)| value(round)).collect()
    }

    /// What arms are judged by, one value a round: how long it took until all were there, or, where a rate says how long
    /// that is, the median of its launches.
    pub(crate) fn times(&self) -> Vec<f64> {
        if self.paced { self.launch_medians() } else { self.each(|round| round.wall_ms) }
    }

    /// Of each round in which a launch was in time.
    pub(crate) fn launch_medians(&self) -> Vec<f64> {
        self.started().iter().filter_map(|times| Quantiles::of(times)).map(|q| q.p50).collect()
    }

    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.rounds.iter().flat_map(|(_, launches)| launches.iter().copied())
    }

    /// The launch times of those that started, by round; rounds in which none did are left out.
    pub(crate) fn started(&self) -> Vec<Vec<f64>> {
        let started = |launches: &Vec<&Launch>| -> Vec<f64> {
            launches.iter().filter(|l| l.failed.is_none()).map(|l| l.launch_ms).collect()
        };
        self.rounds.iter().map(|(_, l)| started(l)).filter(|times| !times.is_empty()).collect()
    }
}

/// Whether a clock can have shown it.
pub(crate) fn believable(value: f64) -> bool {
    (0.0..=LONGEST).contains(&value)
}

/// Puts lines in order.
pub(crate) fn gather(lines: &[Line]) -> Result<Storm<'_>, SummaryError> {
    let mut known = lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Unknown));
    let run = match known.next() {
        None => return Err(SummaryError::Empty),
        Some((_, Line::Run(run))) => run,
        Some(_) => return Err(SummaryError::NoRun),
    };
    if run.version > VERSION {
        return Err(SummaryError::Version { version: run.version });
    }
    if run.arms.is_empty() {
        return Err(SummaryError::NoArms);
    }
    if run.arms.len() > MOST_ARMS {
        return Err(SummaryError::TooManyArms { arms: run.arms.len(), most: MOST_ARMS });
    }
    let paced = run.pace.rate.is_some();
    let mut storm = Storm {
        run,
        arms: run.arms.iter().map(|arm| Measured { arm, paced, rounds: Vec::new(), left_out: 0 }).collect(),
        partial: Some("it was cut off".to_owned()),
        left_out: 0,
    };
    let mut launches: BTreeMap<(usize, u32), BTreeMap<usize, &Launch>> = BTreeMap::new();
    for (position, line) in known {
        match line {
            Line::Run(_) => return Err(SummaryError::TwoRuns { line: position + 1 }),
            Line::Launch(launch) => {
                let Some(arm) = storm.arms.get_mut(launch.arm) else {
                    storm.left_out += 1;
                    continue;
                };
                let times = [launch.due_ms, launch.launch_ms, launch.waited_ms];
                let of_round = launches.entry((launch.arm, launch.round)).or_default();
                if times.into_iter().all(believable) && !of_round.contains_key(&launch.container) {
                    of_round.insert(launch.container, launch);
                } else {
                    arm.left_out += 1;
                }
            }
            Line::Round(round) => {
                let Some(arm) = storm.arms.get_mut(round.arm) else {
                    storm.left_out += 1;
                    continue;
                };
                let seen = arm.rounds.iter().any(|(other, _)| other.round == round.round);
                let times = [round.wall_ms, round.removed_ms];
                if !times.into_iter().all(believable) || seen {
                    arm.left_out += 1;
                } else if round.round > 0 {
                    let launches = launches.remove(&(round.arm, round.round)).unwrap_or_default();
                    arm.rounds.push((round, launches.into_values().collect()));
                }
            }
            Line::End(end) if end.complete => storm.partial = None,
            Line::End(end) => {
                storm.partial = Some(end.reason.clone().unwrap_or_else(|| "it was stopped".into()))
            }
            Line::LockRun(_)
            | Line::LockSample(_)
            | Line::LockPoint(_)
            | Line::LockFit(_)
            | Line::LockEnd(_)
            | Line::Matrix(_)
            | Line::Unknown => {}
        }
    }
    Ok(storm)
}
