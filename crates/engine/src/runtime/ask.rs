//! The runtime's command line: run, kill, delete, state, exec.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Family, Runtime, RuntimeError, last_lines};

/// Whether the runtime stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// It stays until the container ends, passes signals on, takes the container's exit code as its own and deletes
    /// the container.
    Attached,
    /// It leaves once the container runs. The container's first process becomes a child of the nearest subreaper.
    Detached,
}

/// One container to run.
#[derive(Clone, Copy, Debug)]
pub struct RunRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle directory.
    pub bundle: &'a Path,
    /// File the process id of the container's first process is written to, by renaming, once it runs.
    pub pid_file: &'a Path,
    /// File for the runtime's own messages, JSON lines.
    pub log: &'a Path,
    /// Whether it stays.
    pub mode: RunMode,
}

/// One more process in a running container.
#[derive(Clone, Copy, Debug)]
pub struct ExecRequest<'a> {
    /// File that says what runs, as whom: [`bundle::exec`](crate::bundle::exec) as JSON. By flags a runtime can only add
    /// to what the container's own process is.
    pub process: &'a Path,
    /// File the process id is written to, by renaming, once it runs.
    pub pid_file: &'a Path,
    /// File for the runtime's own messages, JSON lines: what tells its failure from an exit code of the process.
    pub log: &'a Path,
}

/// What a runtime says about a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct State {
    /// Its id.
    pub id: String,
    /// Process id of its first process on the host; 0 when stopped.
    #[serde(default)]
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// Its bundle directory.
    pub bundle: PathBuf,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made, its command not started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Its first process is gone.
    #[serde(other)]
    Stopped,
}

impl Runtime {
    /// The command that runs a container; standard streams are the caller's to set. It inherits the mount namespace
    /// of the thread that spawns it.
    pub fn run_command(&self, request: &RunRequest<'_>) -> Command {
        let mut command = self.command();
        command.arg("--log").arg(request.log).args(["--log-format", "json", "run"]);
        if request.mode == RunMode::Detached {
            command.arg("--detach");
        }
        command.arg("--pid-file").arg(request.pid_file);
        command.arg("--bundle").arg(request.bundle).arg(request.id);
        command
    }

    /// The command that runs one more process in container `id`; standard streams are the caller's to set, its exit
    /// code is the process's. It passes signals on to the process.
    pub fn exec_command(&self, id: &str, request: &ExecRequest<'_>) -> Command {
        let mut command = self.command();
        command.arg("--log").arg(request.log).args(["--log-format", "json", "exec"]);
        command.arg("--process").arg(request.process).arg("--pid-file").arg(request.pid_file).arg(id);
        command
    }

    /// The command that deletes container `id`, also a running one if `force`.
    pub fn delete_command(&self, id: &str, force: bool) -> Command {
        let mut command = self.command();
        command.arg("delete");
        if force {
            command.arg("--force");
        }
        command.arg(id);
        command
    }

    /// Sends `signal` (a name without `SIG`, or a number) to the first process of container `id`.
    pub fn kill(&self, id: &str, signal: &str) -> Result<(), RuntimeError> {
        let mut command = self.command();
        command.args(["kill", id, signal]);
        self.answer(command).map(drop)
    }

    /// Deletes container `id`: its control groups and the runtime's record. A running one only if `force`, which
    /// also makes it fine if there is none.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), RuntimeError> {
        self.answer(self.delete_command(id, force)).map(drop)
    }

    /// Asks after container `id`.
    pub fn state(&self, id: &str) -> Result<State, RuntimeError> {
        let mut command = self.command();
        command.args(["state", id]);
        let shown = show(&command);
        let output = self.answer(command)?;
        serde_json::from_slice(&output).map_err(|source| RuntimeError::BadAnswer { command: shown, source })
    }

    /// Ids of the containers the runtime knows in our state directory, in order; also those half made.
    pub fn ids(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.state_root()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(entry?.file_name().into_string());
        }
        ids.sort();
        Ok(ids)
    }

    fn answer(&self, mut command: Command) -> Result<Vec<u8>, RuntimeError> {
        let shown = show(&command);
        let output = match self.apart(|| command.stdin(Stdio::null()).output()).flatten() {
            Ok(output) => output,
            Err(source) => return Err(RuntimeError::CannotRun { command: shown, source }),
        };
        if !output.status.success() {
            let output_lines = last_lines(&output.stderr);
            return Err(RuntimeError::Failed { command: shown, status: output.status, output: output_lines });
        }
        Ok(output.stdout)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(&self.state_root);
        // One launch is a few milliseconds of mostly system calls; more Go threads only fight over the processors
        // that the other launches need. Measured in benches/launch.rs.
        if self.family == Family::Runc {
            command.env("GOMAXPROCS", "1");
        }
        command
    }
}

pub(crate) fn show(command: &Command) -> String {
    let parts = std::iter::once(command.get_program()).chain(command.get_args());
    parts.map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
