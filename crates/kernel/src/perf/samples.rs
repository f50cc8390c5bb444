//! The flags of `mount(2)` calls that fail or succeed, call by call.
//!
//! The tracepoint at a call's end knows its result but not its arguments; the one at its begin the reverse. But the
//! caller's registers are as they were at the begin, all but the result's: the fourth argument of `mount`, its flags,
//! is still in its register when the call ends, and perf can write down just that register.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::attr::{self, Attr};
use super::ring::Ring;
use super::{Event, Scope, TraceFs};
use crate::error::{self, Result, SyscallError};

/// The register that holds a system call's fourth argument, as perf numbers them (`asm/perf_regs.h`).
#[cfg(target_arch = "x86_64")]
const FOURTH_ARGUMENT: u32 = 18; // r10
#[cfg(target_arch = "aarch64")]
const FOURTH_ARGUMENT: u32 = 3; // x3

/// Pages of a CPU's ring: 10,900 samples between two [`MountFlags::take`] where pages have 4 KiB. Up to 512 KiB a CPU are
/// free of RLIMIT_MEMLOCK.
const PAGES: usize = 64;

/// `PERF_RECORD_SAMPLE`; the records of other types are about the buffer itself.
const RECORD_SAMPLE: u32 = 9;

/// A watch on `mount(2)`.
#[derive(Debug)]
pub struct MountFlags {
    cpus: Vec<Cpu>,
}

#[derive(Debug)]
struct Cpu {
    event: OwnedFd,
    ring: Ring,
    taken: u64,
}

impl MountFlags {
    /// Watches calls whose result is such that `filter` (`ret != 0`) is true, from now on.
    ///
    /// # Errors
    /// As [`Counters::open`](super::Counters::open); EPERM if the buffer may not be locked into memory.
    pub fn open(tracefs: &TraceFs, scope: Scope, filter: &str) -> Result<MountFlags> {
        let event = Event::tracepoint(tracefs, "syscalls/sys_exit_mount", Some(filter))?;
        let attr = Attr {
            disabled: true,
            sample_type: attr::SAMPLE_REGS_USER,
            sample_regs_user: 1 << FOURTH_ARGUMENT,
            ..event.attr()
        };
        let mut cpus = Vec::new();
        for cpu in super::cpus(scope)? {
            let fd = event.open(&attr, scope, cpu, None)?;
            let ring = Ring::map(fd.as_fd(), PAGES).map_err(|errno| {
                let length = (1 + PAGES) * rustix::param::page_size();
                let call =
                    format!("mmap(NULL, {length}, PROT_READ|PROT_WRITE, MAP_SHARED, {}, 0)", error::fd(&fd));
                SyscallError::new(call, errno)
            })?;
            cpus.push(Cpu { event: fd, ring, taken: 0 });
        }
        for cpu in &cpus {
            super::enable(&cpu.event)?;
        }
        Ok(MountFlags { cpus })
    }

    /// The flags of each call since the last `take`, in no order.
    ///
    /// # Errors
    /// EOVERFLOW if there were more than the buffers hold; the next `take` starts afresh.
    pub fn take(&mut self) -> Result<Vec<u64>> {
        let mut flags = Vec::new();
        let mut lost = false;
        for cpu in &mut self.cpus {
            // A sampled event is counted as well, lost samples included. Count first: what comes meanwhile is not missed.
            let mut count = [0u8; 8];
            super::read_values(&cpu.event, &mut count)?;
            let before = flags.len();
            parse(&cpu.ring.drain(), &mut flags);
            cpu.taken += (flags.len() - before) as u64;
            let counted = u64::from_ne_bytes(count);
            if cpu.taken < counted {
                cpu.taken = counted;
                lost = true;
            }
        }
        if lost {
            return Err(SyscallError::new("read(perf ring of sys_exit_mount)", Errno::OVERFLOW));
        }
        Ok(flags)
    }
}

/// Each record: type (4 bytes), misc (2), size (2); a sample then has the registers' width and the one register.
fn parse(mut records: &[u8], flags: &mut Vec<u64>) {
    while let (Some(kind), Some(size)) =
        (records.first_chunk::<4>(), records.get(6..).and_then(|rest| rest.first_chunk::<2>()))
    {
        let size = usize::from(u16::from_ne_bytes(*size));
        if u32::from_ne_bytes(*kind) == RECORD_SAMPLE
            && let Some(register) = records.get(16..size).and_then(|rest| rest.first_chunk::<8>())
        {
            flags.push(u64::from_ne_bytes(*register));
        }
        match records.get(size.max(8)..) {
            Some(rest) => records = rest,
            None => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, body: &[u64]) -> Vec<u8> {
        let size = u16::try_from(8 + 8 * body.len()).unwrap();
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn samples_are_told_from_other_records() {
        let bytes = [record(9, &[2, 0x1000]), record(2, &[1, 77]), record(9, &[2, 0x20])].concat();
        let mut flags = Vec::new();
        parse(&bytes, &mut flags);
        assert_eq!(flags, [0x1000, 0x20]);
    }

    #[test]
    fn truncated_records_end_the_walk() {
        let whole = record(9, &[2, 0x1000]);
        for length in 0..whole.len() {
            let mut flags = Vec::new();
            parse(&whole[..length], &mut flags);
            assert_eq!(flags, [0u64; 0], "{length} bytes");
        }
        let mut flags = Vec::new();
        parse(&[0; 64], &mut flags);
        assert_eq!(flags, [0u64; 0]);
    }
}
