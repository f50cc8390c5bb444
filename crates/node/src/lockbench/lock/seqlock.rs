//! A sequence lock with one writer: readers wait while the sequence is odd and start again if it has changed.
//!
//! This is `mount_lock` as `path_init` takes it. Readers are measured; the writer runs beside them, as soon as there are
//! two threads.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use plywood_kernel::SyscallError;

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::{Padded, Section};

pub(in crate::lockbench) struct Seqlock {
    sequence: Padded<AtomicU64>,
    roles: Roles,
}

impl Lock for Seqlock {
    fn new(roles: &Roles) -> Result<Self, SyscallError> {
        Ok(Self { sequence: Padded::default(), roles: roles.clone() })
    }

    fn operate(&self, me: usize, section: &Section) -> Result<(), SyscallError> {
        if self.roles.contends(me) {
            self.read(section);
        } else {
            self.write(section);
        }
        Ok(())
    }
}

impl Seqlock {
    fn write(&self, section: &Section) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        section.write();
        self.sequence.store(before + 2, Ordering::Release);
    }

    fn read(&self, section: &Section) {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            if before % 2 == 1 {
                spin_loop();
                continue;
            }
            let seen = section.read();
            fence(Ordering::Acquire);
            if self.sequence.load(Ordering::Relaxed) == before {
                section.check(seen);
                return;
            }
        }
    }
}
