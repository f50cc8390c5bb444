//! A health check: opens, reads and closes the mount table, now and then.
//!
//! Reading takes the namespace semaphore once a page of text, behind every writer who waits for it.

use std::time::{Duration, Instant};

use plywood_kernel::SyscallError;

use super::mountinfo::{self, Proc};
use super::thread::{self, Lap, Place, Running};

const EVERY: Duration = Duration::from_millis(100);
/// 1.3 % of one CPU.
const REST: u32 = 80;

/// Finds the milliseconds of each reading.
pub(super) fn start(place: &Place) -> Result<Running<Vec<f64>>, SyscallError> {
    let proc = Proc::open()?;
    thread::run(
        "plywood-health",
        place,
        || Ok(()),
        move |(), stop| {
            let mut readings = Vec::new();
            let mut text = Vec::new();
            let mut lap = Lap::start();
            loop {
                let begin = Instant::now();
                mountinfo::read_whole(&proc.mountinfo()?, &mut text)?;
                readings.push(super::ms(begin.elapsed()));
                if stop.wait(lap.rest(REST, EVERY))? {
                    return Ok(readings);
                }
            }
        },
    )
}
