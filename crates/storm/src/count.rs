//! Mount operations of the whole machine, in any mount namespace, by any program; counted by the kernel.
//!
//! | counted as | system calls |
//! |---|---|
//! | attach | `move_mount` that succeeded; `mount` that succeeded and was new, a bind mount or a move |
//! | detach | `umount` and `umount2` that succeeded, lazy ones too |
//!
//! So it counts calls that change a mount table under the global locks. A call counts once, however many mounts it
//! takes along (recursive binds, propagation). Not counted: calls that failed; remounts and changes of propagation by
//! `mount`; detached clones (`open_tree`, `fsmount`), which are in no table; what `unshare` and `clone` copy; what
//! `pivot_root` moves; what goes with a namespace's last process; automounts; calls of 32-bit programs on a 64-bit
//! kernel. `MOVE_MOUNT_SET_GROUP` (checkpoint and restore only) is taken for an attach.
//!
//! A `mount` that fails is told from a remount that fails by its flags, so the numbers are exact, up to calls that are
//! under way at the moment of reading.

use plywood_kernel::perf::{Counters, Event, MountFlags, Scope, TraceFs};
use plywood_kernel::{SyscallError, perf};

const MS_REMOUNT: u64 = 1 << 5;
const MS_BIND: u64 = 1 << 12;
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`
const PROPAGATION: u64 = 0b1111 << 17;
/// Old programs put this above 16 bits of flags; the kernel then looks at those only.
const MAGIC: std::ops::RangeInclusive<u64> = 0xc0ed_0000..=0xc0ed_ffff;

/// A counter that runs from [`open`](Self::open) on. Opening takes milliseconds: once a run, not once a round.
#[derive(Debug)]
pub struct MountCounter {
    /// `move_mount` that succeeded, `umount` that succeeded, `mount` begun with attaching flags.
    calls: Counters,
    refused: MountFlags,
    refused_attaches: u64,
}

/// Operations since the counter was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountTotals {
    /// Calls that attached mounts.
    pub attach: u64,
    /// Calls that detached mounts.
    pub detach: u64,
}

impl MountTotals {
    /// What has happened between an earlier reading and this one.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            attach: self.attach.saturating_sub(earlier.attach),
            detach: self.detach.saturating_sub(earlier.detach),
        }
    }
}

impl MountCounter {
    /// Counts from now on.
    ///
    /// # Errors
    /// The kernel will not count: no perf events, no tracepoints of system calls, no privilege, no descriptors left.
    pub fn open(scope: Scope) -> Result<Self, SyscallError> {
        let tracefs = TraceFs::open()?;
        let event = |name, filter| Event::tracepoint(&tracefs, name, Some(filter));
        let calls = Counters::open(
            scope,
            &[
                event("syscalls/sys_exit_move_mount", "ret == 0")?,
                event("syscalls/sys_exit_umount", "ret == 0")?,
                event("syscalls/sys_enter_mount", &attaching_filter())?,
            ],
        )?;
        let refused = MountFlags::open(&tracefs, scope, "ret != 0")?;
        Ok(Self { calls, refused, refused_attaches: 0 })
    }

    /// Whether the running kernel can count them; a missing privilege is an error.
    pub fn supported() -> Result<bool, SyscallError> {
        perf::syscall_tracepoints()
    }

    /// What has happened since the counter was opened.
    ///
    /// # Errors
    /// EOVERFLOW if more `mount` calls failed since the last reading than can be told apart (10,900 a CPU).
    pub fn read(&mut self) -> Result<MountTotals, SyscallError> {
        let counts = self.calls.read()?;
        let refused = self.refused.take()?;
        self.refused_attaches += refused.into_iter().filter(|flags| attaches(*flags)).count() as u64;
        let count = |index: usize| counts.get(index).copied().unwrap_or(0);
        Ok(MountTotals {
            attach: count(0) + count(2).saturating_sub(self.refused_attaches),
            detach: count(1),
        })
    }
}

/// Whether `mount` with these flags attaches something, as the kernel decides it: remount, bind, change of
/// propagation, move and new mount, in this order.
fn attaches(flags: u64) -> bool {
    flags & MS_REMOUNT == 0 && (flags & MS_BIND != 0 || flags & PROPAGATION == 0 || MAGIC.contains(&flags))
}

/// [`attaches`] in the language of tracepoint filters.
fn attaching_filter() -> String {
    let (first, last) = (MAGIC.start(), MAGIC.end());
    format!(
        "!(flags & {MS_REMOUNT:#x}) && ((flags & {MS_BIND:#x}) || !(flags & {PROPAGATION:#x}) || \
         (flags >= {first:#x} && flags <= {last:#x}))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_decide_as_in_the_kernel() {
        const MS_REC: u64 = 1 << 14;
        const MS_PRIVATE: u64 = 1 << 18;
        const MS_MOVE: u64 = 1 << 13;
        for flags in
            [0, 1, MS_BIND, MS_BIND | MS_REC, MS_MOVE, MS_BIND | MS_PRIVATE, 0xc0ed_0000, 0xc0ed_1000]
        {
            assert!(attaches(flags), "{flags:#x}");
        }
        for flags in
            [MS_REMOUNT, MS_REMOUNT | MS_BIND | 1, MS_PRIVATE, MS_REC | MS_PRIVATE, 1 << 20, 0xc0ed_0020]
        {
            assert!(!attaches(flags), "{flags:#x}");
        }
    }

    #[test]
    fn the_filter_says_the_same() {
        assert_eq!(
            attaching_filter(),
            "!(flags & 0x20) && ((flags & 0x1000) || !(flags & 0x1e0000) || \
             (flags >= 0xc0ed0000 && flags <= 0xc0edffff))"
        );
    }
}
