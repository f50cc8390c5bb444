//! A layer blob as its uncompressed tar stream.
//!
//! The first bytes decide between gzip, zstd and no compression, not the media type: registries hold layers whose
//! media type is wrong, every other tool reads them, and the diff ID proves that what comes out is what was meant.
//! gzip may have several members, zstd several frames. What follows them is an error, as is an early end.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use flate2::bufread::GzDecoder;

use super::memory::{MemoryError, Share};
use super::zstd_frames::Frames;

/// Compressed bytes are read in pieces of this size.
const INPUT_BUFFER: usize = 256 << 10;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
pub(super) const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// By the first bytes of a blob. zstd's skippable frames count as zstd.
    pub fn of(start: &[u8]) -> Self {
        if start.starts_with(GZIP_MAGIC) {
            Self::Gzip
        } else if start.starts_with(ZSTD_MAGIC) || is_skippable(start) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Whether this is the beginning of a frame of zstd that holds no data.
pub(super) fn is_skippable(start: &[u8]) -> bool {
    start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]
}

/// The uncompressed stream. Its errors say which format is damaged.
pub(crate) enum Decoder<R: Read> {
    None(BufReader<Prefixed<R>>),
    Gzip(Box<Members<BufReader<Prefixed<R>>>>),
    Zstd(Box<Frames<BufReader<Prefixed<R>>>>),
}

/// A reader put back together with the bytes already taken from it.
pub(crate) type Prefixed<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `blob`. What it needs beside buffers is claimed of `share`.
    pub(crate) fn new(mut blob: R, share: Arc<Share>) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        blob.by_ref().take(4).read_to_end(&mut start)?;
        let compression = Compression::of(&start);
        let input = BufReader::with_capacity(INPUT_BUFFER, io::Cursor::new(start).chain(blob));
        Ok(match compression {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(Members::new(input))),
            Compression::Zstd => Self::Zstd(Box::new(Frames::new(input, share)?)),
        })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer).map_err(|e| damaged("gzip", e)),
            Self::Zstd(reader) => reader.read(buffer).map_err(|e| damaged("zstd", e)),
        }
    }
}

/// The members of a gzip file, one after the other. `flate2`'s own reader of several takes whatever follows the last
/// one for another that is cut short.
pub(crate) struct Members<R> {
    /// None after the end, or an error.
    member: Option<GzDecoder<R>>,
    is_first: bool,
}

impl<R: BufRead> Members<R> {
    fn new(input: R) -> Self {
        Self { member: Some(GzDecoder::new(input)), is_first: true }
    }

    /// Goes on to what follows a complete member.
    fn next_member(&mut self, mut input: R) -> io::Result<()> {
        let next = loop {
            match input.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                bytes => break bytes?.first().copied(),
            }
        };
        match next {
            None => Ok(()),
            Some(byte) if byte == GZIP_MAGIC[0] => {
                (self.member, self.is_first) = (Some(GzDecoder::new(input)), false);
                Ok(())
            }
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes("gzip"))),
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buffer) {
                Ok(0) if !buffer.is_empty() => {}
                // Not even a header came of it, and what there is is no beginning of one.
                Err(e)
                    if e.kind() == io::ErrorKind::InvalidInput
                        && !self.is_first
                        && member.header().is_none() =>
                {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes("gzip")));
                }
                result => return result,
            }
            if let Some(member) = self.member.take() {
                self.next_member(member.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// Something else follows the compressed stream.
#[derive(Debug, thiserror::Error)]
#[error("bytes that are no {0} follow the end of the {0} stream")]
pub(super) struct TrailingBytes(pub(super) &'static str);

/// Errors of the blob underneath carry a system error number or an error of ours and stay as they are.
fn damaged(format: &'static str, error: io::Error) -> io::Error {
    let of_ours = error.get_ref().is_some_and(|inner| {
        inner.is::<super::verify::BlobMismatch>() || inner.is::<TrailingBytes>() || inner.is::<MemoryError>()
    });
    if of_ours || error.raw_os_error().is_some() {
        return error;
    }
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), format!("the {format} stream is truncated"))
        }
        _ => io::Error::new(error.kind(), format!("the {format} stream is damaged: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::transfer::Cancel;
    use crate::unpack::memory::Memory;
    use crate::unpack::zstd_frames::WINDOW_LOG;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn decode(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let share = Memory::default().share(&Cancel::new()).unwrap();
        Decoder::new(blob, share)?.read_to_end(&mut out)?;
        Ok(out)
    }

    /// What decoding says of a blob that is wrong.
    fn failure(blob: &[u8]) -> String {
        decode(blob).map(|data| data.len()).unwrap_err().to_string()
    }

    #[test]
    fn formats_members_and_frames() {
        let (a, b) = (vec![1u8; 70_000], vec![2u8; 10]);
        let both = [a.clone(), b.clone()].concat();
        assert_eq!(decode(&both).unwrap(), both);
        assert_eq!(decode(&gzip(&both)).unwrap(), both);
        assert_eq!(decode(&zstd(&both)).unwrap(), both);
        assert_eq!(decode(&[gzip(&a), gzip(&b)].concat()).unwrap(), both);
        assert_eq!(decode(&[zstd(&a), zstd(&b)].concat()).unwrap(), both);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9][..], &zstd(&a)].concat();
        assert_eq!(decode(&skippable).unwrap(), a);
        for short in [&b""[..], b"x", b"abc"] {
            assert_eq!(decode(short).unwrap(), short);
        }
    }

    #[test]
    fn an_early_end_and_damage_are_errors() {
        let data: Vec<u8> =
            (0..50_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for (blob, format) in [(gzip(&data), "gzip"), (zstd(&data), "zstd")] {
            for cut in [blob.len() - 1, blob.len() / 2, 5] {
                let error = failure(&blob[..cut]);
                assert!(error.contains(&format!("the {format} stream is truncated")), "{cut}: {error}");
            }
        }
        // zstd has no checksum by default; the diff ID finds what it does not.
        let mut damaged = gzip(&data);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        assert!(failure(&damaged).contains("the gzip stream is damaged"));
    }

    /// A few bytes after a gzip stream were reported as a truncated one.
    #[test]
    fn trailing_bytes_are_no_early_end() {
        let data = vec![7u8; 600_000];
        let long = vec![b'x'; 1 << 20];
        let second = gzip(b"second");
        for (blob, format, tails) in [
            (
                gzip(&data),
                "gzip",
                &[&b"x"[..], b"\0\0", b"\x1f\x8c more than a header", b"garbage here", &long][..],
            ),
            (zstd(&data), "zstd", &[&b"garbage here"[..], &long, &second]),
        ] {
            for tail in tails {
                for members in [&blob[..], &[&blob[..], &blob].concat()] {
                    let error = failure(&[members, tail].concat());
                    let expected =
                        format!("bytes that are no {format} follow the end of the {format} stream");
                    assert_eq!(error, expected, "{}", tail[..2.min(tail.len())].escape_ascii());
                }
            }
        }
        // The beginning of another member is one.
        for cut in [1, 2, 9, second.len() - 1] {
            let error = failure(&[&second[..], &second[..cut]].concat());
            assert_eq!(error, "the gzip stream is truncated", "{cut}");
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(WINDOW_LOG + 1).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        // Flushed before the end is known, so that the frame declares its whole window.
        encoder.flush().unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        assert!(decode(&encoder.finish().unwrap()).is_err());
    }
}
