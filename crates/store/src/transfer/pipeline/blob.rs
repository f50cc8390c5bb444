//! A layer's blob, ready to be unpacked.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Job, Shared, unpack_failed};
use crate::blobs::{BlobError, BlobWriter, Ingest};
use crate::error::{OnFile as _, StateError};
use crate::transfer::error::FetchError;
use crate::transfer::provider::Provider;
use crate::transfer::registry::Sink;
use crate::transfer::section::Section;
use crate::transfer::{Event, Progress};
use crate::unpack::{BlobMismatch, Room, RoomError, UnpackError, UnpackLimits, Verified};

/// How often to look whether another process is done with the blob.
const BUSY_STEP: Duration = Duration::from_millis(100);

/// Progress is told once in so many bytes.
const REPORT_STEP: u64 = 1 << 20;

/// Where the bytes are, and what is known of them.
#[derive(Debug)]
pub(super) struct Blob {
    section: Section,
    trust: Trust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Proven a moment ago.
    Proven,
    /// Found in the store's cache.
    Cached,
    /// In a layout or archive: never proven.
    Foreign,
}

impl Blob {
    /// Downloads the blob, or finds it.
    pub(super) fn obtain(shared: &Shared<'_>, job: &Job) -> Result<Self, FetchError> {
        match shared.provider {
            Provider::Local(local) => {
                let section = local.blob(&job.digest, job.size)?;
                Ok(Self { section, trust: Trust::Foreign })
            }
            Provider::Registry(registry) => loop {
                let failed =
                    |source| FetchError::Blob { layer: job.index + 1, digest: Box::new(job.digest), source };
                match shared.store.ingest_blob(&job.digest, Some(job.size)).map_err(failed)? {
                    Ingest::Present(file) => {
                        (shared.progress)(Event::Downloaded { layer: job.index, bytes: job.size });
                        return Ok(Self { section: Section::whole(file, job.size), trust: Trust::Cached });
                    }
                    Ingest::Busy if shared.stop.wait(BUSY_STEP) => return Err(FetchError::Cancelled),
                    Ingest::Busy => {}
                    Ingest::Write(writer) => {
                        let resumed = writer.offset() > 0;
                        let mut sink = Partial::new(*writer, shared, job.size).map_err(failed)?;
                        let mut steps = Steps::default();
                        let came = registry.blob(&job.digest, job.size, &mut sink, |bytes| {
                            if steps.due(bytes) || bytes == job.size {
                                (shared.progress)(Event::Downloaded { layer: job.index, bytes });
                            }
                        });
                        if let Some(error) = sink.full {
                            return Err(failed(BlobError::Room(error)));
                        }
                        came?;
                        match sink.writer.commit() {
                            Ok(file) => {
                                let section = Section::whole(file, job.size);
                                return Ok(Self { section, trust: Trust::Proven });
                            }
                            // What an earlier fetch left was damaged; it is gone now.
                            Err(BlobError::Verify(error)) if resumed => {
                                tracing::warn!(%error, blob = %job.digest, "resumed blob damaged, fetched anew");
                            }
                            Err(source) => return Err(failed(source)),
                        }
                    }
                }
            },
        }
    }

