//! A zstd blob, frame by frame: the window of each is known and claimed before memory is allocated for it.
//!
//! The decoder's own limit is one for every frame of every blob. Here a window of 8 MiB costs nobody anything, and one of
//! 128 MiB has to wait until no other layer has one.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::decompress::{TrailingBytes, ZSTD_MAGIC, is_skippable};
use super::memory::Share;

/// Largest window, as a power of two: 128 MiB, what `zstd --ultra -22` writes at most without `--long`.
pub(super) const WINDOW_LOG: u32 = 27;

/// The uncompressed stream.
pub(crate) struct Frames<R> {
    input: R,
    /// Read to know the frame, and not decoded yet.
    header: Vec<u8>,
    decoder: Decoder<'static>,
    in_frame: bool,
    share: Arc<Share>,
    /// Bytes claimed for windows.
    claimed: usize,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(input: R, share: Arc<Share>) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { input, header: Vec::with_capacity(18), decoder, in_frame: false, share, claimed: 0 })
    }

    /// Reads until the header has so many bytes; `false` if the stream ends before.
    fn have(&mut self, length: usize) -> io::Result<bool> {
        while self.header.len() < length {
            let bytes = self.input.fill_buf()?;
            let count = bytes.len().min(length - self.header.len());
            if count == 0 {
                return Ok(false);
            }
            self.header.extend_from_slice(&bytes[..count]);
            self.input.consume(count);
        }
        Ok(true)
    }

    /// Looks at what follows a frame; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        let truncated = || Err(io::ErrorKind::UnexpectedEof.into());
        if !self.have(1)? {
            return Ok(false);
        }
        if !self.have(4)? {
            if ZSTD_MAGIC.starts_with(&self.header) || self.header[0] & 0xf0 == 0x50 {
                return truncated();
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes("zstd")));
        }
        if is_skippable(&self.header) {
            return Ok(true);
        }
        if self.header != ZSTD_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes("zstd")));
        }
        if !self.have(5)? || !self.have(header_length(self.header[4]))? {
            return truncated();
        }
        let window = usize::try_from(window(&self.header)).unwrap_or(usize::MAX);
        // The decoder itself refuses what is beyond its limit, and says so.
        if window > self.claimed && window <= 1 << WINDOW_LOG {
            self.share.claim(window - self.claimed).map_err(io::Error::other)?;
            self.claimed = window;
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            self.in_frame = true;
            let from_header = !self.header.is_empty();
            let bytes = if from_header { &self.header[..] } else { self.input.fill_buf()? };
            let at_end = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut *buffer);
            // 0: the frame is decoded and all of it is in the output.
            self.in_frame = self.decoder.run(&mut input, &mut output)? != 0;
            let (taken, given) = (input.pos(), output.pos());
            if from_header {
                self.header.drain(..taken);
            } else {
                self.input.consume(taken);
            }
            if given > 0 {
                return Ok(given);
            }
            if at_end && self.in_frame {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Length of the header of a frame, its magic number included, by its descriptor (RFC 8878, 3.1.1.1).
fn header_length(descriptor: u8) -> usize {
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        log => 1 << log,
    };
    5 + usize::from(!single_segment) + dictionary + size
}

/// Window of a frame with this header: what the decoder keeps of its output.
fn window(header: &[u8]) -> u64 {
    if header[4] & 0x20 == 0 {
        let (exponent, mantissa) = (header[5] >> 3, u64::from(header[5] & 7));
        let base = 1_u64 << (10 + exponent);
        return base + base / 8 * mantissa;
    }
    // A single segment: the content is the window.
    let length = match header[4] >> 6 {
        0 => 1,
        log => 1 << log,
    };
    let mut size = [0; 8];
    size[..length].copy_from_slice(&header[header.len() - length..]);
    u64::from_le_bytes(size) + if length == 2 { 256 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::transfer::Cancel;
    use crate::unpack::memory::{Memory, MemoryError};

    /// A frame that declares its window, since its end is not known when it is written.
    fn frame(window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn windows_are_read_from_headers() {
        for log in [10, 17, 23, 27] {
            let bytes = frame(log);
            assert_eq!(window(&bytes[..header_length(bytes[4])]), 1 << log);
        }
        // Known sizes within the window, in one, two and four bytes.
        for size in [1, 255, 256, 300, 70_000, 500_000] {
            let bytes = zstd::bulk::compress(&vec![0; size], 1).unwrap();
            assert_eq!(window(&bytes[..header_length(bytes[4])]), size as u64);
        }
    }

    /// Four layers with windows of 128 MiB had them at once.
    #[test]
    fn large_windows_are_claimed_and_wait() {
        let memory = Memory::default();
        let decode = |blob: &[u8], cancel: &Cancel| {
            let share = memory.share(cancel).unwrap();
            let mut frames = Frames::new(io::BufReader::with_capacity(7, blob), share.clone()).unwrap();
            let mut out = Vec::new();
            frames.read_to_end(&mut out).map(|_| out.len())
        };
        let blob = [frame(23), frame(27), frame(27), frame(20)].concat();
        assert_eq!(decode(&blob, &Cancel::new()).unwrap(), 8000);
        let other = memory.share(&Cancel::new()).unwrap();
        other.claim(100 << 20).unwrap();
        assert_eq!(decode(&frame(23), &Cancel::new()).unwrap(), 2000, "a window of 8 MiB need not wait");
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| decode(&blob, &cancel));
            std::thread::sleep(std::time::Duration::from_millis(200));
            assert!(!waiting.is_finished());
            drop(other);
            assert_eq!(waiting.join().unwrap().unwrap(), 8000);
        });
        // Beside so many names there is no room for it.
        let share = memory.share(&cancel).unwrap();
        share.claim(8 << 20).unwrap();
        let mut frames = Frames::new(&blob[..], share).unwrap();
        let error = io::copy(&mut frames, &mut io::sink()).unwrap_err();
        assert_eq!(error.get_ref().and_then(|e| e.downcast_ref()), Some(&MemoryError::Layer));
    }
}
