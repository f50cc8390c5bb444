//! What a run did: latencies, exit codes, and what happened to the host's mount table.

use std::fmt::Write as _;
use std::time::Instant;

use plywood_engine::idrange::RangeRecord;
use plywood_engine::launch::LaunchError;
use plywood_image::printable;
use plywood_kernel::watch::MountCounts;
use plywood_storm::stats::Quantiles;
use serde::Serialize;

use super::crew::Crew;
use super::launch::Outcome;
use crate::output;

/// Failures that are spelled out; the rest are counted.
const SHOWN_FAILURES: usize = 5;

/// The names scripts rely on.
#[derive(Debug, Serialize)]
pub struct Report {
    requested: usize,
    started: usize,
    failed: usize,
    /// From the command's start until its containers have ended and are removed, or when detached, have started. A pull
    /// and what is left to do of a flat tree afterwards are not in it.
    wall_ms: f64,
    /// From the same start to the submission of the launches, where `launch_ms` begins.
    submitted_ms: Option<f64>,
    launch_ms: Option<Quantiles>,
    mechanism: &'static str,
    lower: &'static str,
    host_mount_events: u64,
    host_mount_events_exact: bool,
    /// A flat tree for the next launch was built meanwhile, or after the containers had ended.
    pub flat_tree_built: bool,
    cancelled: bool,
    containers: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    id: String,
    uid_range: RangeRecord,
    gid_range: RangeRecord,
    launch_ms: Option<f64>,
    /// Of this, waiting for its turn: only so many start at a time.
    waited_ms: Option<f64>,
    exit_code: Option<i32>,
    error: Option<String>,
    /// The error is on standard error already, in the runtime's own words.
    #[serde(skip)]
    said: bool,
}

/// What was seen of the host's mount table.
#[derive(Debug, Clone, Copy)]
pub struct HostMounts {
    /// Attached and detached meanwhile, by anybody.
    pub counts: MountCounts,
    /// Counted by the kernel, event by event; otherwise by comparing the table before and after.
    pub exact: bool,
}

impl Report {
    /// Puts the report together.
    pub fn new(crew: &Crew, outcome: &Outcome, started: Instant, host: HostMounts) -> Self {
        let containers: Vec<Entry> = crew
            .members
            .iter()
            .map(|member| {
                let id = member.id.as_str();
                let failed = outcome.failed.get(id);
                Entry {
                    id: id.to_owned(),
                    uid_range: member.lease.uid.into(),
                    gid_range: member.lease.gid.into(),
                    launch_ms: outcome.started.get(id).map(|timing| output::ms(timing.total())),
                    waited_ms: outcome
                        .started
                        .get(id)
                        .map(|timing| output::ms(timing.total().saturating_sub(timing.launch()))),
                    exit_code: outcome.exited.get(id).copied().or(failed.map(|error| error.exit_code())),
                    error: failed.map(|error| crate::remedy::chain(error)),
                    said: !crew.keep && matches!(failed, Some(LaunchError::Runtime(_))),
                }
            })
            .collect();
        let launches: Vec<f64> = containers.iter().filter_map(|one| one.launch_ms).collect();
        Self {
            requested: crew.members.len(),
            started: outcome.started.len(),
            failed: outcome.failed.len(),
            wall_ms: output::ms(started.elapsed()),
            submitted_ms: outcome.submitted.map(|at| output::ms(at.saturating_duration_since(started))),
            launch_ms: Quantiles::of(&launches),
            mechanism: crew.mechanism,
            lower: crew.lower,
            host_mount_events: host.counts.total(),
            host_mount_events_exact: host.exact,
            flat_tree_built: false,
            cancelled: outcome.cancelled,
            containers,
        }
    }

    /// 0 if all ran and ended well, 130 if interrupted, else 1.
    pub fn status(&self) -> u8 {
        if self.cancelled {
            return crate::remedy::INTERRUPTED;
        }
        let bad =
            self.failed > 0 || self.containers.iter().any(|one| one.exit_code.is_some_and(|code| code != 0));
        u8::from(bad)
    }

    /// As one JSON object.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(output::json_line(self)?)
    }

    /// The ids of the containers that started, a line each; none if they were given up.
    pub fn ids(&self) -> String {
        if self.cancelled {
            return String::new();
        }
        self.containers.iter().filter(|one| one.launch_ms.is_some()).fold(String::new(), |mut text, one| {
            text.push_str(&one.id);
            text.push('\n');
            text
        })
    }

    /// For people.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{label:<19}{value}");
        };
        let mut containers = format!("{} of {} started", self.started, self.requested);
        if self.failed > 0 {
            let _ = write!(containers, ", {} failed", self.failed);
        }
        line("containers", containers);
        line("from start to end", output::duration(self.wall_ms));
        if let Some(q) = self.launch_ms {
            let d = output::duration;
            line(
                "launch latency",
                format!("p50 {}  p90 {}  p99 {}  max {}", d(q.p50), d(q.p90), d(q.p99), d(q.max)),
            );
        }
        let codes = self.exit_codes();
        if !codes.is_empty() {
            line("exit codes", codes);
        }
        line("root file systems", format!("{} over {}", self.mechanism, self.lower));
        let how = if self.host_mount_events_exact {
            "counted by the kernel"
        } else {
            "table before and after compared"
        };
        let changes = output::count(self.host_mount_events, "change");
        line("host mount table", format!("{changes} by anybody ({how})"));
        if self.flat_tree_built {
            line("flat tree", "built, for the next launch".to_owned());
        }
        text.push_str(&self.failures());
        text
    }

    /// `0 x 98, 1 x 2`.
    fn exit_codes(&self) -> String {
        let mut counts = std::collections::BTreeMap::new();
        for code in self.containers.iter().filter(|one| one.error.is_none()).filter_map(|one| one.exit_code) {
            *counts.entry(code).or_insert(0_usize) += 1;
        }
        counts.iter().map(|(code, count)| format!("{code} x {count}")).collect::<Vec<_>>().join(", ")
    }

    /// The first failures, for people.
    pub fn failures(&self) -> String {
        let error = |one: &Entry| {
            let error = one.error.as_deref()?;
            Some(if one.said {
                "the runtime's message is above".to_owned()
            } else {
                printable(error).to_string()
            })
        };
        let failed: Vec<(&str, String)> =
            self.containers.iter().filter_map(|one| Some((one.id.as_str(), error(one)?))).collect();
        let mut text = String::new();
        for (id, error) in failed.iter().take(SHOWN_FAILURES) {
            let _ = writeln!(text, "failed {}: {error}", &id[..id.len().min(12)]);
        }
        if failed.len() > SHOWN_FAILURES {
            let _ = writeln!(text, "... and {} more; --json shows all", failed.len() - SHOWN_FAILURES);
        }
        text
    }
}
