//! The buffer the kernel writes one event's samples into, mapped.
//!
//! ```text
//! | control page: data_head (the kernel's), data_tail (ours) | data: records, the oldest at tail, wrapping around |
//! ```
//!
//! Between tail and head the kernel changes nothing until the tail is moved.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

/// Offsets in `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// A mapped ring; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    page: usize,
    data: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and nothing else in this process points into it. All
// access is through `&mut self`, or atomic.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of a perf event with `pages` pages of data, a power of two.
    pub(super) fn map(fd: BorrowedFd<'_>, pages: usize) -> Result<Ring, Errno> {
        let page = rustix::param::page_size();
        let data = pages * page;
        // SAFETY: a new mapping at an address of the kernel's choice (no MAP_FIXED) touches no memory in use; the
        // descriptor is borrowed and so open during the call, and the mapping outlives it on its own.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + data,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::FAULT)?;
        Ok(Ring { base, page, data })
    }

    /// Takes everything that is in it.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        // Acquire: the records are read after the head that covers them.
        let head = self.control(DATA_HEAD).load(Ordering::Acquire);
        let tail = self.control(DATA_TAIL).load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        let mut at = tail;
        while at < head {
            let offset = (at % self.data as u64) as usize;
            let length = (self.data - offset).min((head - at) as usize);
            // SAFETY: the data area begins a page after the base and has `data` bytes; `offset` is below that.
            let start = unsafe { self.base.add(self.page + offset) };
            // SAFETY: `length` bytes from `start` lie within the mapping; the kernel leaves what is between tail and
            // head alone until the tail is stored below, and `&mut self` keeps others in this process away.
            let part = unsafe { std::slice::from_raw_parts(start.as_ptr(), length) };
            bytes.extend_from_slice(part);
            at += length as u64;
        }
        // Release: the kernel may overwrite them only after they were read.
        self.control(DATA_TAIL).store(head, Ordering::Release);
        bytes
    }

    fn control(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both offsets lie within the first page, which is mapped.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: the address is page-aligned plus a multiple of eight; the mapping lives as long as `self`; the kernel
        // accesses these words with single loads and stores, as atomics of another thread would.
        unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the one mapped in `map`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page + self.data) };
    }
}
