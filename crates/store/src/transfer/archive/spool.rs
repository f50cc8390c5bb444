//! An archive that cannot be read twice, copied into a file while it is scanned.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::{ArchiveError, Member};
use crate::transfer::Cancel;
use crate::transfer::stoppable::Patient;
use crate::unpack::decompress::Decoder;
use crate::unpack::{Memory, Room};

/// Read of what follows an archive's end, so that its writer is not cut off and a compressed stream is checked to its
/// own end: tar fills its last record with zeros, 10 KiB if nobody asks for more.
const PADDING: u64 = 1 << 20;

/// Scans the archive that `source` gives, uncompressed if it is not, and copies it into a new file without a name in
/// the directory `spool`.
pub(super) fn scan(
    source: &File,
    path: &Path,
    spool: &Path,
    room: &Room<'_>,
    stop: &Cancel,
) -> Result<(File, HashMap<Vec<u8>, Member>), ArchiveError> {
    let read_failed = |source| ArchiveError::Read { path: path.to_owned(), source };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, spool, flags, Mode::RUSR | Mode::WUSR).map_err(|e| {
        ArchiveError::Spool { path: path.to_owned(), into: spool.to_owned(), source: e.into() }
    })?;
    // No layer is unpacked yet.
    let share = Memory::default().share(stop).map_err(|e| read_failed(io::Error::other(e)))?;
    let source = Decoder::new(Patient::new(source, stop), share).map_err(read_failed)?;
    let mut tee = Tee { source, file: file.into(), total: 0, path, spool, room, failed: None };
    let scanned = super::scan(&mut tee, path);
    if let Some(failed) = tee.failed {
        return Err(failed);
    }
    let members = scanned?;
    io::copy(&mut tee.source.take(PADDING), &mut io::sink()).map_err(read_failed)?;
    Ok((tee.file, members))
}

/// A reader that copies what is read.
struct Tee<'a, R> {
    source: R,
    file: File,
    /// Bytes so far.
    total: u64,
    path: &'a Path,
    spool: &'a Path,
    room: &'a Room<'a>,
    /// Why it answered with an error.
    failed: Option<ArchiveError>,
}

impl<R: Read> Tee<'_, R> {
    fn copy(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let path = || self.path.to_owned();
        let got = loop {
            match self.source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(|source| ArchiveError::Read { path: path(), source })?,
            }
        };
        self.total += got as u64;
        self.room.check(self.total).map_err(|source| ArchiveError::Room { path: path(), source })?;
        self.file.write_all(&buffer[..got]).map_err(|source| ArchiveError::Spool {
            path: path(),
            into: self.spool.to_owned(),
            source,
        })?;
        Ok(got)
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.copy(buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })
    }
}
