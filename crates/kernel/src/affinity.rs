//! Which CPUs a thread may run on, and which one it runs on.
//!
//! CPUs are numbered as in `/sys/devices/system/cpu`. Sets go up to [`MAX_CPUS`]; a kernel that has more CPUs than
//! that answers EINVAL instead of a part of the truth.

use rustix::io::Errno;
use rustix::thread::CpuSet;

use crate::error::{Result, SyscallError};

/// CPUs with this number and above cannot be named.
pub const MAX_CPUS: u32 = CpuSet::MAX_CPU as u32;

/// The CPUs the calling thread may run on, ascending: its affinity within the cpuset of its control group.
///
/// # Errors
/// EINVAL on a machine with more than [`MAX_CPUS`].
pub fn allowed() -> Result<Vec<u32>> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|errno| SyscallError::new("sched_getaffinity(0)", errno))?;
    Ok((0..MAX_CPUS).filter(|cpu| set.is_set(*cpu as usize)).collect())
}

/// Confines the calling thread, and those it starts from now on, to these CPUs.
///
/// # Errors
/// EINVAL if none of them is online and in the cpuset of the thread's control group, or one is beyond
/// [`MAX_CPUS`].
pub fn confine_current_thread(cpus: &[u32]) -> Result<()> {
    let refused = |errno| SyscallError::new(format!("sched_setaffinity(0, {cpus:?})"), errno);
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= MAX_CPUS {
            return Err(refused(Errno::INVAL));
        }
        set.set(cpu as usize);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(refused)
}

/// The CPU the calling thread runs on; unless it is confined to one, that may have changed by now.
pub fn current_cpu() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_own_thread;

    #[test]
    fn a_confined_thread_runs_where_it_was_put_and_so_do_its_children() {
        let all = allowed().unwrap();
        assert!(!all.is_empty() && all.is_sorted());
        for &cpu in &all {
            on_own_thread(|| {
                confine_current_thread(&[cpu]).unwrap();
                assert_eq!(current_cpu(), cpu);
                assert_eq!(allowed().unwrap(), [cpu]);
                assert_eq!(on_own_thread(allowed).unwrap(), [cpu]);
            });
        }
        assert_eq!(allowed().unwrap(), all, "others are not moved");
    }

    #[test]
    fn cpus_that_are_not_there_are_refused_by_name() {
        for cpus in [&[][..], &[MAX_CPUS - 1], &[MAX_CPUS], &[u32::MAX]] {
            let error = confine_current_thread(cpus).unwrap_err();
            assert_eq!(error.errno(), Errno::INVAL);
            assert_eq!(error.call(), format!("sched_setaffinity(0, {cpus:?})"));
        }
    }
}
