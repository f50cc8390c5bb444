//! Ranges of one file, locked between processes: a machine-wide register that cannot become stale.
//!
//! Open file description locks (`F_OFD_SETLK`, Linux 3.15) belong to the descriptor: the kernel gives them back when
//! the last copy of it is closed, however its process ends. The file stays empty; offsets may lie anywhere below 2^63
//! and mean what the caller says they mean. Locks are exclusive and advisory, for those who use the same file.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{self, Result, SyscallError};
use crate::sys;

/// One holder of locks in a file. Dropping gives all of them back.
#[derive(Debug)]
pub struct RangeLocks(File);

impl RangeLocks {
    /// A holder without locks yet. The file is made if it is missing, for its owner alone; a symbolic link is refused.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> Result<RangeLocks> {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path);
        opened.map(RangeLocks).map_err(|error| {
            let call = format!("openat(AT_FDCWD, {path:?}, O_RDWR|O_CREAT|O_NOFOLLOW|O_CLOEXEC, 0600)");
            SyscallError::from_io(call, &error)
        })
    }

    /// Locks `range`, unless another holder has any part of it: then false, and nothing is locked. What this holder
    /// had of it already is fine.
    ///
    /// # Errors
    /// ENOLCK when the kernel has no memory for it; EINVAL for an empty range or one beyond 2^63.
    pub fn try_lock(&self, range: Range<u64>) -> Result<bool> {
        match sys::ofd_lock(self.0.as_fd(), libc::F_WRLCK, &range) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(self.failed("F_OFD_SETLK", "F_WRLCK", &range, errno)),
        }
    }

    /// Whether the file still has a name. Locks on one that has lost it are not seen by those who open the name anew.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn is_linked(&self) -> Result<bool> {
        match rustix::fs::fstat(&self.0) {
            Ok(stat) => Ok(stat.st_nlink > 0),
            Err(errno) => Err(SyscallError::new(format!("fstat({})", error::fd(&self.0)), errno)),
        }
    }

    /// Gives `range` back; what was not locked stays so.
    ///
    /// # Errors
    /// As [`RangeLocks::try_lock`].
    pub fn unlock(&self, range: Range<u64>) -> Result<()> {
        sys::ofd_lock(self.0.as_fd(), libc::F_UNLCK, &range)
            .map_err(|errno| self.failed("F_OFD_SETLK", "F_UNLCK", &range, errno))
    }

    /// What other holders have of `range`, cut to it, by offset. Neighbours may come in one piece.
    ///
    /// # Errors
    /// As [`RangeLocks::try_lock`].
    pub fn held_by_others(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut held = Vec::new();
        // The kernel names any one lock in the way, not the first.
        let mut unknown = vec![range];
        while let Some(range) = unknown.pop() {
            if range.is_empty() {
                continue;
            }
            let found = sys::ofd_conflict(self.0.as_fd(), &range)
                .map_err(|errno| self.failed("F_OFD_GETLK", "F_WRLCK", &range, errno))?;
            if let Some(found) = found {
                let found = found.start.max(range.start)..found.end.min(range.end);
                unknown.push(range.start..found.start);
                unknown.push(found.end..range.end);
                held.push(found);
            }
        }
        held.sort_unstable_by_key(|range| range.start);
        Ok(held)
    }

    fn failed(&self, command: &str, kind: &str, range: &Range<u64>, errno: Errno) -> SyscallError {
        let fd = error::fd(&self.0);
        let (start, length) = (range.start, range.end.saturating_sub(range.start));
        SyscallError::new(
            format!(
                "fcntl({fd}, {command}, {{l_type={kind}, l_whence=SEEK_SET, l_start={start}, l_len={length}}})"
            ),
            errno,
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holders<const N: usize>() -> (tempfile::TempDir, [RangeLocks; N]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let holders = std::array::from_fn(|_| RangeLocks::open(&path).unwrap());
        (dir, holders)
    }

    #[test]
    fn what_one_holder_has_no_other_gets() {
        let (_dir, [one, two]) = holders();
        assert!(one.try_lock(10..20).unwrap());
        assert!(one.try_lock(15..25).unwrap(), "its own");
        for taken in [0..11, 24..25, 12..13, 0..100] {
            assert!(!two.try_lock(taken.clone()).unwrap(), "{taken:?}");
        }
        assert!(two.try_lock(0..10).unwrap());
        assert!(two.try_lock(25..26).unwrap());
        one.unlock(12..18).unwrap();
        assert!(two.try_lock(12..18).unwrap());
        drop(one);
        assert!(two.try_lock(0..100).unwrap());
    }

    #[test]
    fn offsets_of_both_id_spaces_fit() {
        let (_dir, [one, two]) = holders();
        let last = (1u64 << 33) - 1..1 << 33;
        assert!(one.try_lock(last.clone()).unwrap());
        assert_eq!(two.held_by_others(0..1 << 34).unwrap(), [last]);
        assert!(one.try_lock(0..u64::MAX).is_err(), "beyond what the kernel counts");
        #[allow(clippy::reversed_empty_ranges, reason = "what a mistaken caller would pass")]
        let empty = 5..5;
        assert!(one.try_lock(empty).is_err());
    }

    #[test]
    fn a_dead_process_holds_nothing() {
        let (dir, [one]) = holders();
        // Bash has no such locks; the child inherits the descriptor's copy instead, and keeps it until it ends.
        let child_holder = RangeLocks::open(&dir.path().join("locks")).unwrap();
        assert!(child_holder.try_lock(0..5).unwrap());
        let copy = child_holder.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::from(copy))
            .spawn()
            .unwrap();
        drop(child_holder);
        assert_eq!(one.held_by_others(0..9).unwrap(), std::slice::from_ref(&(0..5)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(one.held_by_others(0..9).unwrap(), []);
    }

    #[test]
    fn a_file_that_lost_its_name_says_so() {
        let (dir, [one]) = holders();
        assert!(one.is_linked().unwrap());
        std::fs::remove_file(dir.path().join("locks")).unwrap();
        assert!(!one.is_linked().unwrap());
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("locks")).unwrap();
        let error = RangeLocks::open(&dir.path().join("locks")).unwrap_err();
        assert!(error.to_string().contains("O_NOFOLLOW"), "{error}");
        assert!(!dir.path().join("elsewhere").exists());
    }

    proptest! {
        #[test]
        fn others_are_seen_exactly(ranges in prop::collection::vec((0usize..3, 0u64..60, 1u64..9), 0..12)) {
            let (_dir, all) = holders::<4>();
            let [viewer, others @ ..] = &all;
            let mut owner = [None; 80];
            for (who, start, length) in ranges {
                let free = (start..start + length).all(|at| owner[at as usize].is_none_or(|had| had == who));
                prop_assert_eq!(others[who].try_lock(start..start + length).unwrap(), free);
                if free {
                    (start..start + length).for_each(|at| owner[at as usize] = Some(who));
                }
            }
            let seen = viewer.held_by_others(0..80).unwrap();
            for at in 0..80u64 {
                let held = seen.iter().filter(|range| range.contains(&at)).count();
                prop_assert_eq!(held, usize::from(owner[at as usize].is_some()));
            }
        }
    }
}
