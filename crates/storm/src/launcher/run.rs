//! Launcher `run`: the product as people use it, a `plywood run -d` for each burst.
//!
//! ```text
//! launch(n) of a burst's first caller ─> plywood --json run -d -n BURST ... ─> report: who is there, since when
//! launch(n) of the others ──────────────> wait for that report
//! remove ──────────────────────────────> plywood rm --force IDS
//! ```
//! A container is there when its command runs. The report says how long after its submission that was
//! (`containers[].launch_ms`) and when the submission was (`submitted_ms`, from the command's start); what the command
//! took beyond its own account (to be started, and to end) is added to all, so that nothing is left out. Where fewer start
//! at a time than are submitted, the report says how long each waited for its turn (`containers[].waited_ms`).
//!
//! Asked to stop, it interrupts its commands, which take back what they have begun. If it is killed, they learn of it by the
//! end of their standard input, a pipe that this process alone holds open, and take back all that they have started.
//!
//! Invariant: whatever a report named is removed; of a command that ended without a report nothing is left.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;

use super::{LaunchFailure, Launched, Launcher, LauncherError, Round};

/// One arm.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program `plywood`.
    pub program: PathBuf,
    /// The state root.
    pub root: PathBuf,
    /// The image, by a name of the store.
    pub image: String,
    /// Forced mechanism.
    pub mechanism: Mechanism,
    /// Forced lower source; a flat tree is there already.
    pub lower: LowerSource,
    /// Launches under way at once.
    pub concurrency: usize,
    /// The OCI runtime; the command's own choice if none.
    pub runtime: Option<String>,
    /// Ids of each container.
    pub id_range_length: u32,
    /// What runs inside; the image's own command if empty.
    pub command: Vec<String>,
}

/// The environment variable that tells the command to keep containers no longer than its standard input lasts.
const UNTIL_EOF: &str = "PLYWOOD_UNTIL_EOF";

/// Launches containers by the command.
#[derive(Debug)]
pub struct Run {
    config: Config,
    /// What the commands have for standard input; its end comes with this process's.
    lifeline: PipeReader,
    _held: PipeWriter,
    state: Mutex<State>,
    /// A report has come.
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    round: Option<Round>,
    bursts: HashMap<usize, Burst>,
    running: Vec<(usize, Arc<std::os::fd::OwnedFd>)>,
    cancelled: bool,
}

#[derive(Debug)]
enum Burst {
    Begun,
    Ended(Arc<Result<Reported, LaunchFailure>>),
}

/// What became of a burst.
#[derive(Debug)]
struct Reported {
    /// In the order of launching: since when it is there, or why it is not.
    containers: Vec<Result<Launched, String>>,
    ids: Vec<String>,
}

/// The parts we read of what `run` prints.
#[derive(Debug, Deserialize)]
struct Report {
    wall_ms: f64,
    submitted_ms: f64,
    containers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    launch_ms: Option<f64>,
    waited_ms: Option<f64>,
    error: Option<String>,
}

/// Opens the launcher of one arm.
///
/// # Errors
/// There are no descriptors left.
pub fn open(config: Config) -> Result<Run, LauncherError> {
    // Closed on `execve`: no program that we start holds it open after us.
    let (lifeline, held) = std::io::pipe().map_err(LauncherError::doing("making a pipe for the commands"))?;
    Ok(Run { config, lifeline, _held: held, state: Mutex::default(), told: Condvar::new() })
}

impl Launcher for Run {
    fn prepare(&self, round: Round) -> Result<(), LauncherError> {
        let mut state = self.lock();
        state.round = Some(round);
        state.bursts.clear();
        Ok(())
    }

    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure> {
        let reported = self.burst_of(container)?;
        let burst = (*reported).as_ref().map_err(Clone::clone)?;
        let place = self.lock().round.map_or(0, |round| container % round.burst);
        match burst.containers.get(place) {
            Some(Ok(launched)) => Ok(*launched),
            Some(Err(why)) => Err(LaunchFailure::new(why.clone())),
            None => Err(LaunchFailure::new("the command's report does not name it")),
        }
    }

