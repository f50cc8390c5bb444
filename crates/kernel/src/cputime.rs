//! CPU time used so far, user and system together.

use std::time::Duration;

use rustix::time::ClockId;

use crate::error::{Result, SyscallError};
use crate::sys;

/// The calling thread's.
pub fn thread() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// This process's, all threads, those that have ended as well.
pub fn process() -> Result<Duration> {
    usage(libc::RUSAGE_SELF, "RUSAGE_SELF")
}

/// That of the children this process has waited for, and of theirs they have waited for.
pub fn reaped_children() -> Result<Duration> {
    usage(libc::RUSAGE_CHILDREN, "RUSAGE_CHILDREN")
}

fn usage(who: libc::c_int, name: &str) -> Result<Duration> {
    sys::cpu_time_us(who)
        .map(Duration::from_micros)
        .map_err(|errno| SyscallError::new(format!("getrusage({name})"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_own_thread;

    fn spin(for_: Duration) -> Duration {
        let start = thread();
        while thread() - start < for_ {
            std::hint::black_box(0);
        }
        thread() - start
    }

    #[test]
    fn work_is_the_threads_and_the_processs() {
        let (here, before) = (thread(), process().unwrap());
        let spun = on_own_thread(|| spin(Duration::from_millis(30)));
        let gone = process().unwrap() - before;
        assert!(spun >= Duration::from_millis(30));
        // The kernel may split a tick between user and system, but keeps the sum to the microsecond.
        assert!(gone + Duration::from_micros(2) >= spun, "{gone:?} of which {spun:?} in one thread");
        assert!(thread() - here < Duration::from_millis(30), "waiting is not working");
    }

    #[test]
    fn a_childs_time_counts_when_it_has_been_waited_for() {
        let before = reaped_children().unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"])
            .spawn()
            .unwrap();
        child.wait().unwrap();
        assert!(reaped_children().unwrap() > before);
    }
}
