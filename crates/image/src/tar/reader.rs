//! The reader itself: from blocks to entries.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::field::{self, Block, Format};
use super::input::Input;
use super::pax::{self, Records};
use super::sparse::{self, SparseMap};
use super::{BLOCK, Device, EntryType, Header, TarError, TarErrorKind, Timestamp};
use crate::limits;

/// What an error shows of a name that is too long.
const BEGINNING: usize = 100;

/// Reads an archive entry by entry. It has its own large buffer: `R` needs none.
pub struct Reader<R> {
    input: Input<R>,
    /// Bytes of the current entry's data not yet read.
    remaining: u64,
    /// Bytes between the end of that data and the next block.
    padding: u64,
    /// Reused for extension headers.
    scratch: Vec<u8>,
    /// Start of the current entry's own header block.
    offset: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the archive that starts where `source` stands.
    pub fn new(source: R) -> Reader<R> {
        Reader {
            input: Input::new(source),
            remaining: 0,
            padding: 0,
            scratch: Vec::new(),
            offset: 0,
            ended: false,
        }
    }

    /// The next entry, or `None` at the end of the archive. What was not read of the previous entry's data is skipped.
    /// After an error nothing more can be read.
    pub fn next_entry(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        // Cleared again below: an error leaves the reader at its end, never in the middle of something.
        self.ended = true;
        let mut path = Vec::new();
        let entry = self.read_entry(&mut path).map_err(|kind| TarError::new(self.offset, &path, kind))?;
        self.ended = entry.is_none();
        Ok(entry)
    }

