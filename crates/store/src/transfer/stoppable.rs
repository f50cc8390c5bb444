//! Reading what the user named, for as long as nobody asks to stop.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Cancel;

/// How often a wait for a silent pipe asks whether to go on.
const STEP: Duration = Duration::from_millis(50);

/// `statfs` type of pipes without a name, from `linux/magic.h`.
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// A reader that fails once `stop` is set.
#[derive(Debug)]
pub(super) struct Stoppable<'a, R> {
    inner: R,
    stop: &'a Cancel,
}

impl<'a, R> Stoppable<'a, R> {
    pub(super) fn new(inner: R, stop: &'a Cancel) -> Self {
        Self { inner, stop }
    }
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.stop)?;
        self.inner.read(buffer)
    }
}

/// Opens a file, a device or a named pipe for reading, without blocking: to be read by [`Patient`].
/// For a named pipe, waits until somebody writes, as open itself would.
pub(super) fn open(path: &Path, stop: &Cancel) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo
        // One without a name, as behind /dev/stdin, gets no more writers than it has.
        && rustix::fs::fstatfs(&file)?.f_type.cast_unsigned() != PIPEFS_MAGIC
    {
        // Tells a pipe without a writer yet, which would read as empty, from one whose writer has gone.
        while !ready(&file)? {
            check(stop)?;
        }
    }
    Ok(file)
}

/// Reads a descriptor, whether it blocks or not, and waits itself until there is something to read.
#[derive(Debug)]
pub(super) struct Patient<'a> {
    file: &'a File,
    stop: &'a Cancel,
    deadline: Option<Instant>,
}

impl<'a> Patient<'a> {
    pub(super) fn new(file: &'a File, stop: &'a Cancel) -> Self {
        Self { file, stop, deadline: None }
    }

    /// Fails with [`io::ErrorKind::TimedOut`] from then on.
    pub(super) fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            check(self.stop)?;
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Asked before: standard input may block, and whether it does is not ours to change.
            if !ready(self.file)? {
                continue;
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Waits a step. True if there is something to read, or nothing more will come.
fn ready(file: &File) -> io::Result<bool> {
    let step = Timespec { tv_sec: 0, tv_nsec: STEP.subsec_nanos().into() };
    let mut polled = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&step)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Not `Interrupted`, which many readers take for an invitation to try again.
fn check(stop: &Cancel) -> io::Result<()> {
    if stop.is_cancelled() { Err(io::Error::other("cancelled")) } else { Ok(()) }
}
