//! Layer blobs: GNU tar writes the archive, one worker compresses and hashes while the next layer is made.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::diff::{Difference, whiteout};
use crate::proc::{output, remove_dir};

/// A blob in the layout, and what the image says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBlob {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: String,
    /// Digest of the blob.
    pub(crate) digest: String,
    /// Bytes of the blob.
    pub(crate) size: u64,
}

/// Writes the archive of a difference: changed entries, then whiteouts, with PAX headers, numeric owners, hard
/// links and extended attributes, no time later than `epoch`.
pub(crate) fn write_tar(
    root: &Path,
    difference: &Difference,
    epoch: i64,
    scratch: &Path,
    tar: &Path,
) -> Result<()> {
    remove_dir(scratch)?;
    let hidden = scratch.join("whiteouts");
    fs::create_dir_all(&hidden)?;
    let whiteouts: Vec<PathBuf> = difference.removed.iter().map(|path| whiteout(path)).collect();
    for path in &whiteouts {
        let file = hidden.join(path);
        fs::create_dir_all(file.parent().unwrap_or(&hidden))?;
        File::create(file)?;
    }
    let (changed_list, hidden_list) = (scratch.join("changed"), scratch.join("hidden"));
    fs::write(&changed_list, null_separated(&difference.changed))?;
    fs::write(&hidden_list, null_separated(&whiteouts))?;
    let mut command = Command::new("tar");
    command
        .args(["--create", "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f"])
        .args(["--pax-option=delete=atime,delete=ctime", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--no-recursion", "--null", "--verbatim-files-from"])
        .arg(format!("--mtime=@{epoch}"))
        .arg("--clamp-mtime")
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(root)
        .arg("--files-from")
        .arg(&changed_list);
    if !whiteouts.is_empty() {
        command.arg("--directory").arg(&hidden).arg("--files-from").arg(&hidden_list);
    }
    output(&mut command)?;
    remove_dir(scratch)
}

fn null_separated(paths: &[PathBuf]) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(OsStr::as_bytes(path.as_os_str()));
        list.push(0);
    }
    list
}

/// Compresses archives into a layout's `blobs/sha256` on a thread of its own, in the order given.
pub(crate) struct Compressor {
    tars: Sender<PathBuf>,
    worker: JoinHandle<Result<Vec<LayerBlob>>>,
}

impl Compressor {
    /// Starts the worker.
    pub(crate) fn start(blobs: PathBuf) -> Compressor {
        let (tars, incoming) = channel::<PathBuf>();
        let worker = std::thread::spawn(move || {
            incoming
                .into_iter()
                .map(|tar| {
                    let blob =
                        compress(&tar, &blobs).with_context(|| format!("compressing {}", tar.display()))?;
                    fs::remove_file(&tar)?;
                    Ok(blob)
                })
                .collect()
        });
        Compressor { tars, worker }
    }

    /// Hands an archive over; it is deleted once its blob is there. A worker that failed is reported by
    /// [`Compressor::finish`].
    pub(crate) fn push(&self, tar: PathBuf) {
        drop(self.tars.send(tar));
    }

    /// Waits for the last blob.
    pub(crate) fn finish(self) -> Result<Vec<LayerBlob>> {
        drop(self.tars);
        self.worker.join().map_err(|_| anyhow!("the compressing thread panicked"))?
    }
}

/// One archive into one gzip blob, named by its digest.
fn compress(tar: &Path, blobs: &Path) -> Result<LayerBlob> {
    let partial = blobs.join("partial");
    let mut input = BufReader::with_capacity(1 << 20, File::open(tar)?);
    let mut archive = Sha256::new();
    let hashing =
        HashingWriter { inner: BufWriter::new(File::create(&partial)?), hash: Sha256::new(), size: 0 };
    let mut gzip = GzEncoder::new(hashing, Compression::new(6));
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        archive.update(&buffer[..n]);
        gzip.write_all(&buffer[..n])?;
    }
    let mut blob = gzip.finish()?;
    blob.flush()?;
    let digest = hex(&blob.hash.finalize());
    fs::rename(&partial, blobs.join(&digest))?;
    Ok(LayerBlob {
        diff_id: format!("sha256:{}", hex(&archive.finalize())),
        digest: format!("sha256:{digest}"),
        size: blob.size,
    })
}

/// Counts and hashes what passes through.
struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
