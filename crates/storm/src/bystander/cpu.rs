//! CPU time of the machine and of this process, and context switches.

use std::time::Duration;

use plywood_kernel::{SyscallError, cputime};
use rustix::io::Errno;

use super::thread::failed;

const STAT: &str = "/proc/stat";

/// Used so far, or between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// Of all CPUs, not idle.
    pub(super) machine: Duration,
    /// Of this process and the children it has waited for.
    pub(super) process: Duration,
    /// Of the machine.
    pub(super) context_switches: u64,
}

impl CpuTimes {
    pub(super) fn now() -> Result<Self, SyscallError> {
        let stat =
            std::fs::read_to_string(STAT).map_err(|error| failed(format!("read({STAT:?})"), &error))?;
        let (ticks, context_switches) =
            parse(&stat).ok_or_else(|| SyscallError::new(format!("read({STAT:?})"), Errno::BADMSG))?;
        let a_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Self {
            machine: Duration::from_millis(ticks.saturating_mul(1000) / a_second),
            process: cputime::process()? + cputime::reaped_children()?,
            context_switches,
        })
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(earlier.machine),
            process: self.process.saturating_sub(earlier.process),
            context_switches: self.context_switches.saturating_sub(earlier.context_switches),
        }
    }
}

/// Ticks that were not idle, and context switches.
///
/// The first line: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice. Guests' ticks are in user and
/// nice already; stolen ones were another machine's.
fn parse(stat: &str) -> Option<(u64, u64)> {
    let mut ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(str::parse::<u64>);
    let mut busy = 0;
    for position in 0..7 {
        let value = ticks.next()?.ok()?;
        if !matches!(position, 3 | 4) {
            busy += value;
        }
    }
    let switches = stat.lines().find_map(|line| line.strip_prefix("ctxt "))?;
    Some((busy, switches.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_ticks_are_not_work() {
        let stat =
            "cpu  100 20 3 9999 888 4 5 77 60 0\ncpu0 1 2 3 4 5 6 7 8 9 0\nintr 5 1 2\nctxt 4242\nbtime 1\n";
        assert_eq!(parse(stat), Some((132, 4242)));
        for wrong in ["", "cpu 1 2 3\nctxt 1\n", "cpu  1 2 3 4 5 6 7\n", "cpu  1 2 x 4 5 6 7\nctxt 1\n"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn this_machine_has_worked_and_switched() {
        let before = CpuTimes::now().unwrap();
        let begin = cputime::thread();
        while cputime::thread() - begin < Duration::from_millis(40) {}
        let used = CpuTimes::now().unwrap().since(&before);
        assert!(before.machine > Duration::ZERO && before.context_switches > 0);
        assert!(used.process >= Duration::from_millis(40), "{used:?}");
        assert!(used.machine >= Duration::from_millis(20), "to a tick or two: {used:?}");
    }
}
