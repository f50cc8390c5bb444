//! Compare-and-swap with a pause: every attempt takes the cache line away from the holder.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood_kernel::SyscallError;

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::{Padded, Section};

pub(in crate::lockbench) struct Cas(Padded<AtomicBool>);

impl Lock for Cas {
    fn new(_roles: &Roles) -> Result<Self, SyscallError> {
        Ok(Self(Padded::default()))
    }

    fn operate(&self, _me: usize, section: &Section) -> Result<(), SyscallError> {
        while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
        }
        section.write();
        self.0.store(false, Ordering::Release);
        Ok(())
    }
}
