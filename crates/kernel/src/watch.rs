//! How many mounts were attached to and detached from the mount namespace of the calling thread.
//!
//! From 6.15 the kernel itself reports every event (fanotify on the namespace): exact. Before that, two
//! readings of the mount table are compared: what came and went in between is not seen.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{self, Result, SyscallError};
use crate::{MountNs, sys, table};

// <linux/fanotify.h>; libc has not got them yet.
const FAN_REPORT_MNT: u32 = 0x4000;
const FAN_MARK_MNTNS: u32 = 0x110;
const FAN_MNT_ATTACH: u64 = 0x0100_0000;
const FAN_MNT_DETACH: u64 = 0x0200_0000;

/// Counts of events since a watch started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountCounts {
    /// Mounts that appeared in the namespace's table.
    pub attached: u64,
    /// Mounts that disappeared from it.
    pub detached: u64,
}

impl MountCounts {
    /// Both together.
    pub fn total(self) -> u64 {
        self.attached + self.detached
    }
}

/// A watch on one mount namespace; it ends with the namespace.
#[derive(Debug)]
pub struct MountWatch(Method);

#[derive(Debug)]
enum Method {
    Events {
        group: OwnedFd,
        seen: MountCounts,
    },
    /// The open file stays with the namespace it was opened in, whoever reads it.
    Difference {
        mountinfo: File,
        before: BTreeSet<u64>,
    },
}

impl MountWatch {
    /// Watches the calling thread's namespace, by events if the kernel has them, else by comparing tables.
    pub fn start() -> Result<MountWatch> {
        match Self::start_events(&MountNs::current()?)? {
            Some(watch) => Ok(watch),
            None => Self::start_difference(),
        }
    }

    /// Watches a namespace by kernel events; None if the kernel (before 6.15) has none.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the namespace's user namespace.
    pub fn start_events(ns: &MountNs) -> Result<Option<MountWatch>> {
        const INIT: u32 = FAN_REPORT_MNT
            | libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            // A burst must not overflow: the default queue holds 16,384 events.
            | libc::FAN_UNLIMITED_QUEUE;
        let unknown = |errno| matches!(errno, Errno::INVAL | Errno::NOSYS);
        let group = match sys::fanotify_init(INIT) {
            Ok(group) => group,
            Err(errno) if unknown(errno) => return Ok(None),
            Err(errno) => {
                let call = "fanotify_init(FAN_REPORT_MNT|FAN_CLOEXEC|FAN_NONBLOCK|FAN_UNLIMITED_QUEUE, 0)";
                return Err(SyscallError::new(call, errno));
            }
        };
        let mask = FAN_MNT_ATTACH | FAN_MNT_DETACH;
        match sys::fanotify_mark(group.as_fd(), libc::FAN_MARK_ADD | FAN_MARK_MNTNS, mask, ns.as_fd()) {
            Ok(()) => Ok(Some(MountWatch(Method::Events { group, seen: MountCounts::default() }))),
            Err(errno) if unknown(errno) => Ok(None),
            Err(errno) => Err(SyscallError::new(
                format!(
                    "fanotify_mark({}, FAN_MARK_ADD|FAN_MARK_MNTNS, FAN_MNT_ATTACH|FAN_MNT_DETACH, {}, NULL)",
                    error::fd(&group),
                    error::fd(ns)
                ),
                errno,
            )),
        }
    }

    /// Watches the calling thread's namespace by comparing mount tables, on any kernel.
    pub fn start_difference() -> Result<MountWatch> {
        let path = "/proc/thread-self/mountinfo";
        let mut mountinfo = File::open(path).map_err(|error| {
            SyscallError::from_io(format!("openat(AT_FDCWD, {path:?}, O_RDONLY)"), &error)
        })?;
        let before = read_ids(&mut mountinfo)?;
        Ok(MountWatch(Method::Difference { mountinfo, before }))
    }