    fn remove(&self) -> Result<(), LauncherError> {
        let bursts = std::mem::take(&mut self.lock().bursts);
        let mut ids: Vec<OsString> = Vec::new();
        for burst in bursts.into_values() {
            if let Burst::Ended(reported) = burst
                && let Ok(reported) = &*reported
            {
                ids.extend(reported.ids.iter().map(OsString::from));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = self.plywood();
        command.args(["rm", "--force"]).args(ids);
        let doing = "removing the round's containers by `plywood rm`";
        let output = command.output().map_err(LauncherError::doing(doing))?;
        if output.status.success() { Ok(()) } else { Err(LauncherError::new(doing, said(&output))) }
    }

    fn close(&self) -> Result<(), LauncherError> {
        self.remove()
    }

    fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        for (_, process) in &state.running {
            if let Err(errno) = pidfd_send_signal(process, Signal::INT) {
                tracing::debug!(%errno, "interrupting a `plywood run` that has just ended");
            }
        }
    }

    /// All callers of a burst wait for one command, which bounds what starts at a time itself.
    fn threads(&self, _concurrency: usize, round: Round) -> usize {
        round.burst
    }
}

impl Run {
    /// The burst's report: asked for by the first who comes, waited for by the others.
    fn burst_of(&self, container: usize) -> Result<Arc<Result<Reported, LaunchFailure>>, LaunchFailure> {
        let mut state = self.lock();
        let round = state.round.ok_or_else(|| LaunchFailure::new("the round is over"))?;
        let number = container / round.burst;
        loop {
            match state.bursts.get(&number) {
                Some(Burst::Ended(reported)) => return Ok(Arc::clone(reported)),
                Some(Burst::Begun) => {
                    state = self.told.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        state.bursts.insert(number, Burst::Begun);
        drop(state);
        let count = round.burst.min(round.containers - number * round.burst);
        let reported = Arc::new(self.start(number, count));
        self.lock().bursts.insert(number, Burst::Ended(Arc::clone(&reported)));
        self.told.notify_all();
        Ok(reported)
    }

    fn start(&self, number: usize, count: usize) -> Result<Reported, LaunchFailure> {
        let failed = |error: std::io::Error| LaunchFailure::new(format!("running `plywood run`: {error}"));
        let begun = Instant::now();
        // In a group of its own: Ctrl-C comes by way of `cancel`, once.
        let child = self
            .command(count)
            .env(UNTIL_EOF, "true")
            .stdin(self.lifeline.try_clone().map_err(failed)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
        let cancelled = {
            let mut state = self.lock();
            state.running.push((number, Arc::new(process)));
            state.cancelled
        };
        if cancelled {
            self.cancel();
        }
        let output = child.wait_with_output();
        let elapsed = begun.elapsed();
        self.lock().running.retain(|(other, _)| *other != number);
        read(&output.map_err(failed)?, begun, elapsed, self.config.concurrency)
    }

    fn command(&self, count: usize) -> Command {
        let config = &self.config;
        let mut command = self.plywood();
        command.args(["run", "-d", "--pull", "never", "--no-flat", "-n"]).arg(count.to_string());
        command.args(["--mechanism", config.mechanism.name(), "--lower", config.lower.name()]);
        command.arg("--concurrency").arg(config.concurrency.to_string());
        command.arg("--id-range-length").arg(config.id_range_length.to_string());
        if let Some(runtime) = &config.runtime {
            command.arg("--runtime").arg(runtime);
        }
        command.arg(&config.image);
        if !config.command.is_empty() {
            command.arg("--").args(&config.command);
        }
        command
    }

    fn plywood(&self) -> Command {
        let mut command = Command::new(&self.config.program);
        command.arg("--json").arg("--root").arg(&self.config.root);
        command
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first `at_once` are due with their burst, as they begin with it; each of the others when its turn comes, which is
/// when one of those before it is there.
fn read(
    output: &Output,
    begun: Instant,
    elapsed: Duration,
    at_once: usize,
) -> Result<Reported, LaunchFailure> {
    let Ok(report) = serde_json::from_slice::<Report>(&output.stdout) else {
        return Err(LaunchFailure::new(format!("`plywood run` failed: {}", said(output))));
    };
    let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
    let unaccounted = elapsed.saturating_sub(ms(report.wall_ms));
    let submitted = begun + unaccounted + ms(report.submitted_ms);
    let containers = report.containers.iter().enumerate().map(|(place, one)| match one.launch_ms {
        Some(launch_ms) => Ok(Launched {
            turn: one.waited_ms.filter(|_| place >= at_once).map(|waited| submitted + ms(waited)),
            ..Launched::at(submitted + ms(launch_ms))
        }),
        None => Err(one.error.clone().unwrap_or_else(|| "it was not started".to_owned())),
    });
    let containers = containers.collect();
    Ok(Reported { containers, ids: report.containers.into_iter().map(|one| one.id).collect() })
}

/// What a command wrote on standard error, or how it ended.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    if text.is_empty() { output.status.to_string() } else { text.replace('\n', "; ") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn output(stdout: &str, stderr: &str, code: i32) -> Output {
        let status = ExitStatus::from_raw(code << 8);
        Output { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn nothing_of_a_launch_is_left_out() {
        let report = r#"{"wall_ms": 90.0, "submitted_ms": 20.0, "new": 1, "containers": [
            {"id": "a", "launch_ms": 30.5, "waited_ms": 0.1, "error": null},
            {"id": "b", "launch_ms": null, "waited_ms": null, "error": "no room"},
            {"id": "c", "launch_ms": 50, "waited_ms": 31, "error": null}]}"#;
        let begun = Instant::now();
        let read = read(&output(report, "", 1), begun, Duration::from_millis(100), 2).unwrap();
        // 10 to be started and to end, 20 until it was submitted, 30.5 from then on.
        let there = |micros| begun + Duration::from_micros(micros);
        assert_eq!(read.containers[0], Ok(Launched::at(there(60_500))));
        assert_eq!(read.containers[1], Err("no room".to_owned()));
        // Its turn came 31 after its submission.
        assert_eq!(
            read.containers[2],
            Ok(Launched { turn: Some(there(61_000)), ..Launched::at(there(80_000)) })
        );
        assert_eq!(read.ids, ["a", "b", "c"]);
    }

    #[test]
    fn a_command_that_fails_is_quoted() {
        let said = |stdout: &str, stderr: &str| {
            let output = output(stdout, stderr, 1);
            read(&output, Instant::now(), Duration::ZERO, 1).unwrap_err().to_string()
        };
        let error =
            said(r#"{"error": {"message": "no"}}"#, "plywood: no such image\n  what to do: pull it\n");
        assert_eq!(error, "`plywood run` failed: plywood: no such image;   what to do: pull it");
        assert_eq!(said("", ""), "`plywood run` failed: exit status: 1");
    }
}
