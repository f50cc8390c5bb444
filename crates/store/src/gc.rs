//! Garbage collection: what no image, container or living process refers to.
//!
//! Roots are names, containers and pins. What they do not reach is marked in one transaction, against which every
//! pin of another process is either earlier (and honoured) or later (and no longer finds it). The transaction is
//! durable before the first file goes, so that a power cut cannot leave a row without its directory.

use plywood_image::Digest;
use rusqlite::Transaction;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::db::{Durability, unsigned};
use crate::error::{FileError, OnFile, StateError};
use crate::pins::Target;
use crate::recover::Recovered;
use crate::root::DIR_FLAGS;
use crate::{Store, dirs, trash};

/// One thing that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// `image`, `layer`, `flat`, `blob` or `download`.
    pub kind: &'static str,
    /// Digest or number.
    pub what: String,
    /// Bytes of its files. Hard links and sparse files make what is freed on disk differ.
    pub bytes: u64,
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// In the order of removal.
    pub removed: Vec<Removed>,
}

impl GcReport {
    /// Sum of the bytes.
    pub fn bytes(&self) -> u64 {
        self.removed.iter().fold(0, |sum, removed| sum.saturating_add(removed.bytes))
    }
}

impl Store {
    /// Removes what nothing refers to. Other processes may pull, launch and collect meanwhile.
    ///
    /// # Errors
    /// The database or the file system refused; what was marked and not removed goes at the next [`Store::open`].
    pub fn collect_garbage(&self) -> Result<GcReport, StateError> {
        // So that pins of the dead hold nothing.
        self.with_reserve(|| self.recover())?;
        let mut report = GcReport::default();
        let mut aside = Vec::new();
        self.write_with_reserve(Durability::Full, |transaction| {
            report = GcReport::default();
            doom_images(transaction, &mut report)?;
            let owner = self.register(transaction)?;
            doom_layers(transaction, owner, &mut report)?;
            doom_flats(transaction, owner, &mut report)?;
            self.set_blobs_aside(transaction, &mut report, &mut aside)
        })?;
        for name in aside {
            self.with_reserve(|| trash::remove(self, &name))?;
        }
        self.with_reserve(|| self.finish_doomed(&mut Recovered::default()))?;
        Ok(report)
    }

    /// Blobs have no rows: they leave their place inside the transaction that saw no pin.
    fn set_blobs_aside(
        &self,
        transaction: &Transaction<'_>,
        report: &mut GcReport,
        aside: &mut Vec<String>,
    ) -> Result<(), StateError> {
        for algorithm in ["sha256", "sha512"] {
            let dir = match rustix::fs::openat(self.root().blobs(), algorithm, DIR_FLAGS, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(FileError::new("openat", algorithm, errno).into()),
            };
            let dir = std::os::fd::AsFd::as_fd(&dir);
            for name in dirs::names(dir, algorithm)? {
                let name = name.to_string_lossy().into_owned();
                let digest = format!("{algorithm}:{name}").parse::<Digest>().ok();
                if pinned(transaction, digest.as_ref())? {
                    continue;
                }
                let Some(bytes) = size(dir, &name)? else { continue };
                aside.extend(trash::set_aside(self, dir, &name)?);
                report.removed.push(Removed { kind: "blob", what: name, bytes });
            }
        }
        self.set_downloads_aside(transaction, report, aside)
    }

    /// Interrupted downloads that nobody resumes now.
    fn set_downloads_aside(
        &self,
        transaction: &Transaction<'_>,
        report: &mut GcReport,
        aside: &mut Vec<String>,
    ) -> Result<(), StateError> {
        let dir = rustix::fs::openat(self.root().blobs(), "ingest", DIR_FLAGS, Mode::empty())
            .on_file("openat", "blobs/ingest")?;
        let dir = std::os::fd::AsFd::as_fd(&dir);
        for name in dirs::names(dir, "blobs/ingest")? {
            let name = name.to_string_lossy().into_owned();
            let digest = name.replacen('-', ":", 1).parse::<Digest>().ok();
            if pinned(transaction, digest.as_ref())? {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
                Ok(file) => file,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(FileError::new("openat", &name, errno).into()),
            };
            // A writer that waits for this lock sees afterwards that the name is gone, and starts anew.
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => continue,
                Err(errno) => return Err(FileError::new("flock", &name, errno).into()),
            }
            let Some(bytes) = size(dir, &name)? else { continue };
            aside.extend(trash::set_aside(self, dir, &name)?);
            report.removed.push(Removed { kind: "download", what: name, bytes });
        }
        Ok(())
    }
}

fn doom_images(transaction: &Transaction<'_>, report: &mut GcReport) -> rusqlite::Result<()> {
    doom(
        transaction,
        report,
        "image",
        "DELETE FROM images
         WHERE NOT EXISTS (SELECT 1 FROM containers WHERE image = images.manifest_digest)
         AND NOT EXISTS (SELECT 1 FROM pins WHERE kind = 'image' AND target = images.manifest_digest)
         AND NOT EXISTS (SELECT 1 FROM image_names WHERE image = images.manifest_digest)
         RETURNING manifest_digest AS what, length(manifest) + length(config) AS bytes",
        [],
    )
}

fn doom_layers(transaction: &Transaction<'_>, owner: i64, report: &mut GcReport) -> rusqlite::Result<()> {
    doom(
        transaction,
        report,
        "layer",
        "UPDATE layers SET state = 'doomed', owner = ?1 WHERE state = 'committed'
         AND NOT EXISTS (SELECT 1 FROM image_layers WHERE layer = layers.id)
         AND NOT EXISTS (SELECT 1 FROM pins WHERE kind = 'layer' AND target = CAST(layers.id AS TEXT))
         RETURNING diff_id AS what, size_bytes AS bytes",
        [owner],
    )
}

fn doom_flats(transaction: &Transaction<'_>, owner: i64, report: &mut GcReport) -> rusqlite::Result<()> {
    doom(
        transaction,
        report,
        "flat",
        "UPDATE flats SET state = 'doomed', owner = ?1 WHERE state = 'ready'
         AND NOT EXISTS (SELECT 1 FROM images WHERE chain_id = flats.chain_id)
         AND NOT EXISTS (SELECT 1 FROM pins WHERE kind = 'flat' AND target = CAST(flats.id AS TEXT))
         RETURNING CAST(id AS TEXT) AS what, copied_bytes AS bytes",
        [owner],
    )
}

/// Takes away, or marks, what `sql` says, and reports what that returns.
fn doom(
    transaction: &Transaction<'_>,
    report: &mut GcReport,
    kind: &'static str,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(sql)?;
    let removed = statement.query_map(params, |row| {
        Ok(Removed { kind, what: row.get("what")?, bytes: unsigned(row, "bytes")? })
    })?;
    for removed in removed {
        report.removed.push(removed?);
    }
    Ok(())
}

/// A name that is no digest is not ours to keep.
fn pinned(transaction: &Transaction<'_>, digest: Option<&Digest>) -> rusqlite::Result<bool> {
    match digest {
        Some(digest) => Target::Blob(digest).is_pinned(transaction),
        None => Ok(false),
    }
}

fn size(dir: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<Option<u64>, FileError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(FileError::new("statat", name, errno)),
    }
}
