//! How much memory unpacking takes, whatever the blobs are.
//!
//! ```text
//! an image    up to 4 layers at once    each up to 12 MiB
//!                                       one of them up to 132 MiB; others that need more wait for it
//!             marks of all its layers   up to 24 MiB, kept until the layers below are known
//! ```
//! What grows with a layer's bytes is claimed before it is allocated: the window of its compression, and what
//! [`plywood_image::layer::Tracker`] and the writer keep of its entries. Buffers, extension headers and maps of sparse
//! files come to another 8 MiB a layer at most.
//!
//! Nobody waits in a circle: a layer that waits for the large share waits for one that has it, and that one waits for
//! nobody. What is refused does not depend on what else is unpacked at the time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plywood_image::limits;

use crate::transfer::Cancel;

/// Layers unpacked at once.
const LAYERS: usize = 4;
/// What each may take: an 8 MiB window, which every zstd decoder has to support, and 80,000 names.
const SMALL: usize = 12 << 20;
/// What one of them may take.
const LARGE: usize = limits::LAYER_MEMORY_BYTES;
/// What all layers of an image may leave to be settled: some 150,000 whiteouts, implied directories and hard links into
/// lower layers.
const MARKS: usize = 24 << 20;

/// How often a waiter looks whether it is cancelled.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// Why a layer gets no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// One layer.
    #[error("its names, attributes of directories and zstd window take more than {} MiB", LARGE >> 20)]
    Layer,
    /// The image.
    #[error(
        "with it the image's whiteouts, unlisted directories and hard links into lower layers take more than {} MiB",
        MARKS >> 20
    )]
    Marks,
    /// Stopped while waiting.
    #[error("cancelled")]
    Cancelled,
}

/// The memory for unpacking one image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct State {
    layers: usize,
    large: bool,
    marks: usize,
}

/// One layer's share, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Memory,
    cancel: Cancel,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    large: bool,
}

impl Memory {
    /// A share for one more layer. Waits until there are few enough.
    pub(crate) fn share(&self, cancel: &Cancel) -> Result<Arc<Share>, MemoryError> {
        self.wait(cancel, |state| {
            let free = state.layers < LAYERS;
            state.layers += usize::from(free);
            free
        })?;
        let share = Share { memory: self.clone(), cancel: cancel.clone(), used: Mutex::default() };
        Ok(Arc::new(share))
    }

    fn wait(&self, cancel: &Cancel, take: impl Fn(&mut State) -> bool) -> Result<(), MemoryError> {
        let mut state = self.state();
        while !take(&mut state) {
            if cancel.is_cancelled() {
                return Err(MemoryError::Cancelled);
            }
            let waited = self.0.given_back.wait_timeout(state, WAIT_STEP);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Claims memory until the layer is unpacked. Waits if that makes the layer a large one and there is another.
    pub(crate) fn claim(&self, bytes: usize) -> Result<(), MemoryError> {
        // Held while waiting: the layer's other thread has to wait for the same.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let total = used.bytes.saturating_add(bytes);
        if total > LARGE {
            return Err(MemoryError::Layer);
        }
        if total > SMALL && !used.large {
            self.memory.wait(&self.cancel, |state| !std::mem::replace(&mut state.large, true))?;
            used.large = true;
        }
        used.bytes = total;
        Ok(())
    }

    /// Claims memory until the whole image is unpacked. Never given back before, so that what is refused does not depend on
    /// which layer is settled first.
    pub(crate) fn keep(&self, bytes: usize) -> Result<(), MemoryError> {
        let mut state = self.memory.state();
        state.marks = state.marks.saturating_add(bytes);
        if state.marks > MARKS { Err(MemoryError::Marks) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let large = self.used.get_mut().unwrap_or_else(PoisonError::into_inner).large;
        if large {
            // The next one runs on another thread, which does not use what this one freed.
            plywood_kernel::return_free_memory();
        }
        let mut state = self.memory.state();
        state.layers -= 1;
        state.large &= !large;
        drop(state);
        self.memory.0.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_is_large_and_the_others_wait() {
        let (memory, cancel) = (Memory::default(), Cancel::new());
        let shares: Vec<_> = (0..LAYERS).map(|_| memory.share(&cancel).unwrap()).collect();
        for share in &shares {
            share.claim(SMALL).unwrap();
        }
        shares[0].claim(LARGE - SMALL).unwrap();
        assert_eq!(shares[0].claim(1), Err(MemoryError::Layer));
        assert_eq!(shares[1].claim(LARGE), Err(MemoryError::Layer), "refused without waiting");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| shares[1].claim(1));
            let fifth = scope.spawn(|| memory.share(&cancel).map(drop));
            std::thread::sleep(4 * WAIT_STEP);
            assert!(!waiting.is_finished() && !fifth.is_finished());
            cancel.cancel();
            assert_eq!(waiting.join().unwrap(), Err(MemoryError::Cancelled));
            assert_eq!(fifth.join().unwrap(), Err(MemoryError::Cancelled));
        });
        let cancel = Cancel::new();
        drop(shares);
        let share = memory.share(&cancel).unwrap();
        share.claim(LARGE).unwrap();
        share.keep(MARKS).unwrap();
        drop(share);
        assert_eq!(memory.share(&cancel).unwrap().keep(1), Err(MemoryError::Marks));
    }
}
