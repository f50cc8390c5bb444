//! A filesystem under construction: `fsopen`, `fsconfig`, `fsmount`.
//!
//! Unlike `mount(2)`, which cuts its option string off after a page, every parameter is a call of its own
//! and a refusal comes with the kernel's sentence about it, in [`SyscallError::kernel_log`], if there is one.
//! Overlay writes many of its reasons (no work directory, no lower layers) to the system log only, not here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags};
use rustix::path::Arg;

use crate::error::{self, Result, SyscallError};
use crate::mount::{MountAttrs, MountFd};

/// A filesystem context, open for parameters until [`create`](Self::create).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// A context for a filesystem of type `fstype`.
    ///
    /// # Errors
    /// ENODEV if the kernel has no such filesystem.
    pub fn open(fstype: &str) -> Result<FsContext> {
        rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            .map(FsContext)
            .map_err(|errno| SyscallError::new(format!("fsopen({fstype:?}, FSOPEN_CLOEXEC)"), errno))
    }

    /// Sets a parameter without a value.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(self, key)
            .map_err(|errno| self.refused(errno, &format!("FSCONFIG_SET_FLAG, {key:?}, NULL, 0")))
    }

    /// Sets a parameter to a string of at most 255 bytes.
    pub fn set_string(&self, key: &str, value: impl Arg) -> Result<()> {
        let value = crate::mount::c_path("fsconfig", value)?;
        rustix::mount::fsconfig_set_string(self, key, &*value)
            .map_err(|errno| self.refused(errno, &format!("FSCONFIG_SET_STRING, {key:?}, {value:?}, 0")))
    }

    /// Sets a parameter to a descriptor; overlay layers from 6.13.
    pub fn set_fd(&self, key: &str, value: impl AsFd) -> Result<()> {
        let value = value.as_fd();
        rustix::mount::fsconfig_set_fd(self, key, value).map_err(|errno| {
            self.refused(errno, &format!("FSCONFIG_SET_FD, {key:?}, NULL, {}", error::fd(value)))
        })
    }

    /// Makes the filesystem from the parameters.
    pub fn create(&self) -> Result<()> {
        rustix::mount::fsconfig_create(self)
            .map_err(|errno| self.refused(errno, "FSCONFIG_CMD_CREATE, NULL, NULL, 0"))
    }

    /// A detached mount of the created filesystem.
    pub fn mount(self, attrs: MountAttrs) -> Result<MountFd> {
        rustix::mount::fsmount(&self, FsMountFlags::FSMOUNT_CLOEXEC, attrs.flags())
            .map(MountFd::from)
            .map_err(|errno| {
                let call = format!("fsmount({}, FSMOUNT_CLOEXEC, {attrs})", error::fd(&self));
                SyscallError::new(call, errno).with_log(self.drain_log())
            })
    }

    fn refused(&self, errno: Errno, arguments: &str) -> SyscallError {
        let call = format!("fsconfig({}, {arguments})", error::fd(self));
        SyscallError::new(call, errno).with_log(self.drain_log())
    }

    /// Each read gives one message (`e overlay: ...`); ENODATA ends them. The kernel keeps the last eight.
    fn drain_log(&self) -> Vec<String> {
        let mut log = Vec::new();
        let mut buffer = [0u8; 1024];
        while log.len() < 64 {
            match rustix::io::read(self, &mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    log.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
                }
                Err(Errno::INTR) => {}
                // ENODATA: all read. EMSGSIZE: a message longer than the buffer stays at the head; stop.
                Err(_) => break,
            }
        }
        log
    }
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
