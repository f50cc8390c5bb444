//! The standard library's mutex: it spins shortly and then sleeps in `futex(FUTEX_WAIT)`.

use std::sync::PoisonError;

use plywood_kernel::SyscallError;

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::{Padded, Section};

pub(in crate::lockbench) struct Mutex(Padded<std::sync::Mutex<()>>);

impl Lock for Mutex {
    fn new(_roles: &Roles) -> Result<Self, SyscallError> {
        Ok(Self(Padded::default()))
    }

    fn operate(&self, _me: usize, section: &Section) -> Result<(), SyscallError> {
        let _held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        section.write();
        Ok(())
    }
}
