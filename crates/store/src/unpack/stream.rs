//! Decompressing, hashing and writing at the same time.
//!
//! ```text
//! inflate ── buffers ──> hash ── buffers ──> writer (the caller's thread)
//!    ^                                          │
//!    └───────────── empty buffers ──────────────┘
//! ```
//! Memory is bounded by the number of buffers, which go round, and the layer's [`Share`]. A full channel stops who fills
//! it; a side that gives up closes its channel, which ends the others.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use plywood_image::Digest;
use plywood_image::digest::{Algorithm, Hasher};

use super::decompress::Decoder;
use super::error::UnpackError;
use super::memory::{MemoryError, Share};
use super::room::Room;
use crate::transfer::Cancel;

/// Measured: smaller buffers cost switches between threads, larger ones fall out of the cache.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 12;

type Filled = (Vec<u8>, usize);

/// The uncompressed stream, as the writer reads it.
pub(crate) struct Stream<'scope> {
    filled: Receiver<io::Result<Filled>>,
    empty: Sender<Vec<u8>>,
    current: Filled,
    position: usize,
    hasher: ScopedJoinHandle<'scope, Hashed>,
    failure: Failure,
    room: Room<'scope>,
    /// Bytes that came so far.
    total: u64,
    cancel: Cancel,
}

/// Why the stream ended early, for whoever reads it through a parser with errors of its own.
#[derive(Clone, Default)]
pub(crate) struct Failure(Rc<Cell<Option<UnpackError>>>);

impl Failure {
    /// The stream's own error, if it had one, else `other`.
    pub(crate) fn or(&self, other: impl FnOnce() -> UnpackError) -> UnpackError {
        self.0.take().unwrap_or_else(other)
    }
}

/// Digest of the uncompressed stream.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) digest: Digest,
}

impl<'scope> Stream<'scope> {
    /// Starts the threads. The stream fails where there is no `room` for more of it.
    pub(crate) fn start<'env, R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        blob: R,
        algorithm: Algorithm,
        room: Room<'scope>,
        share: Arc<Share>,
        cancel: Cancel,
    ) -> io::Result<Self> {
        let (inflated, to_hash) = sync_channel(BUFFERS);
        let (hashed, filled) = sync_channel(BUFFERS);
        let (empty, recycled) = channel();
        for _ in 0..BUFFERS {
            // The receiver is right here.
            let _ = empty.send(vec![0; BUFFER]);
        }
        let inflate = move || inflate(blob, share, &inflated, &recycled);
        Builder::new().name("inflate".into()).spawn_scoped(scope, inflate)?;
        let hash = move || hash(&to_hash, &hashed, algorithm);
        let hasher = Builder::new().name("diff-id".into()).spawn_scoped(scope, hash)?;
        let failure = Failure::default();
        let current = (Vec::new(), 0);
        Ok(Self { filled, empty, current, position: 0, hasher, failure, room, total: 0, cancel })
    }

    /// Where to look for the reason when reading fails.
    pub(crate) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Reads what is left and gives the digest of all.
    pub(crate) fn finish(mut self) -> Result<Hashed, UnpackError> {
        while self.next_buffer()? {}
        drop((self.filled, self.empty));
        self.hasher.join().map_err(|_| UnpackError::Thread(io::Error::other("the hashing thread panicked")))
    }

    /// Makes another buffer the current one; `false` at the end.
    fn next_buffer(&mut self) -> Result<bool, UnpackError> {
        if self.cancel.is_cancelled() {
            return Err(UnpackError::Cancelled);
        }
        let (buffer, _) = std::mem::take(&mut self.current);
        self.position = 0;
        if !buffer.is_empty() {
            // Nobody to take it: the end of the blob was reached.
            let _ = self.empty.send(buffer);
        }
        match self.filled.recv() {
            Ok(filled) => {
                self.current = filled.map_err(from_inflating)?;
                self.total += self.current.1 as u64;
                self.room.check(self.total).map_err(UnpackError::Room)?;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.1 {
            match self.next_buffer() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.failure.0.set(Some(error));
                    return Err(io::Error::other("the stream under the archive failed"));
                }
            }
        }
        let (from, length) = &self.current;
        let count = buffer.len().min(length - self.position);
        buffer[..count].copy_from_slice(&from[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

fn from_inflating(error: io::Error) -> UnpackError {
    match error.downcast::<MemoryError>() {
        Ok(error) => error.into(),
        Err(error) => UnpackError::Stream(error),
    }
}

fn inflate(
    blob: impl Read,
    share: Arc<Share>,
    out: &SyncSender<io::Result<Filled>>,
    recycled: &Receiver<Vec<u8>>,
) {
    let work = || -> io::Result<()> {
        let mut decoder = Decoder::new(blob, share)?;
        // No buffer comes back any more: the writer gave up.
        while let Ok(mut buffer) = recycled.recv() {
            let length = fill(&mut decoder, &mut buffer)?;
            if length == 0 || out.send(Ok((buffer, length))).is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    if let Err(error) = work() {
        // Gone: then nobody waits for the error either.
        let _ = out.send(Err(error));
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(decoder: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match decoder.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(got) => length += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

fn hash(
    from: &Receiver<io::Result<Filled>>,
    to: &SyncSender<io::Result<Filled>>,
    algorithm: Algorithm,
) -> Hashed {
    let mut hasher = Hasher::new(algorithm);
    while let Ok(filled) = from.recv() {
        if let Ok((buffer, length)) = &filled {
            hasher.update(&buffer[..*length]);
        }
        if to.send(filled).is_err() {
            break;
        }
    }
    Hashed { digest: hasher.finish() }
}
