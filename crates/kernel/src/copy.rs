//! Contents of files: shared between two files where the file system can, else copied, holes kept.
//!
//! A file of an image can be all hole: written out it would fill a disk that its archive fits a thousand times. So what is
//! a hole in the source stays one, and whoever copies is asked before each piece whether to go on: there may be no room,
//! or nobody wants the copy any more.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::SyscallError;

/// Copied between two questions: a fraction of a second on a slow disk.
const PIECE: u64 = 8 << 20;

/// Moved at once where the kernel cannot copy between the two files itself.
const BUFFER: usize = 128 << 10;

/// Why contents were not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError<E> {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] SyscallError),
    /// Whoever copies did not want to go on.
    #[error("stopped")]
    Stopped(E),
}

/// Lets `target` share all of `source`'s contents. False where the file system cannot, which it will not be able to for
/// any other file between the same two places either.
///
/// # Errors
/// Any other answer.
pub fn share(source: impl AsFd, target: impl AsFd) -> Result<bool, SyscallError> {
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(SyscallError::new("ioctl(target, FICLONE, source)", errno)),
    }
}

/// Copies the first `size` bytes of `source` into the empty file `target`, whose length is `size` afterwards. `go_on` is
/// asked before each piece, with the number of bytes written after it; holes do not count. Returns that number.
///
/// # Errors
/// A call failed, or `go_on` said no. `target` then holds anything.
pub fn data<E>(
    source: impl AsFd,
    target: impl AsFd,
    size: u64,
    mut go_on: impl FnMut(u64) -> Result<(), E>,
) -> Result<u64, CopyError<E>> {
    let (source, target) = (source.as_fd(), target.as_fd());
    rustix::fs::ftruncate(target, size)
        .map_err(|errno| SyscallError::new(format!("ftruncate(target, {size})"), errno))?;
    let (mut at, mut written) = (0, 0);
    let mut memory = None;
    while let Some((start, end)) = next_data(source, at, size)? {
        at = start;
        while at < end {
            let length = (end - at).min(PIECE);
            go_on(written + length).map_err(CopyError::Stopped)?;
            piece(source, target, at, length, &mut memory)?;
            at += length;
            written += length;
        }
    }
    Ok(written)
}

/// The next stretch from `at` that is no hole.
fn next_data(source: BorrowedFd<'_>, at: u64, size: u64) -> Result<Option<(u64, u64)>, SyscallError> {
    if at >= size {
        return Ok(None);
    }
    let failed = |whence| move |errno| SyscallError::new(format!("lseek(source, {at}, {whence})"), errno);
    let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(start) => start,
        // Only a hole follows.
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows nothing of holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(errno) => return Err(failed("SEEK_DATA")(errno)),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start)).map_err(failed("SEEK_HOLE"))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// `memory` is there once the kernel said that it does not copy between these two.
fn piece(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    at: u64,
    length: u64,
    memory: &mut Option<(File, File, Vec<u8>)>,
) -> Result<(), SyscallError> {
    let (mut from, mut to, end) = (at, at, at + length);
    while memory.is_none() && from < end {
        // The piece is no longer than 8 MiB.
        let left = (end - from) as usize;
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left) {
            // The file got shorter under our hands: nothing of ours does that, so it is an error of the disk.
            Ok(0) => return Err(SyscallError::new("copy_file_range(source, target)", Errno::IO)),
            Ok(_) | Err(Errno::INTR) => {}
            // Between file systems of two types (5.19 and later refuse), or ones that cannot.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                let dup = |fd: BorrowedFd<'_>| {
                    let fd = fd.try_clone_to_owned().map_err(|e| SyscallError::from_io("dup(file)", &e));
                    fd.map(File::from)
                };
                *memory = Some((dup(source)?, dup(target)?, vec![0; BUFFER]));
            }
            Err(errno) => return Err(SyscallError::new("copy_file_range(source, target)", errno)),
        }
    }
    let Some((source, target, buffer)) = memory else { return Ok(()) };
    while from < end {
        let part = &mut buffer[..((end - from) as usize).min(BUFFER)];
        source.read_exact_at(part, from).map_err(|e| SyscallError::from_io("pread64(source)", &e))?;
        target.write_all_at(part, from).map_err(|e| SyscallError::from_io("pwrite64(target)", &e))?;
        from += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn memory() -> File {
        rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn disk() -> File {
        tempfile::tempfile().unwrap()
    }

    /// 20 MiB of data in the middle of a terabyte.
    fn fill(file: &File) -> Vec<u8> {
        let data: Vec<u8> = (0..20 * MIB).map(|n| (n % 251) as u8 + 1).collect();
        file.set_len(MIB * MIB).unwrap();
        file.write_all_at(&data, 100 * MIB).unwrap();
        data
    }

    /// Within a file system, and between two, where the kernel leaves the copying to us.
    #[test]
    fn holes_stay_holes() {
        for (source, target) in [(disk(), disk()), (memory(), disk()), (memory(), memory())] {
            let content = fill(&source);
            let mut asked = Vec::new();
            let written = data(&source, &target, MIB * MIB, |bytes| {
                asked.push(bytes);
                Ok::<_, Infallible>(())
            });
            assert_eq!(written.unwrap(), 20 * MIB);
            assert_eq!(asked, [8 * MIB, 16 * MIB, 20 * MIB]);
            let copied = target.metadata().unwrap();
            assert_eq!(copied.len(), MIB * MIB);
            assert!(copied.blocks() * 512 < 21 * MIB, "{}", copied.blocks());
            let mut found = vec![0; content.len()];
            target.read_exact_at(&mut found, 100 * MIB).unwrap();
            assert!(found == content);
        }
    }

    #[test]
    fn no_more_is_written_than_wanted() {
        let (source, target) = (disk(), disk());
        fill(&source);
        let answer =
            data(&source, &target, MIB * MIB, |bytes| if bytes > 8 * MIB { Err(bytes) } else { Ok(()) });
        assert!(matches!(answer, Err(CopyError::Stopped(bytes)) if bytes == 16 * MIB), "{answer:?}");
        assert!(target.metadata().unwrap().blocks() * 512 < 9 * MIB);
    }

    #[test]
    fn ends_are_exact() {
        let (mut source, target) = (disk(), disk());
        source.write_all(b"0123456789").unwrap();
        assert_eq!(data(&source, &target, 7, |_| Ok::<_, Infallible>(())).unwrap(), 7);
        let mut found = [0; 7];
        target.read_exact_at(&mut found, 0).unwrap();
        assert_eq!((&found, target.metadata().unwrap().len()), (b"0123456", 7));
        assert_eq!(data(disk(), disk(), 0, |_| Ok::<_, Infallible>(())).unwrap(), 0);
        let missing = data(memory(), disk(), 10, |_| Ok::<_, Infallible>(()));
        assert_eq!(missing.unwrap(), 0, "an empty file is all hole");
    }

    #[test]
    fn sharing_is_for_files_of_one_file_system() {
        assert!(!share(memory(), disk()).unwrap());
    }
}
