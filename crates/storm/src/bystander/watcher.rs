//! A program that keeps up with the mount table, as PID 1 does: told of a change, it reads and parses all of it.
//!
//! Its rests are not PID 1's: systemd reads on, up to five times a second from version 249, without a limit before. So
//! they are taken off the lag, and CPU time is to be understood a reading.
//!
//! ```text
//! told ──> read, parse ──> rest ──> told at once if anything changed since it was last told
//! ```

use std::fs::File;
use std::time::{Duration, Instant};

use plywood_kernel::{SyscallError, table};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::mountinfo::{self, Proc};
use super::thread::{self, Lap, Place, Running, Stop};

/// 0.5 % of one CPU.
const REST: u32 = 200;

/// What it went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Readings, each of them because something had changed.
    pub(super) wakeups: u64,
    /// From a change to the end of the reading that shows it, less our rests. Of a change that came while it was not
    /// listening it is only known that it came after the last time it was told: the longest it can have been is taken.
    pub(super) lag_max: Duration,
}

/// Finds what a reader that keeps up goes through. All changes before the stop are seen.
pub(super) fn start(place: &Place) -> Result<Running<Seen>, SyscallError> {
    let proc = Proc::open()?;
    thread::run("plywood-watcher", place, move || proc.mountinfo(), |file, stop| keep_up(&file, stop))
}

fn keep_up(file: &File, stop: &Stop) -> Result<Seen, SyscallError> {
    let mut seen = Seen::default();
    let mut text = Vec::new();
    let mut lap = Lap::start();
    // The earliest a change can have come that it has not been told of.
    let mut unheard = Instant::now();
    let mut stopping = false;
    loop {
        let Some(changed) = wait_for_change(file, stop, unheard)? else {
            // The stop may have come together with the last change: once more.
            if stopping {
                return Ok(seen);
            }
            stopping = true;
            continue;
        };
        unheard = Instant::now();
        seen.wakeups += 1;
        mountinfo::read_whole(file, &mut text)?;
        table::parse_mountinfo(&text)
            .map_err(|error| SyscallError::new(format!("read(mountinfo): {error}"), Errno::BADMSG))?;
        seen.lag_max = seen.lag_max.max(changed.elapsed());
        let resting = Instant::now();
        stopping |= stop.wait(lap.rest(REST, Duration::ZERO))?;
        unheard += resting.elapsed();
    }
}

/// When the table changed, `unheard` if that was before it listened; None when there is nothing new and it is time to
/// stop.
///
/// Asking makes the kernel forget the change: what comes during the reading is told the next time.
fn wait_for_change(file: &File, stop: &Stop, unheard: Instant) -> Result<Option<Instant>, SyscallError> {
    let changes = PollFlags::PRI | PollFlags::ERR;
    let mut fds = [PollFd::new(file, changes), PollFd::new(stop, PollFlags::IN)];
    thread::poll(&mut fds, Some(Duration::ZERO))?;
    if fds[0].revents().intersects(changes) {
        return Ok(Some(unheard));
    }
    while !fds[1].revents().contains(PollFlags::IN) {
        thread::poll(&mut fds, None)?;
        if fds[0].revents().intersects(changes) {
            return Ok(Some(Instant::now()));
        }
    }
    Ok(None)
}
