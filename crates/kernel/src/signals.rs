//! Signals as something to read, beside other descriptors, so that it can be told where one comes from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

use crate::error::{self, Result, SyscallError};
use crate::sys;

/// `sizeof(struct signalfd_siginfo)`, the same everywhere; its first three fields are number, errno and code, 32 bits each.
const RECORD: usize = 128;

/// Where signals of one thread can be read. They stay blocked on the thread when this is dropped.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// One signal that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which one.
    pub signal: Signal,
    /// The kernel sent it, as it does for Ctrl-C to all of the terminal's foreground processes; otherwise a process did.
    pub by_kernel: bool,
}

impl SignalFd {
    /// Blocks `signals` on the calling thread and those it starts, and opens a descriptor to read them from. Those sent
    /// to the process come here only if every other thread has them blocked, too. Programs that
    /// [`Command`](std::process::Command) starts have none blocked.
    ///
    /// # Errors
    /// Those of `signalfd(2)`.
    pub fn open(signals: &[Signal]) -> Result<SignalFd> {
        let numbers: Vec<i32> = signals.iter().map(|signal| signal.as_raw()).collect();
        sys::signalfd(&numbers).map(SignalFd).map_err(|errno| {
            SyscallError::new(format!("signalfd(-1, {numbers:?}, SFD_NONBLOCK|SFD_CLOEXEC)"), errno)
        })
    }

    /// The next one that has been sent; None if there is none at the moment.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn next(&self) -> Result<Option<Caught>> {
        let mut record = [0; RECORD];
        match rustix::io::read(&self.0, &mut record) {
            Ok(_) => Ok(caught(&record)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(SyscallError::new(format!("read({}, {RECORD})", error::fd(&self.0)), errno)),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn caught(record: &[u8; RECORD]) -> Option<Caught> {
    let field = |index: usize| record[index * 4..].first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    // Codes above 0 are the kernel's own (sigaction(2)).
    Some(Caught { signal: Signal::from_named_raw(field(0)?)?, by_kernel: field(2)? > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_with_who_sent_them() {
        // On a thread of its own: what is blocked here stays so. Sent to the thread, as others do not block it.
        let thread = std::thread::spawn(|| {
            let signals = SignalFd::open(&[Signal::USR1, Signal::ALARM]).unwrap();
            assert_eq!(signals.next().unwrap(), None);
            sys::raise(Signal::USR1.as_raw()).unwrap();
            assert_eq!(signals.next().unwrap(), Some(Caught { signal: Signal::USR1, by_kernel: false }));
            assert_eq!(signals.next().unwrap(), None);
        });
        thread.join().unwrap();
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&2_i32.to_ne_bytes());
        record[8..12].copy_from_slice(&libc::SI_KERNEL.to_ne_bytes());
        assert_eq!(caught(&record), Some(Caught { signal: Signal::INT, by_kernel: true }));
    }
}