    /// The stored data of the current entry, from where reading it stands. For a sparse file that is the content of its
    /// segments, one after the other.
    pub fn data(&mut self) -> Data<'_, R> {
        Data { reader: self }
    }

    /// Bytes of the archive consumed so far.
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// The source, which has been read further than [`Reader::position`].
    pub fn get_ref(&self) -> &R {
        self.input.source()
    }

    /// Reads the stream to its end, past the end of the archive, so that a digest over the source covers all of it.
    pub fn finish(mut self) -> Result<R, TarError> {
        match self.input.drain() {
            Ok(()) => Ok(self.input.into_source()),
            Err(kind) => Err(TarError::new(self.input.position(), b"", kind)),
        }
    }

    /// `path` is left for error messages.
    fn read_entry(&mut self, path: &mut Vec<u8>) -> Result<Option<Header>, TarErrorKind> {
        self.input.skip(self.remaining)?;
        self.remaining = 0;
        self.input.skip(self.padding)?;
        self.padding = 0;

        let mut records: Option<Records> = None;
        let mut long_path: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            self.offset = self.input.position();
            let Some(block) = self.header_block()? else {
                return match (records, long_path, long_link) {
                    (None, None, None) => Ok(None),
                    _ => Err(TarErrorKind::Dangling),
                };
            };
            match block[field::TYPE] {
                b'x' => {
                    if records.is_some() {
                        return Err(TarErrorKind::Pax("two headers for one entry"));
                    }
                    self.extension(&block, limits::PAX_BYTES, "size of a PAX header")?;
                    let parsed = Records::parse(&self.scratch);
                    if parsed.is_err() {
                        *path = self.name_ahead();
                    }
                    records = Some(parsed?);
                }
                b'g' => {
                    self.extension(&block, limits::PAX_BYTES, "size of a PAX header")?;
                    pax::check_global(&self.scratch)?;
                }
                b'L' => long_path = Some(self.long_name(&block, path)?),
                b'K' => long_link = Some(self.long_name(&block, path)?),
                _ => {
                    return self
                        .entry(&block, records.unwrap_or_default(), long_path, long_link, path)
                        .map(Some);
                }
            }
        }
    }

    /// The next block that is a header, `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<Block>, TarErrorKind> {
        let Some(block) = self.input.block()? else { return Ok(None) };
        if is_zero(&block) {
            return match self.input.block()? {
                Some(second) if !is_zero(&second) => Err(TarErrorKind::LoneZeroBlock),
                _ => Ok(None),
            };
        }
        if !field::checksum_ok(&block) {
            return Err(TarErrorKind::Checksum);
        }
        Ok(Some(block))
    }

    /// Reads the data of an extension header into `scratch`.
    fn extension(&mut self, block: &Block, limit: u64, what: &'static str) -> Result<(), TarErrorKind> {
        let size = field::unsigned(&block[124..136], "size")?;
        if size > limit {
            return Err(TarErrorKind::TooLarge { what, limit });
        }
        self.scratch.clear();
        self.input.take(size as usize, &mut self.scratch)?;
        self.input.skip(padding(size))
    }

    /// The name in the next header, of the entry that an extension is for; empty where there is none. For an error.
    fn name_ahead(&mut self) -> Vec<u8> {
        match self.header_block() {
            Ok(Some(block)) => header_path(&block),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Of one that is too long `error_path` is its beginning.
    fn long_name(&mut self, block: &Block, error_path: &mut Vec<u8>) -> Result<Vec<u8>, TarErrorKind> {
        // The name and its NUL.
        let result = self.extension(block, limits::PATH_BYTES as u64 + 1, "length of a name");
        if let Err(TarErrorKind::TooLarge { .. }) = result {
            self.scratch.clear();
            self.input.take(BEGINNING, &mut self.scratch)?;
            *error_path = [field::text(&self.scratch), b"..."].concat();
        }
        result?;
        Ok(field::text(&self.scratch).to_vec())
    }

    fn entry(
        &mut self,
        block: &Block,
        records: Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        error_path: &mut Vec<u8>,
    ) -> Result<Header, TarErrorKind> {
        let format = field::format(block);
        let mut entry_type = entry_type(block[field::TYPE], format);
        let pax = records.sparse;
        let (pax, pax_path) = match pax {
            Some(mut pax) => {
                let name = pax.name.take();
                (Some(pax), name.or(records.path))
            }
            None => (None, records.path),
        };
        let path = match (pax_path, long_path) {
            (Some(_), Some(_)) => return Err(TarErrorKind::Ambiguous("the name")),
            (Some(path), None) | (None, Some(path)) => path,
            (None, None) => header_path(block),
        };
        error_path.clone_from(&path);
        let link = match (records.link, long_link) {
            (Some(_), Some(_)) => return Err(TarErrorKind::Ambiguous("the link target")),
            _ if !matches!(entry_type, EntryType::HardLink | EntryType::Symlink) => Vec::new(),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => field::text(&block[field::LINK]).to_vec(),
        };
        if entry_type == EntryType::File && path.last() == Some(&b'/') {
            // v7 had no type of its own for directories.
            if block[field::TYPE] != 0 {
                return Err(TarErrorKind::Disputed("whether a file whose name ends in \"/\" is a directory"));
            }
            entry_type = EntryType::Directory;
        }

        let mut stored = records.size.map_or_else(|| field::unsigned(&block[124..136], "size"), Ok)?;
        if stored != 0 && !entry_type.has_data() {
            return Err(TarErrorKind::Disputed(
                "whether data follows a directory, link or device with a size",
            ));
        }
        let mut size = stored;
        let mut sparse = None;
        if block[field::TYPE] == b'S' && format == Format::Gnu {
            if pax.is_some() {
                return Err(TarErrorKind::Ambiguous("the sparse map"));
            }
            let (map, real) = sparse::read_old_gnu(block, &mut self.input, stored)?;
            sparse = Some(map);
            size = real;
        } else if let Some(pax) = pax {
            if entry_type != EntryType::File {
                return Err(TarErrorKind::Sparse("it belongs to no file"));
            }
            let (map, real, used) = self.pax_map(*pax, stored)?;
            sparse = Some(map);
            size = real;
            stored -= used;
        }
        // The map of format 1.0 takes whole blocks, so the padding of the rest is that of the whole.
        self.remaining = stored;
        self.padding = padding(stored);

        Ok(Header {
            path,
            link,
            entry_type,
            mode: u32::try_from(field::unsigned(&block[100..108], "mode")?)
                .map_err(|_| TarErrorKind::Number("mode"))?,
            uid: records.uid.map_or_else(|| field::unsigned(&block[108..116], "uid"), Ok)?,
            gid: records.gid.map_or_else(|| field::unsigned(&block[116..124], "gid"), Ok)?,
            size,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: field::number(&block[136..148], "mtime")?, nanoseconds: 0 },
            },
            atime: match records.atime {
                None if format == Format::Gnu && block[345] != 0 => {
                    Some(Timestamp { seconds: field::number(&block[345..357], "atime")?, nanoseconds: 0 })
                }
                atime => atime,
            },
            device: device(block, entry_type)?,
            xattrs: records.xattrs,
            unread: records.unread,
            sparse,
            offset: self.offset,
        })
    }

    /// Map and size of a file with `GNU.sparse.*` records, and how much of its stored data the map took.
    fn pax_map(&mut self, pax: pax::Sparse, stored: u64) -> Result<(SparseMap, u64, u64), TarErrorKind> {
        let size = pax.size.ok_or(TarErrorKind::Sparse("the size of the file is missing"))?;
        let (builder, used) = match (pax.major.unwrap_or(0), pax.minor.unwrap_or(0), pax.map) {
            (1, 0, None) => sparse::read_v1(&mut self.input, stored)?,
            // A file that is one hole has no pairs in format 0.0.
            (0, 0 | 1, map) => (map.unwrap_or_default(), 0),
            (1, 0, Some(_)) => return Err(TarErrorKind::Sparse("two maps")),
            _ => return Err(TarErrorKind::Sparse("unknown version")),
        };
        Ok((builder.finish(size, stored - used)?, size, used))
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("offset", &self.offset)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

/// The rest of an entry's stored data. Ends where the entry does; a truncated archive is an error, not an end.
pub struct Data<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R> Data<'_, R> {
    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.reader.remaining
    }

    fn limit(&self, length: usize) -> usize {
        usize::try_from(self.reader.remaining).unwrap_or(usize::MAX).min(length)
    }

    fn truncated(&self) -> io::Error {
        TarError::new(self.reader.offset, b"", TarErrorKind::Truncated).into()
    }
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let limit = self.limit(target.len());
        if limit == 0 {
            return Ok(0);
        }
        match self.reader.input.read(&mut target[..limit])? {
            0 => Err(self.truncated()),
            count => {
                self.reader.remaining -= count as u64;
                Ok(count)
            }
        }
    }
}

