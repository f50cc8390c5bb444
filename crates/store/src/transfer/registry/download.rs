//! One blob into a partial file: resumed, checked for size as it comes.

use std::io::Read as _;

use plywood_image::Digest;

use super::{Registry, RegistryError};
use crate::transfer::http::Reply;

/// Read and written in pieces of this size.
const BUFFER: usize = 256 << 10;

/// Where a blob's bytes go: a file that outlives a failed fetch.
pub(crate) trait Sink {
    /// Bytes that are there already.
    fn have(&self) -> u64;
    /// Appends.
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// Throws away what is there.
    fn restart(&mut self) -> std::io::Result<()>;
}

impl Registry {
    /// Brings a blob's bytes into `sink`, `size` in all. `progress` gets the number of bytes the sink has after
    /// each step; it falls when a server cannot resume. The digest is the sink's to check.
    pub(crate) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mut impl Sink,
        mut progress: impl FnMut(u64),
    ) -> Result<(), RegistryError> {
        let what = format!("blob {digest}");
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let write_failed = |source| RegistryError::Write { what: what.clone(), source };
        if sink.have() > size {
            sink.restart().map_err(write_failed)?;
        }
        progress(sink.have());
        let mut patience = Patience::new(sink.have(), size);
        while sink.have() < size {
            match self.continue_blob(&path, &what, size, sink, &mut progress) {
                Ok(()) => {}
                Err(error) => {
                    self.pause_after(error, patience.failed_at(sink.have()))?;
                }
            }
        }
        Ok(())
    }

    fn continue_blob(
        &self,
        path: &str,
        what: &str,
        size: u64,
        sink: &mut impl Sink,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RegistryError> {
        let write_failed = |source| RegistryError::Write { what: what.to_owned(), source };
        let from = sink.have();
        let mut reply = match self.open(path, what, None, (from > 0).then_some(from)) {
            // The server's blob is shorter than what we have: not the same blob.
            Err(RegistryError::Status { status: 416, .. }) if from > 0 => {
                sink.restart().map_err(write_failed)?;
                self.open(path, what, None, None)?
            }
            other => other?,
        };
        if reply.status == 200 || content_range_start(&reply) != Some(sink.have()) {
            if reply.status == 206 {
                return Err(RegistryError::Status {
                    origin: reply.origin.clone(),
                    status: reply.status,
                    what: what.to_owned(),
                    message: ": not the range asked for".to_owned(),
                    retry_after: None,
                });
            }
            if sink.have() > 0 {
                sink.restart().map_err(write_failed)?;
            }
        }
        // A server may announce anything; what overflows is wrong in any case.
        let announced = reply.body.content_length().map(|length| length.saturating_add(sink.have()));
        if let Some(found) = announced.filter(|found| *found != size) {
            return Err(RegistryError::Size { what: what.to_owned(), found, expected: size });
        }
        let origin = reply.origin.clone();
        let mut body = reply.body.as_reader();
        let mut buffer = vec![0; BUFFER];
        while !self.cancel.is_cancelled() {
            let got = body.read(&mut buffer).map_err(|e| self.broken(what, &origin, e))?;
            if got == 0 {
                let received = sink.have();
                return if received == size {
                    Ok(())
                } else {
                    Err(RegistryError::Truncated { what: what.to_owned(), received, expected: size })
                };
            }
            let found = sink.have().saturating_add(got as u64);
            if found > size {
                sink.restart().map_err(write_failed)?;
                return Err(RegistryError::Size { what: what.to_owned(), found, expected: size });
            }
            sink.append(&buffer[..got]).map_err(write_failed)?;
            progress(sink.have());
        }
        Err(RegistryError::Cancelled)
    }
}

/// Counts the failures in a row that brought nothing new. Progress earns new patience: a flaky link gets there in the end.
/// But only beyond what was ever reached, for a server that cannot resume makes the sink start over, and only by a step,
/// for one that sends a byte at a time is none to wait for.
#[derive(Debug)]
struct Patience {
    failures: u32,
    /// Bytes from which on new patience is earned.
    due: u64,
    step: u64,
}

/// Of a whole blob: so many times at most patience is earned.
const STEPS: u64 = 1000;

impl Patience {
    fn new(have: u64, size: u64) -> Patience {
        let step = size.div_ceil(STEPS).max(1);
        Patience { failures: 0, due: have.saturating_add(step), step }
    }

    /// An attempt failed when there were `have` bytes. How many have in a row.
    fn failed_at(&mut self, have: u64) -> u32 {
        if have >= self.due {
            self.failures = 0;
            self.due = have.saturating_add(self.step);
        }
        self.failures += 1;
        self.failures
    }
}

/// `N` of `Content-Range: bytes N-M/T`.
fn content_range_start(reply: &Reply) -> Option<u64> {
    reply.header("content-range")?.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_earns_patience() {
        let counts = |reached: &[u64]| {
            let mut patience = Patience::new(100, 10_000);
            reached.iter().map(|have| patience.failed_at(*have)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&[100, 100, 100]), [1, 2, 3]);
        assert_eq!(counts(&[110, 120, 130]), [1, 1, 1]);
        assert_eq!(counts(&[200, 50, 200, 50, 200, 210]), [1, 2, 3, 4, 5, 1]);
        assert_eq!(counts(&[101, 102, 103, 109, 110, 111]), [1, 2, 3, 4, 1, 2], "a byte at a time");
        // However it goes, there is an end.
        let mut patience = Patience::new(0, 100_000);
        let tries = (0..=100_000).filter(|have| patience.failed_at(*have) < 6).count();
        assert!(tries < 7000, "{tries}");
    }
}