    /// The bytes, checked on the way unless they were before or the diff ID checks the same.
    pub(super) fn reader<'a>(
        &self,
        shared: &Shared<'a>,
        job: &Job,
    ) -> Result<Box<dyn Read + Send + 'a>, FetchError> {
        let counted = Counted {
            section: self.section.clone(),
            layer: job.index,
            bytes: 0,
            steps: Steps::default(),
            progress: shared.progress,
        };
        let proven = self.trust == Trust::Proven || job.digest == job.diff_id.0;
        Ok(match proven {
            true => Box::new(counted),
            false => Box::new(Verified::new(counted, &job.digest, job.size)),
        })
    }

    /// Finds the true reason of a failure to unpack, and another copy of the blob if that may help.
    pub(super) fn after_failure(
        self,
        shared: &Shared<'_>,
        job: &Job,
        error: UnpackError,
    ) -> Result<Self, FetchError> {
        if !error.blames_blob() || shared.stop.is_cancelled() {
            return Err(unpack_failed(job, error));
        }
        let error = match self.trust {
            // Damage shows as bad compression or a bad archive before the end of the blob is reached.
            Trust::Cached | Trust::Foreign => match self.verify(job) {
                Ok(()) => error,
                Err(mismatch) => UnpackError::Stream(mismatch),
            },
            Trust::Proven => error,
        };
        let damaged =
            matches!(&error, UnpackError::Stream(e) if e.get_ref().is_some_and(|e| e.is::<BlobMismatch>()));
        if self.trust != Trust::Foreign {
            // Useless as it is; nor shall it be left behind.
            shared.store.remove_blob(&job.digest)?;
        }
        if self.trust == Trust::Cached && damaged {
            tracing::warn!(blob = %job.digest, "cached blob damaged, fetched anew");
            return Self::obtain(shared, job);
        }
        Err(unpack_failed(job, error))
    }

    fn verify(&self, job: &Job) -> io::Result<()> {
        let mut verified = Verified::new(self.section.clone(), &job.digest, job.size);
        io::copy(&mut verified, &mut io::sink()).map(drop)
    }
}

/// The partial file as the registry client sees it. Like whatever is unpacked it leaves the file system its last bytes.
struct Partial<'a> {
    writer: BlobWriter,
    room: Room<'a>,
    /// Bytes that were there when `room` was measured.
    before: u64,
    /// Why no more is taken.
    full: Option<RoomError>,
    limits: UnpackLimits,
    blobs: BorrowedFd<'a>,
}

impl<'a> Partial<'a> {
    /// Refuses what is announced to be too large, before any of it comes.
    fn new(writer: BlobWriter, shared: &Shared<'a>, size: u64) -> Result<Self, BlobError> {
        // How large a blob may be is the manifest's matter.
        let limits = UnpackLimits { layer_bytes: u64::MAX, ..shared.request.limits.clone() };
        let blobs = shared.store.root().blobs();
        let room = measure(&limits, blobs)?;
        let before = writer.offset();
        room.check(size.saturating_sub(before)).map_err(BlobError::Room)?;
        Ok(Self { writer, room, before, full: None, limits, blobs })
    }
}

fn measure<'a>(limits: &UnpackLimits, blobs: BorrowedFd<'a>) -> Result<Room<'a>, BlobError> {
    Ok(limits.room(blobs).on_file("fstatvfs", "blobs").map_err(StateError::from)?)
}

impl Sink for Partial<'_> {
    fn have(&self) -> u64 {
        self.writer.offset()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let total = (self.have() + bytes.len() as u64).saturating_sub(self.before);
        if let Err(error) = self.room.check(total) {
            self.full = Some(error);
            return Err(io::Error::other(error));
        }
        self.writer.write(bytes).map_err(io::Error::other)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.writer.restart().map_err(io::Error::other)?;
        self.room = measure(&self.limits, self.blobs).map_err(io::Error::other)?;
        self.before = 0;
        Ok(())
    }
}

/// Thins out progress reports.
#[derive(Debug, Default)]
struct Steps {
    last: u64,
}

impl Steps {
    fn due(&mut self, bytes: u64) -> bool {
        let due = bytes.abs_diff(self.last) >= REPORT_STEP;
        if due {
            self.last = bytes;
        }
        due
    }
}

/// Tells how far unpacking is.
struct Counted<'a> {
    section: Section,
    layer: usize,
    bytes: u64,
    steps: Steps,
    progress: Progress<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.section.read(buffer)?;
        self.bytes += got as u64;
        if self.steps.due(self.bytes) || got > 0 && self.section.len() == 0 {
            (self.progress)(Event::Unpacked { layer: self.layer, bytes: self.bytes });
        }
        Ok(got)
    }
}
