//! The byte stream under a reader: one large buffer, and the position in the stream.

use std::io::{self, Read};

use super::{BLOCK, TarErrorKind, field::Block};

/// Read from the source at once. Large, so that a pipe or decompressor is asked seldom; the data of small files is used
/// straight from here.
const BUFFER: usize = 256 * 1024;

pub(super) struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Stream offset of `buffer[start]`.
    position: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Input<R> {
        Input { source, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, position: 0 }
    }

    /// Bytes consumed so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn into_source(self) -> R {
        self.source
    }

    pub(super) fn source(&self) -> &R {
        &self.source
    }

    /// The next block, or `None` if the stream is over exactly here.
    pub(super) fn block(&mut self) -> Result<Option<Block>, TarErrorKind> {
        while self.end - self.start < BLOCK {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.read_more().map_err(TarErrorKind::Read)? {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(TarErrorKind::Truncated),
                _ => {}
            }
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
        self.consume(BLOCK);
        Ok(Some(block))
    }

    /// Buffered bytes, at least one unless the stream is over.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Passes over `count` of the buffered bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.position += count as u64;
    }

    /// Reads into `target`, past the buffer when it is empty and `target` is large.
    pub(super) fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && target.len() >= BUFFER {
            let count = retry(|| self.source.read(target))?.min(target.len());
            self.position += count as u64;
            return Ok(count);
        }
        let available = self.fill()?;
        let count = available.len().min(target.len());
        target[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }

    /// Appends exactly `count` bytes to `target`, growing it only as they come.
    pub(super) fn take(&mut self, mut count: usize, target: &mut Vec<u8>) -> Result<(), TarErrorKind> {
        while count > 0 {
            let available = self.fill().map_err(TarErrorKind::Read)?;
            if available.is_empty() {
                return Err(TarErrorKind::Truncated);
            }
            let step = available.len().min(count);
            target.extend_from_slice(&available[..step]);
            self.consume(step);
            count -= step;
        }
        Ok(())
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), TarErrorKind> {
        while count > 0 {
            let available = self.fill().map_err(TarErrorKind::Read)?.len();
            if available == 0 {
                return Err(TarErrorKind::Truncated);
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }

    /// Passes over everything left.
    pub(super) fn drain(&mut self) -> Result<(), TarErrorKind> {
        loop {
            let available = self.fill().map_err(TarErrorKind::Read)?.len();
            if available == 0 {
                return Ok(());
            }
            self.consume(available);
        }
    }

    /// Reads once behind what is buffered; the caller has made room.
    fn read_more(&mut self) -> io::Result<usize> {
        let room = &mut self.buffer[self.end..];
        // A source that claims more than it was given room for is broken; never index past the buffer for it.
        let count = retry(|| self.source.read(room))?.min(room.len());
        self.end += count;
        Ok(count)
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
