//! How long the mount table is at its longest.

use std::time::Duration;

use plywood_kernel::{SyscallError, table};

use super::thread::{self, Lap, Place, Running};

const EVERY: Duration = Duration::from_millis(5);
/// 0.3 % of one CPU; where the kernel does not tell the size (before 6.12), the table is read for it.
const REST: u32 = 400;

/// Finds the most mounts it saw.
pub(super) fn start(place: &Place) -> Result<Running<usize>, SyscallError> {
    let namespace = place.namespace();
    thread::run(
        "plywood-table",
        place,
        || Ok(()),
        move |(), stop| {
            let mut peak = 0;
            let mut lap = Lap::start();
            let mut stopping = false;
            loop {
                let size = match namespace.size()? {
                    Some(size) => size,
                    None => table::count()?,
                };
                peak = peak.max(size);
                // One last look: what is left behind counts.
                if stopping {
                    return Ok(peak);
                }
                stopping = stop.wait(lap.rest(REST, EVERY))?;
            }
        },
    )
}
