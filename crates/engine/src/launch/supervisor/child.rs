//! The two kinds of process waited for: a runtime, and a container's first process.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// How a runtime ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// A runtime, child of ours.
#[derive(Debug)]
pub(super) struct RuntimeProcess {
    child: Child,
    pidfd: Result<OwnedFd, Errno>,
}

impl RuntimeProcess {
    pub(super) fn new(child: Child) -> RuntimeProcess {
        // A child that has not been waited for keeps its pid, so the descriptor cannot name somebody else.
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        RuntimeProcess { child, pidfd }
    }

    /// Starts one without standard streams, out of reach of the terminal.
    pub(super) fn spawn(mut command: Command) -> io::Result<RuntimeProcess> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map(RuntimeProcess::new)
    }

    pub(super) fn as_fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.pidfd.as_ref().map(AsFd::as_fd).map_err(|errno| *errno)
    }

    /// `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => {
                let code = status.code().map(Ended::Exited);
                Some(code.unwrap_or_else(|| Ended::Killed(status.signal().unwrap_or(0))))
            }
            Err(error) => {
                tracing::error!(%error, pid = self.child.id(), "waiting for a runtime");
                Some(Ended::Killed(0))
            }
        }
    }

    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::warn!(%error, pid = self.child.id(), "killing a runtime");
        }
    }

    /// Kills the first process of the container this runtime stays with, and so all its processes.
    ///
    /// The pid comes from a file, and the runtime may have reaped that process since: only a child of the runtime is
    /// killed, looked at after the descriptor has pinned it. Without a descriptor nothing happens: who cancels must
    /// lose patience and kill the runtime.
    pub(super) fn kill_container(&self, pid: i32) {
        let Some(first) = Pid::from_raw(pid) else { return };
        let pidfd = match rustix::process::pidfd_open(first, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => return tracing::debug!(%errno, pid, "killing a container"),
        };
        if parent_of(pid) == i32::try_from(self.child.id()).ok() {
            killed(rustix::process::pidfd_send_signal(&pidfd, Signal::KILL));
        }
    }
}

/// The first process of a detached container, child of ours since its runtime left.
///
/// Its pid stays its own until [`FirstProcess::ended`] has seen the end: only its parent, us, can make it disappear.
#[derive(Debug)]
pub(super) struct FirstProcess {
    pid: Pid,
    pidfd: Result<OwnedFd, Errno>,
}

impl FirstProcess {
    /// Takes over the orphan `pid`; an error if it is no child of ours.
    pub(super) fn adopt(pid: i32) -> Result<FirstProcess, Errno> {
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        // Looks and leaves it to be waited for; needs no descriptor, of which there may be none left.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), look))?;
        Ok(FirstProcess { pid, pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty()) })
    }

    pub(super) fn as_fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.pidfd.as_ref().map(AsFd::as_fd).map_err(|errno| *errno)
    }

    /// The exit code, 128 and the signal's number after a signal; `None` while it runs.
    pub(super) fn ended(&self) -> Option<i32> {
        match rustix::process::waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => None,
            Ok(Some(status)) => {
                let by_signal = status.terminating_signal().map(|signal| 128 + signal);
                Some(status.exit_status().or(by_signal).unwrap_or(125))
            }
            Err(errno) => {
                tracing::error!(%errno, "waiting for a container");
                Some(125)
            }
        }
    }

    pub(super) fn kill(&self) {
        killed(rustix::process::kill_process(self.pid, Signal::KILL));
    }
}

fn killed(result: Result<(), Errno>) {
    match result {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => tracing::error!(%errno, "killing a container"),
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
