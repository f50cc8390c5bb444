//! A ticket lock: first come, first served; all waiters read the line that each release writes.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};

use plywood_kernel::SyscallError;

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::{Padded, Section};

pub(in crate::lockbench) struct Ticket {
    next: Padded<AtomicUsize>,
    serving: Padded<AtomicUsize>,
}

impl Lock for Ticket {
    fn new(_roles: &Roles) -> Result<Self, SyscallError> {
        Ok(Self { next: Padded::default(), serving: Padded::default() })
    }

    fn operate(&self, _me: usize, section: &Section) -> Result<(), SyscallError> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        while self.serving.load(Ordering::Acquire) != ticket {
            spin_loop();
        }
        section.write();
        self.serving.store(ticket.wrapping_add(1), Ordering::Release);
        Ok(())
    }
}