    /// Whether every single event is counted; false when tables are compared.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Method::Events { .. })
    }

    /// What has happened since the start. Can be asked again and again, from any thread.
    ///
    /// # Errors
    /// EOVERFLOW if the kernel dropped events.
    pub fn counts(&mut self) -> Result<MountCounts> {
        match &mut self.0 {
            Method::Events { group, seen } => {
                drain(group, seen)?;
                Ok(*seen)
            }
            Method::Difference { mountinfo, before } => {
                let now = read_ids(mountinfo)?;
                Ok(MountCounts {
                    attached: now.difference(before).count() as u64,
                    detached: before.difference(&now).count() as u64,
                })
            }
        }
    }
}

fn read_ids(mountinfo: &mut File) -> Result<BTreeSet<u64>> {
    let mut bytes = Vec::new();
    mountinfo
        .seek(SeekFrom::Start(0))
        .and_then(|_| mountinfo.read_to_end(&mut bytes))
        .map_err(|error| SyscallError::from_io(format!("read({})", error::fd(&*mountinfo)), &error))?;
    let entries = table::parse_mountinfo(&bytes)
        .map_err(|error| SyscallError::new(format!("read(mountinfo): {error}"), Errno::BADMSG))?;
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

/// Reads all queued events: 24 bytes of `fanotify_event_metadata`, then an info record with the mount's id.
fn drain(group: &OwnedFd, seen: &mut MountCounts) -> Result<()> {
    let mut buffer = [0u8; 16 * 1024];
    loop {
        let length = match rustix::io::read(group, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(SyscallError::new(format!("read({})", error::fd(group)), errno)),
        };
        if !count_events(&buffer[..length], seen) {
            let call = format!("read({}): FAN_Q_OVERFLOW", error::fd(group));
            return Err(SyscallError::new(call, Errno::OVERFLOW));
        }
    }
}

/// False if the kernel says it dropped events. A move within the namespace is both a detach and an attach.
fn count_events(mut events: &[u8], seen: &mut MountCounts) -> bool {
    /// `event_len` at 0, `mask` at 8 of `struct fanotify_event_metadata`.
    const METADATA: usize = 24;
    let mut complete = true;
    while let (Some(length), Some(mask)) =
        (events.first_chunk::<4>(), events.get(8..).and_then(|rest| rest.first_chunk::<8>()))
    {
        let length = u32::from_ne_bytes(*length) as usize;
        let mask = u64::from_ne_bytes(*mask);
        seen.attached += u64::from(mask & FAN_MNT_ATTACH != 0);
        seen.detached += u64::from(mask & FAN_MNT_DETACH != 0);
        complete &= mask & libc::FAN_Q_OVERFLOW == 0;
        match events.get(length.max(METADATA)..) {
            Some(rest) => events = rest,
            None => break,
        }
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; 40];
        bytes[..4].copy_from_slice(&40u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&mask.to_ne_bytes());
        bytes
    }

    #[test]
    fn events_are_counted_by_their_masks() {
        let bytes = [event(FAN_MNT_ATTACH), event(FAN_MNT_DETACH), event(FAN_MNT_ATTACH | FAN_MNT_DETACH)];
        let mut seen = MountCounts::default();
        assert!(count_events(&bytes.concat(), &mut seen));
        assert_eq!(seen, MountCounts { attached: 2, detached: 2 });
        assert_eq!(seen.total(), 4);
    }

    #[test]
    fn an_overflow_is_never_hidden() {
        let mut seen = MountCounts::default();
        assert!(!count_events(&event(libc::FAN_Q_OVERFLOW), &mut seen));
    }

    #[test]
    fn truncated_events_end_the_walk() {
        let mut bytes = event(FAN_MNT_ATTACH);
        bytes[..4].copy_from_slice(&0u32.to_ne_bytes());
        let mut seen = MountCounts::default();
        assert!(count_events(&bytes[..20], &mut seen));
        assert_eq!(seen.attached, 1);
    }
}
