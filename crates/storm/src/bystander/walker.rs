//! A program that looks up a path, as all programs do all the time.
//!
//! A walk spins while `mount_lock` is held for writing, and starts over if it was meanwhile. The times hold whatever
//! else keeps a thread from its CPU: a storm that fills the CPUs shows here too.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use plywood_kernel::SyscallError;
use rustix::io::Errno;

use super::histogram::Histogram;
use super::thread::{self, Lap, Place, Running, Stop};

/// Lookups in a row. More would make fewer wake-ups of the same number of lookups, and see fewer moments.
const BURST: usize = 16;
/// 0.7 % of one CPU.
const REST: u32 = 150;
/// Not more often than timers are exact.
const AT_LEAST: Duration = Duration::from_millis(1);

/// Finds how long lookups take; each counts for the microseconds until the next ones, or until the launches are over.
pub(super) fn start(place: &Place, path: &Path, begin: Stop) -> Result<Running<Histogram>, SyscallError> {
    let refused = |errno| SyscallError::new(format!("newfstatat(AT_FDCWD, {path:?}, 0)"), errno);
    if !path.is_absolute() {
        return Err(refused(Errno::INVAL));
    }
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| refused(Errno::INVAL))?;
    let look_up = move || match rustix::fs::stat(&path) {
        Ok(_) => Ok(()),
        Err(errno) => Err(SyscallError::new(format!("newfstatat(AT_FDCWD, {path:?}, 0)"), errno)),
    };
    let prepare = move || look_up().map(|()| look_up);
    thread::run("plywood-walker", place, prepare, move |look_up, stop| {
        let mut times = Histogram::new();
        if stop.comes_before(&begin)? {
            return Ok(times);
        }
        let mut lap = Lap::start();
        loop {
            let begin = Instant::now();
            let mut burst = [Duration::ZERO; BURST];
            for took in &mut burst {
                let begin = Instant::now();
                look_up()?;
                *took = begin.elapsed();
            }
            let over = stop.wait(lap.rest(REST, AT_LEAST))?;
            let each = begin.elapsed().as_micros() as u64 / BURST as u64;
            burst.iter().for_each(|took| times.add(*took, each.max(1)));
            if over {
                return Ok(times);
            }
        }
    })
}
