//! A health check: opens, reads and closes the mount table, again and again while containers are launched.
//!
//! Reading takes the namespace semaphore once a page of text, behind every writer who waits for it.

use std::time::{Duration, Instant};

use plywood_kernel::SyscallError;

use super::mountinfo::{self, Proc};
use super::thread::{self, Lap, Place, Running, Stop};

/// Health checks come every second and seldomer, but to many of them; a short burst is to meet one, too.
const EVERY: Duration = Duration::from_millis(5);
/// 1.3 % of one CPU.
const REST: u32 = 80;

/// Finds the milliseconds each reading took, and of how many it is the only one: until the next began, or the launches
/// were over. A reading that waits keeps others from being made, so counting readings alone would hide what they met.
pub(super) fn start(place: &Place, begin: Stop) -> Result<Running<Vec<(f64, f64)>>, SyscallError> {
    let proc = Proc::open()?;
    thread::run(
        "plywood-health",
        place,
        || Ok(()),
        move |(), stop| {
            let mut readings = Vec::new();
            let mut text = Vec::new();
            if stop.comes_before(&begin)? {
                return Ok(readings);
            }
            let mut lap = Lap::start();
            loop {
                let begin = Instant::now();
                mountinfo::read_whole(&proc.mountinfo()?, &mut text)?;
                let took = begin.elapsed();
                let over = stop.wait(lap.rest(REST, EVERY))?;
                readings.push((super::ms(took), super::ms(begin.elapsed())));
                if over {
                    return Ok(readings);
                }
            }
        },
    )
}