impl<R: Read> BufRead for Data<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.reader.remaining == 0 {
            return Ok(&[]);
        }
        if self.reader.input.fill()?.is_empty() {
            return Err(self.truncated());
        }
        let remaining = usize::try_from(self.reader.remaining).unwrap_or(usize::MAX);
        let available = self.reader.input.fill()?;
        Ok(&available[..available.len().min(remaining)])
    }

    fn consume(&mut self, count: usize) {
        let before = self.reader.input.position();
        self.reader.input.consume(self.limit(count));
        self.reader.remaining -= self.reader.input.position() - before;
    }
}

impl<R> fmt::Debug for Data<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data").field("remaining", &self.reader.remaining).finish()
    }
}

fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Bytes from the end of `size` bytes of data to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn entry_type(flag: u8, format: Format) -> EntryType {
    match (flag, format) {
        // '7' is a contiguous file, which nobody lays out differently.
        (0 | b'0' | b'7', _) | (b'S', Format::Gnu) => EntryType::File,
        (b'1', _) => EntryType::HardLink,
        (b'2', _) => EntryType::Symlink,
        // v7 has no device numbers.
        (b'3' | b'4', Format::V7) => EntryType::Other(flag),
        (b'3', _) => EntryType::CharDevice,
        (b'4', _) => EntryType::BlockDevice,
        (b'5', _) => EntryType::Directory,
        (b'6', _) => EntryType::Fifo,
        _ => EntryType::Other(flag),
    }
}

fn header_path(block: &Block) -> Vec<u8> {
    let name = field::text(&block[field::NAME]);
    match field::prefix(block) {
        b"" => name.to_vec(),
        prefix => {
            let mut path = Vec::with_capacity(prefix.len() + 1 + name.len());
            path.extend_from_slice(prefix);
            path.push(b'/');
            path.extend_from_slice(name);
            path
        }
    }
}

fn device(block: &Block, entry_type: EntryType) -> Result<Device, TarErrorKind> {
    if !matches!(entry_type, EntryType::CharDevice | EntryType::BlockDevice) {
        return Ok(Device::default());
    }
    let number = |field: &[u8], name| {
        field::unsigned(field, name)
            .and_then(|value| u32::try_from(value).map_err(|_| TarErrorKind::Number(name)))
    };
    Ok(Device { major: number(&block[329..337], "devmajor")?, minor: number(&block[337..345], "devminor")? })
}
