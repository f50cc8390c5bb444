//! Processes that outlive the program: identity across crashes and reboots, adoption, and `syncfs`.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{self, Result, SyscallError};

/// One process, told apart from every later one with the same pid, and from those of other boots.
///
/// Text form, stable, for storing: `<pid>:<start time>:<boot id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The pid in the caller's pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl ProcessId {
    /// The identity of the running process `pid`.
    ///
    /// # Errors
    /// Kind `Missing` if there is none, or it is a zombie.
    pub fn of(pid: u32) -> Result<ProcessId> {
        match start_time(pid)? {
            Some(start_time) => Ok(ProcessId { pid, start_time, boot_id: boot_id()? }),
            None => Err(SyscallError::new(format!("read(\"/proc/{pid}/stat\")"), Errno::SRCH)),
        }
    }

    /// The identity of this process.
    pub fn current() -> Result<ProcessId> {
        ProcessId::of(std::process::id())
    }

    /// Whether that very process still runs; a zombie does not.
    pub fn is_alive(&self) -> Result<bool> {
        if boot_id()? != self.boot_id {
            return Ok(false);
        }
        Ok(start_time(self.pid)? == Some(self.start_time))
    }

    /// Sends a signal to that very process, never to a successor of its pid. False if it is gone.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(false);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(SyscallError::new(format!("pidfd_open({}, 0)", self.pid), errno)),
        };
        // The descriptor pins whoever has the pid now; only then is it compared.
        if !self.is_alive()? {
            return Ok(false);
        }
        match rustix::process::pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(SyscallError::new(
                format!("pidfd_send_signal({}, {}, NULL, 0)", error::fd(&pidfd), signal.as_raw()),
                errno,
            )),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.pid, self.start_time, self.boot_id)
    }
}

/// The text is not a [`ProcessId`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not <pid>:<start time>:<boot id>")]
pub struct ProcessIdParseError(String);

impl FromStr for ProcessId {
    type Err = ProcessIdParseError;

    fn from_str(text: &str) -> core::result::Result<Self, Self::Err> {
        let parse = || {
            let mut fields = text.splitn(3, ':');
            let pid = fields.next()?.parse().ok()?;
            let start_time = fields.next()?.parse().ok()?;
            let boot_id = fields.next().filter(|id| !id.is_empty())?.to_owned();
            Some(ProcessId { pid, start_time, boot_id })
        };
        parse().ok_or_else(|| ProcessIdParseError(text.to_owned()))
    }
}

/// Orphaned descendants of this process become its children instead of init's.
pub fn set_child_subreaper() -> Result<()> {
    // Any pid switches it on; the kernel takes it as a boolean.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| SyscallError::new("prctl(PR_SET_CHILD_SUBREAPER, 1)", errno))
}

/// Writes everything dirty on the filesystem `fd` lies on to its device.
///
/// # Errors
/// EIO or ENOSPC, also for a write-back that failed since the descriptor was opened (5.8).
pub fn syncfs(fd: impl AsFd) -> Result<()> {
    rustix::fs::syncfs(&fd).map_err(|errno| SyscallError::new(format!("syncfs({})", error::fd(&fd)), errno))
}

/// None if there is no such process or it is dead but not yet reaped.
fn start_time(pid: u32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let refused = |error: &std::io::Error| SyscallError::from_io(format!("read({path:?})"), error);
    match std::fs::read(&path) {
        Ok(stat) => {
            let (state, start) = parse_stat(&stat)
                .ok_or_else(|| SyscallError::new(format!("read({path:?})"), Errno::BADMSG))?;
            Ok(if matches!(state, b'Z' | b'X' | b'x') { None } else { Some(start) })
        }
        Err(error) => match refused(&error) {
            gone if matches!(gone.errno(), Errno::NOENT | Errno::SRCH) => Ok(None),
            other => Err(other),
        },
    }
}

/// State and start time. The second field, the command, is in parentheses and may hold spaces, parentheses
/// and newlines: the last `)` ends it.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is field 3, the start time field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(|error| SyscallError::from_io(format!("read({path:?})"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn stat_lines_with_hostile_command_names() {
        let stat = b"42 (a) R 1 (b\n) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0\n";
        assert_eq!(parse_stat(stat), Some((b'S', 987_654)));
        assert_eq!(parse_stat(b"42 (x) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_process_is_alive_until_it_is_dead_even_unreaped() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive().unwrap());
        assert_eq!(id.to_string().parse::<ProcessId>().unwrap(), id);

        let other_boot = ProcessId { boot_id: "another".to_owned(), ..id.clone() };
        assert!(!other_boot.is_alive().unwrap());
        let reused_pid = ProcessId { start_time: id.start_time + 1, ..id.clone() };
        assert!(!reused_pid.is_alive().unwrap());
        assert!(!reused_pid.signal(Signal::KILL).unwrap());
        assert!(id.is_alive().unwrap());

        assert!(id.signal(Signal::KILL).unwrap());
        while id.is_alive().unwrap() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!id.signal(Signal::KILL).unwrap());
        assert!(!id.is_alive().unwrap());
    }

    #[test]
    fn stored_forms_that_are_not_ids() {
        for text in ["", "1", "1:2", "1:2:", "x:2:b", "1:-2:b"] {
            assert!(text.parse::<ProcessId>().is_err(), "{text}");
        }
    }

    #[test]
    fn orphans_come_to_a_subreaper() {
        set_child_subreaper().unwrap();
        let script = "sleep 60 >&- 2>&- & echo $!";
        let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
        let orphan: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let id = ProcessId::of(orphan).unwrap();
        assert!(id.signal(Signal::KILL).unwrap());
        let pid = Pid::from_raw(orphan as i32).unwrap();
        let reaped = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        assert_eq!(reaped.unwrap().0, pid);
    }

    #[test]
    fn syncfs_takes_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        syncfs(std::fs::File::open(dir.path()).unwrap()).unwrap();
    }
}
