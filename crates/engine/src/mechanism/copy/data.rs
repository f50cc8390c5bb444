//! The contents of a file: shared with the original where the file system can, else copied, holes kept.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::tree::{Copy, CopyError, at};

/// Bytes moved at once where the kernel cannot copy between the two files itself.
const BUFFER: usize = 128 * 1024;

/// Copies `size` bytes of `source` into the empty file `target`.
pub(super) fn copy(
    copy: &mut Copy<'_>,
    source: &File,
    target: &File,
    size: u64,
    path: &Path,
) -> Result<(), CopyError> {
    if size == 0 {
        return Ok(());
    }
    if !copy.no_reflinks {
        match rustix::fs::ioctl_ficlone(target, source) {
            Ok(()) => {
                copy.stats.reflinked += 1;
                copy.stats.bytes += size;
                return Ok(());
            }
            // Another file system, or one that shares nothing: it will not change its mind during this copy.
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                copy.no_reflinks = true;
            }
            Err(errno) => return Err(at(path, "ioctl(FICLONE)")(errno)),
        }
    }
    let mut offset = 0;
    while offset < size {
        let (start, end) = match next_data(source, offset, size) {
            Ok(Some(part)) => part,
            Ok(None) => break,
            Err(errno) => return Err(at(path, "lseek(SEEK_DATA)")(errno)),
        };
        copy_part(source, target, start, end, path)?;
        copy.stats.bytes += end - start;
        offset = end;
    }
    rustix::fs::ftruncate(target, size).map_err(at(path, "ftruncate"))
}

/// The next stretch that is no hole.
fn next_data(source: &File, offset: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows nothing of holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(errno) => return Err(errno),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

fn copy_part(source: &File, target: &File, start: u64, end: u64, path: &Path) -> Result<(), CopyError> {
    let mut offset = start;
    while offset < end {
        let (mut from, mut to) = (offset, offset);
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            // The file got shorter under our hands: a layer is immutable, so this is an error of the disk.
            Ok(0) => return Err(at(path, "copy_file_range")(Errno::IO)),
            Ok(copied) => offset += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return through_memory(source, target, offset, end, path);
            }
            Err(errno) => return Err(at(path, "copy_file_range")(errno)),
        }
    }
    Ok(())
}

fn through_memory(source: &File, target: &File, start: u64, end: u64, path: &Path) -> Result<(), CopyError> {
    let failed =
        |call| move |error: std::io::Error| at(path, call)(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut buffer = vec![0; BUFFER];
    let mut offset = start;
    while offset < end {
        let part = usize::try_from(end - offset).unwrap_or(BUFFER).min(BUFFER);
        source.read_exact_at(&mut buffer[..part], offset).map_err(failed("pread64"))?;
        target.write_all_at(&buffer[..part], offset).map_err(failed("pwrite64"))?;
        offset += part as u64;
    }
    Ok(())
}
