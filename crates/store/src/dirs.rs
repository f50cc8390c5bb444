//! Reading directories by descriptor.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, RawDir, SeekFrom};

use crate::error::{FileError, OnFile};
use crate::root::DIR_FLAGS;

/// Name and type of one directory entry; the type may be `Unknown` where the file system does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) file_type: FileType,
}

/// Everything in a directory but `.` and `..`, in the file system's order.
pub(crate) fn entries(dir: BorrowedFd<'_>, shown: impl AsRef<Path>) -> Result<Vec<Entry>, FileError> {
    rustix::fs::seek(dir, SeekFrom::Start(0)).on_file("lseek", &shown)?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut reader = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry.on_file("getdents64", &shown)?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push(Entry { name: name.to_owned(), file_type: entry.file_type() });
        }
    }
    Ok(entries)
}

/// The names alone. Opens the directory anew: descriptors shared between threads share their position too.
pub(crate) fn names(dir: BorrowedFd<'_>, shown: impl AsRef<Path>) -> Result<Vec<CString>, FileError> {
    let own = rustix::fs::openat(dir, ".", DIR_FLAGS, Mode::empty()).on_file("openat", &shown)?;
    let own = std::os::fd::AsFd::as_fd(&own);
    Ok(entries(own, shown)?.into_iter().map(|entry| entry.name).collect())
}
