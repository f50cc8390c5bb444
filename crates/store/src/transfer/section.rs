//! A stretch of a file as a reader of its own, and the only way to open files of a foreign layout.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

/// Bytes `start..start + length` of a file. Reads by position: any number of sections share one descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Section {
    pub(crate) fn new(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { file, position: start, end: start.saturating_add(length) }
    }

    /// A whole file of `length` bytes.
    pub(crate) fn whole(file: File, length: u64) -> Self {
        Self::new(Arc::new(file), 0, length)
    }

    /// Bytes not read yet.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.len()).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}

/// Opens a regular file and nothing else, and gives its size. Symbolic links may lead anywhere: who opens by a
/// digest checks what comes. A fifo or a device is neither waited for nor touched.
pub(crate) fn open_regular(dir: impl AsFd, path: &Path) -> io::Result<(File, u64)> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    let regular = |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let before = rustix::fs::statat(&dir, path, rustix::fs::AtFlags::empty())?;
    if !regular(&before) {
        return Err(irregular());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(&dir, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if !regular(&stat) {
        return Err(irregular());
    }
    Ok((file.into(), stat.st_size.try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"0123456789").unwrap();
        let (file, size) = open_regular(rustix::fs::CWD, &dir.path().join("f")).unwrap();
        assert_eq!(size, 10);
        let file = Arc::new(file);
        let read = |start, length| {
            let mut text = String::new();
            Section::new(file.clone(), start, length).read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(read(2, 3), "234");
        assert_eq!(read(8, 100), "89");
        assert_eq!(read(100, 1), "");
    }

    #[test]
    fn only_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        for name in ["fifo", ".", "absent"] {
            assert!(open_regular(rustix::fs::CWD, &dir.path().join(name)).is_err(), "{name}");
        }
    }
}
