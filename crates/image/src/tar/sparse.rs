//! Maps of sparse files.

use super::{BLOCK, TarErrorKind, field, field::Block, input::Input};
use crate::limits;

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it belongs.
    pub offset: u64,
    /// Bytes of it in the stream; never 0.
    pub length: u64,
}

/// Where the stored bytes of a sparse file belong. Segments are in order, do not overlap and lie within the file; what
/// they leave out is a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseMap {
    segments: Vec<Segment>,
    stored: u64,
}

impl SparseMap {
    /// The runs of data, in the order in which the stream holds them.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Collects a map, checking each segment as it comes.
#[derive(Debug, Default)]
pub(super) struct MapBuilder {
    map: SparseMap,
    end: u64,
    count: usize,
}

impl MapBuilder {
    pub(super) fn push(&mut self, offset: u64, length: u64) -> Result<(), TarErrorKind> {
        self.count += 1;
        if self.count > limits::SPARSE_SEGMENTS {
            return Err(TarErrorKind::TooLarge {
                what: "number of segments of a sparse file",
                limit: limits::SPARSE_SEGMENTS as u64,
            });
        }
        if offset < self.end {
            return Err(TarErrorKind::Sparse("segments overlap or are out of order"));
        }
        self.end = offset
            .checked_add(length)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or(TarErrorKind::Sparse("a segment ends beyond the largest file"))?;
        // GNU tar marks a hole at the end by an empty segment.
        if length > 0 {
            self.map.stored += length;
            self.map.segments.push(Segment { offset, length });
        }
        Ok(())
    }

    /// The map of a file of `size` bytes of which the archive stores `stored`.
    pub(super) fn finish(self, size: u64, stored: u64) -> Result<SparseMap, TarErrorKind> {
        if self.end > size {
            return Err(TarErrorKind::Sparse("a segment ends beyond the file"));
        }
        if self.map.stored != stored {
            return Err(TarErrorKind::Sparse("the segments do not add up to the stored size"));
        }
        Ok(self.map)
    }
}

/// The old GNU format: four segments in the header block, 21 in each extension block. Returns the map and the size of
/// the file.
pub(super) fn read_old_gnu<R: std::io::Read>(
    block: &Block,
    input: &mut Input<R>,
    stored: u64,
) -> Result<(SparseMap, u64), TarErrorKind> {
    let size = field::unsigned(&block[483..495], "realsize")?;
    let mut map = MapBuilder::default();
    old_gnu_segments(&block[386..482], &mut map)?;
    let mut more = block[482] != 0;
    while more {
        let block = input.block()?.ok_or(TarErrorKind::Truncated)?;
        old_gnu_segments(&block[..504], &mut map)?;
        more = block[504] != 0;
    }
    Ok((map.finish(size, stored)?, size))
}

/// Adds one table. An empty slot only ends its own table: the extension flag decides.
fn old_gnu_segments(table: &[u8], map: &mut MapBuilder) -> Result<(), TarErrorKind> {
    for slot in table.chunks_exact(24) {
        if slot[0] == 0 || slot[12] == 0 {
            break;
        }
        map.push(
            field::unsigned(&slot[..12], "sparse offset")?,
            field::unsigned(&slot[12..], "sparse length")?,
        )?;
    }
    Ok(())
}

/// `offset,length,offset,length...`: PAX formats 0.0 (gathered from its records) and 0.1.
pub(super) fn parse_list(list: &[u8]) -> Result<MapBuilder, TarErrorKind> {
    let mut map = MapBuilder::default();
    let mut numbers = list.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(TarErrorKind::Sparse("an offset without a length"))?;
        map.push(decimal(offset)?, decimal(length)?)?;
    }
    Ok(map)
}

/// PAX format 1.0: the data starts with the map, one decimal number a line, padded to a block. Returns the map's
/// builder and the bytes it took.
pub(super) fn read_v1<R: std::io::Read>(
    input: &mut Input<R>,
    stored: u64,
) -> Result<(MapBuilder, u64), TarErrorKind> {
    let mut lines = Lines { block: [0; BLOCK], at: BLOCK, used: 0, stored };
    let count = lines.next(input)?;
    if count > limits::SPARSE_SEGMENTS as u64 {
        return Err(TarErrorKind::TooLarge {
            what: "number of segments of a sparse file",
            limit: limits::SPARSE_SEGMENTS as u64,
        });
    }
    let mut map = MapBuilder::default();
    for _ in 0..count {
        let offset = lines.next(input)?;
        let length = lines.next(input)?;
        map.push(offset, length)?;
    }
    Ok((map, lines.used))
}

/// Numbers, one a line, in whole blocks.
struct Lines {
    block: Block,
    at: usize,
    used: u64,
    stored: u64,
}

impl Lines {
    fn next<R: std::io::Read>(&mut self, input: &mut Input<R>) -> Result<u64, TarErrorKind> {
        let mut value = None;
        loop {
            if self.at == BLOCK {
                if self.stored - self.used < BLOCK as u64 {
                    return Err(TarErrorKind::Sparse("the map is longer than the stored data"));
                }
                self.block = input.block()?.ok_or(TarErrorKind::Truncated)?;
                self.used += BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', _) => value = Some(append_digit(value.unwrap_or(0), byte)?),
                _ => return Err(TarErrorKind::Sparse("not a decimal number")),
            }
        }
    }
}

fn append_digit(value: u64, digit: u8) -> Result<u64, TarErrorKind> {
    value
        .checked_mul(10)
        .and_then(|value| value.checked_add(u64::from(digit - b'0')))
        .ok_or(TarErrorKind::Sparse("a number is too large"))
}

/// A decimal number without sign.
pub(super) fn decimal(digits: &[u8]) -> Result<u64, TarErrorKind> {
    if digits.is_empty() {
        return Err(TarErrorKind::Sparse("an empty number"));
    }
    let mut value = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(TarErrorKind::Sparse("not a decimal number"));
        }
        value = append_digit(value, *digit)?;
    }
    Ok(value)
}
