//! Runtime processes whose caller is gone.
//!
//! A runtime that was starting a container when its caller was killed goes on by itself. Whoever takes the container
//! away ends it first, or it would make control groups and processes behind their back.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use plywood_kernel::{Kind, ProcessId, SyscallError};
use rustix::process::Signal;

use super::Runtime;

/// How often the processes are looked at while they end.
const POLL: Duration = Duration::from_millis(2);
/// How long they may take to end: an unmount may hold them for a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why processes are left.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// `/proc` cannot be read.
    #[error("reading /proc")]
    Proc(#[source] io::Error),
    /// One cannot be signalled.
    #[error(transparent)]
    Signal(#[from] SyscallError),
    /// One outlives SIGKILL.
    #[error("process {0} does not end, even after KILL")]
    Lives(u32),
}

impl Runtime {
    /// Kills the processes of this runtime, with this state directory, that run container `id`, and waits for their end,
    /// at most ten seconds. Processes inside the container are left alone, and so is whoever deletes it.
    ///
    /// # Errors
    /// [`OrphanError`]
    pub fn kill_orphans(&self, id: &str) -> Result<(), OrphanError> {
        let mut dying = Vec::new();
        for entry in fs::read_dir("/proc").map_err(OrphanError::Proc)? {
            let name = entry.map_err(OrphanError::Proc)?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if !runs(pid, self.state_root(), id) {
                continue;
            }
            let process = match ProcessId::of(pid) {
                Ok(process) => process,
                Err(error) if error.kind() == Kind::Missing => continue,
                Err(error) => return Err(error.into()),
            };
            // Once more: the process id may have been given to another in between.
            if runs(pid, self.state_root(), id) && process.signal(Signal::KILL)? {
                dying.push(process);
            }
        }
        let until = Instant::now() + PATIENCE;
        for process in dying {
            while process.is_alive()? {
                if Instant::now() > until {
                    return Err(OrphanError::Lives(process.pid));
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

/// Whether it was called as [`Runtime::run_command`] calls: `<runtime> --root <state root> ... run ... <id>`, with an
/// interpreter before that if the runtime is a script. A process that is gone runs nothing.
fn runs(pid: u32, state_root: &Path, id: &str) -> bool {
    let command_line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let mut arguments =
        command_line.split(|&byte| byte == 0).skip_while(|argument| *argument != b"--root").skip(1);
    arguments.next().is_some_and(|root| OsStr::from_bytes(root) == state_root)
        && arguments.any(|argument| argument == b"run")
        && arguments.any(|argument| argument == id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A runtime that takes its time.
    fn sleeper(root: &str, command: &str, id: &str) -> Child {
        let script = "while :; do sleep 0.01; done";
        Command::new("sh")
            .args(["-c", script, "runc", "--root", root, command, "--pid-file", "x", id])
            .spawn()
            .unwrap()
    }

    #[test]
    fn only_runtimes_that_run_the_container_are_killed() {
        let runtime =
            Runtime::new("/usr/bin/runc".into(), "runc version 1".to_owned(), Path::new("/nowhere"));
        let mut ours = sleeper("/nowhere/runc", "run", "c1");
        let others = [
            sleeper("/nowhere/runc", "run", "c12"),
            sleeper("/elsewhere/runc", "run", "c1"),
            sleeper("/nowhere/runc", "delete", "c1"),
        ];
        runtime.kill_orphans("c1").unwrap();
        assert!(!ours.wait().unwrap().success());
        for mut other in others {
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
