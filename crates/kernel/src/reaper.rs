//! Closing descriptors on a background thread.
//!
//! The last close of a detached mount, and of an overlay made from layers, waits for an RCU grace period. A
//! launch has better things to do.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;

use crate::error::{Result, SyscallError};

/// Descriptors waiting at one time; beyond it the caller closes its own, so the queue cannot grow without
/// bound and a program that outruns the kernel is slowed down to it.
const QUEUE: usize = 1024;

/// A thread that closes what it is given, in order. Dropping it closes everything first.
#[derive(Debug)]
pub struct Reaper {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Close(OwnedFd),
    Report(SyncSender<()>),
}

impl Reaper {
    /// Starts the thread.
    pub fn start() -> Result<Reaper> {
        let (queue, waiting) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("plywood-reaper".to_owned())
            .spawn(move || {
                for message in waiting {
                    match message {
                        Message::Close(fd) => drop(fd),
                        // Whoever asked may have gone; nothing is owed to them.
                        Message::Report(done) => drop(done.send(())),
                    }
                }
            })
            .map_err(|error| SyscallError::from_io("clone(CLONE_THREAD)", &error))?;
        Ok(Reaper { queue: Some(queue), thread: Some(thread) })
    }

    /// Closes `fd` soon; at once, on the caller's thread, if the queue is full.
    pub fn close(&self, fd: impl Into<OwnedFd>) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Message::Close(fd.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => drop(message),
        }
    }

    /// Waits until everything handed over before this call is closed.
    pub fn drain(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, finished) = mpsc::sync_channel(1);
        if queue.send(Message::Report(done)).is_ok() {
            // An error means the thread is gone, and with it the queue: everything in it is closed.
            let _closed = finished.recv();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reaper thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, writer.into())
    }

    /// A pipe's reader sees the end only when the writing descriptor is closed.
    fn is_closed(mut reader: std::io::PipeReader) -> bool {
        reader.read(&mut [0]).unwrap() == 0
    }

    #[test]
    fn what_was_handed_over_is_closed_after_drain() {
        let reaper = Reaper::start().unwrap();
        let (reader, writer) = pipe();
        reaper.close(writer);
        reaper.drain();
        assert!(is_closed(reader));
    }

    #[test]
    fn more_than_the_queue_holds_is_closed_too() {
        let reaper = Reaper::start().unwrap();
        let file = std::fs::File::open("/").unwrap();
        for _ in 0..QUEUE * 4 {
            reaper.close(file.try_clone().unwrap());
        }
        let (reader, writer) = pipe();
        reaper.close(writer);
        drop(reaper);
        assert!(is_closed(reader));
    }

    #[test]
    fn many_threads_share_one() {
        let reaper = Reaper::start().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        reaper.close(std::fs::File::open("/").unwrap());
                    }
                    reaper.drain();
                });
            }
        });
    }
}
