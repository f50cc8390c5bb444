//! The mount table as text, wherever the reading thread has been moved.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;

use plywood_kernel::SyscallError;
use rustix::fs::{Mode, OFlags};

use super::thread::failed;

/// `/proc`, opened before the thread enters a namespace that may have none.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl Proc {
    pub(super) fn open() -> Result<Self, SyscallError> {
        rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(Self)
            .map_err(|errno| SyscallError::new("openat(AT_FDCWD, \"/proc\", O_PATH|O_DIRECTORY)", errno))
    }

    /// The table of the calling thread's namespace; an open file stays with it.
    pub(super) fn mountinfo(&self) -> Result<File, SyscallError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, "thread-self/mountinfo", flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| SyscallError::new("openat(</proc>, \"thread-self/mountinfo\", O_RDONLY)", errno))
    }
}

/// Reads it whole from its begin.
pub(super) fn read_whole(mut file: &File, text: &mut Vec<u8>) -> Result<(), SyscallError> {
    text.clear();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(text))
        .map(drop)
        .map_err(|error| failed("read(mountinfo)", &error))
}
