//! Blobs: compressed layers on their way from a registry to an unpacked directory.
//!
//! ```text
//! blobs/ingest/<algorithm>-<hex>   being written; whoever holds its flock writes, others wait or go elsewhere
//!   │ commit: size and digest checked, then renamed
//!   └─> blobs/<algorithm>/<hex>
//! ```
//! A blob is a cache. An interrupted ingest stays and is resumed, after its bytes are hashed again; a committed
//! blob goes when its layer is unpacked. Neither is synced: after a power cut a blob can have holes, so its reader
//! checks the digest of what it reads, always, as it must for the diff ID anyway. Manifests and configs are kept
//! in the database instead, with their image.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use plywood_image::Digest;
use plywood_image::digest::{Verifier, VerifyError};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::Store;
use crate::error::{FileError, OnFile, StateError};
use crate::unpack::RoomError;

/// What can go wrong with one blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The bytes are not those announced. They have been discarded.
    #[error("what came is not what was announced")]
    Verify(#[source] Box<VerifyError>),
    /// It does not fit.
    #[error("there is no room for the download")]
    Room(#[source] RoomError),
    /// The file system refused.
    #[error("cannot store a blob")]
    State(#[from] StateError),
}

/// How a blob can be obtained.
#[derive(Debug)]
pub enum Ingest {
    /// It is here. Opened at its start; its bytes are not verified again.
    Present(File),
    /// Another process or thread writes it now; ask again later.
    Busy,
    /// Nobody has it: write it.
    Write(Box<BlobWriter>),
}

/// The exclusive writer of one blob. Dropped uncommitted, what was written stays to be resumed.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    digest: Digest,
    size: Option<u64>,
    file: File,
    verifier: Verifier,
}

impl Store {
    /// Opens a complete blob at its start; None if it is not here. Its bytes are not verified.
    ///
    /// # Errors
    /// The file system refused.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StateError> {
        let name = blob_name(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.root().blobs(), &name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::new("openat", name, errno).into()),
        }
    }

    /// Removes a complete blob, for instance when its layer is unpacked. None there is fine.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), StateError> {
        let name = blob_name(digest);
        match rustix::fs::unlinkat(self.root().blobs(), &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::new("unlinkat", name, errno).into()),
        }
    }

    /// Finds the blob, or starts or resumes writing it. `size` is what was announced, if anything was.
    ///
    /// # Errors
    /// The file system refused.
    pub fn ingest_blob(&self, digest: &Digest, size: Option<u64>) -> Result<Ingest, BlobError> {
        let name = ingest_name(digest);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            if let Some(file) = self.open_blob(digest)? {
                return Ok(Ingest::Present(file));
            }
            let fd = rustix::fs::openat(self.root().blobs(), &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| file_error("openat", &name, errno))?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Ingest::Busy),
                Err(errno) => return Err(file_error("flock", name, errno)),
            }
            // Between open and flock the last writer may have renamed or removed this very file.
            let ours = rustix::fs::fstat(&fd).map_err(|errno| file_error("fstat", &name, errno))?;
            match rustix::fs::statat(self.root().blobs(), &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if named.st_ino == ours.st_ino => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(file_error("statat", name, errno)),
            }
            let verifier = Verifier::new(*digest, size);
            let mut writer =
                BlobWriter { store: self.clone(), digest: *digest, size, file: fd.into(), verifier };
            writer.rehash().map_err(|error| writer.failed("read", error))?;
            return Ok(Ingest::Write(Box::new(writer)));
        }
    }
}

impl BlobWriter {
    /// Bytes that are there already: where to continue.
    pub fn offset(&self) -> u64 {
        self.verifier.seen()
    }

    /// Throws away what is there, for a sender that cannot continue in the middle.
    ///
    /// # Errors
    /// The file system refused.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        self.empty().map_err(|error| self.failed("ftruncate", error))
    }

    /// Appends the next bytes.
    ///
    /// # Errors
    /// More than announced (what is there is discarded), or the file system refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if let Err(error) = self.verifier.update(bytes) {
            self.empty().map_err(|error| self.failed("ftruncate", error))?;
            return Err(BlobError::Verify(Box::new(error)));
        }
        self.file.write_all(bytes).map_err(|error| {
            // How much arrived is unknown; the next writer hashes what is there.
            self.failed("write", error)
        })
    }

    /// Checks size and digest, and gives the blob its name. Returns it opened at its start.
    ///
    /// # Errors
    /// Not what was announced (what is there is discarded), or the file system refused.
    pub fn commit(mut self) -> Result<File, BlobError> {
        let verifier = std::mem::replace(&mut self.verifier, Verifier::new(self.digest, self.size));
        if let Err(error) = verifier.finish() {
            let name = ingest_name(&self.digest);
            rustix::fs::unlinkat(self.store.root().blobs(), &name, AtFlags::empty())
                .map_err(|errno| self.failed("unlinkat", errno.into()))?;
            return Err(BlobError::Verify(Box::new(error)));
        }
        self.rename()?;
        self.file.rewind().map_err(|error| self.failed("lseek", error))?;
        let BlobWriter { file, .. } = self;
        // The lock goes with the description, which the caller keeps to read from.
        rustix::fs::flock(&file, FlockOperation::Unlock)
            .map_err(|errno| file_error("flock", "blobs", errno))?;
        Ok(file)
    }

    fn rename(&self) -> Result<(), StateError> {
        let blobs = self.store.root().blobs();
        let algorithm = self.digest.algorithm().as_str();
        match rustix::fs::mkdirat(blobs, algorithm, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FileError::new("mkdirat", algorithm, errno).into()),
        }
        let name = ingest_name(&self.digest);
        Ok(rustix::fs::renameat(blobs, &name, blobs, blob_name(&self.digest)).on_file("renameat", &name)?)
    }

    /// Brings the verifier to where the file ends.
    fn rehash(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                // Longer than announced: of another announcement, or damaged.
                read if self.verifier.update(&buffer[..read]).is_err() => return self.empty(),
                _ => {}
            }
        }
    }

    fn empty(&mut self) -> io::Result<()> {
        self.verifier = Verifier::new(self.digest, self.size);
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn failed(&self, call: &'static str, error: io::Error) -> BlobError {
        BlobError::State(FileError::from_io(call, ingest_name(&self.digest), error).into())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BlobWriter::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Relative to `blobs`.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm(), digest.hex())
}

fn file_error(call: &'static str, path: impl AsRef<Path>, errno: Errno) -> BlobError {
    BlobError::State(FileError::new(call, path, errno).into())
}

fn ingest_name(digest: &Digest) -> String {
    format!("ingest/{}-{}", digest.algorithm(), digest.hex())
}
