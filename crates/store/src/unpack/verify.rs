//! Proof on the way: the blob's own digest, checked by whoever reads it.

use std::io::{self, Read};

use plywood_image::Digest;
use plywood_image::digest::{Verifier, VerifyError};

/// The blob is not the one its descriptor names.
#[derive(Debug, thiserror::Error)]
#[error("layer blob: {0}")]
pub struct BlobMismatch(VerifyError);

/// Checks size and digest of everything read through it. The end of the stream is an error if they differ, so
/// whoever reads to the end has proof.
pub(crate) struct Verified<R> {
    inner: R,
    verifier: Option<Verifier>,
}

impl<R: Read> Verified<R> {
    pub(crate) fn new(inner: R, digest: &Digest, size: u64) -> Self {
        Self { inner, verifier: Some(Verifier::new(*digest, Some(size))) }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let got = self.inner.read(buffer)?;
        let Some(verifier) = &mut self.verifier else { return Ok(got) };
        let result = match got {
            0 => self.verifier.take().map_or(Ok(()), Verifier::finish),
            _ => verifier.update(&buffer[..got]),
        };
        result.map(|()| got).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, BlobMismatch(e)))
    }
}
