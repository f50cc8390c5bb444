//! What launcher threads, supervisor and caller share: the queue, the slots, the flags.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use super::supervisor::Spawned;
use super::{Launch, LauncherError};

/// State under one lock; everything done while holding it is a few instructions.
#[derive(Debug)]
struct State {
    waiting: VecDeque<(Launch, Instant)>,
    spawned: Vec<Spawned>,
    free_slots: usize,
    /// Taken from the queue and not yet handed to the supervisor.
    on_threads: usize,
    /// Launcher threads that prepare launches.
    threads: usize,
    closed: bool,
    cancelled: bool,
}

/// Shared by all threads of a launcher.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the supervisor out of epoll.
    pub(super) wake: OwnedFd,
}

impl Shared {
    pub(super) fn new(slots: usize) -> Result<Shared, LauncherError> {
        let wake =
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
                LauncherError::Io { doing: "making an event descriptor", source: errno.into() }
            })?;
        let state = State {
            waiting: VecDeque::new(),
            spawned: Vec::new(),
            free_slots: slots.max(1),
            on_threads: 0,
            threads: 0,
            closed: false,
            cancelled: false,
        };
        Ok(Shared { state: Mutex::new(state), changed: Condvar::new(), wake })
    }

    pub(super) fn submit(&self, launch: Launch) {
        let mut state = self.lock();
        state.waiting.push_back((launch, Instant::now()));
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.wake_supervisor();
    }

    pub(super) fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
        self.wake_supervisor();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// One more launcher thread.
    pub(super) fn enlist(&self) {
        self.lock().threads += 1;
    }

    /// A launcher thread can prepare nothing any more; false if it is the last and has to stay, to refuse what comes.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.lock();
        let others = state.threads > 1;
        if others {
            state.threads -= 1;
        }
        others
    }

    /// The next launch and when it was submitted; `None` once no more will come.
    pub(super) fn next(&self) -> Option<(Launch, Instant)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.waiting.pop_front() {
                state.on_threads += 1;
                return Some(next);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a slot; false if cancelled meanwhile.
    pub(super) fn take_slot(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return false;
            }
            if state.free_slots > 0 {
                state.free_slots -= 1;
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn free_slot(&self) {
        self.lock().free_slots += 1;
        // Threads waiting for a slot and threads waiting for work share the condition.
        self.changed.notify_all();
    }

    /// Hands a starting container to the supervisor.
    pub(super) fn hand_over(&self, spawned: Spawned) {
        let mut state = self.lock();
        state.on_threads -= 1;
        state.spawned.push(spawned);
        drop(state);
        self.wake_supervisor();
    }

    pub(super) fn take_spawned(&self) -> Vec<Spawned> {
        std::mem::take(&mut self.lock().spawned)
    }

    /// A launch ended on a launcher thread.
    pub(super) fn ended_on_thread(&self) {
        let mut state = self.lock();
        state.on_threads -= 1;
        drop(state);
        self.wake_supervisor();
    }

    /// Nothing will be submitted and nothing is on its way to the supervisor.
    pub(super) fn no_more(&self) -> bool {
        let state = self.lock();
        state.closed && state.waiting.len() + state.on_threads + state.spawned.len() == 0
    }

    fn wake_supervisor(&self) {
        match rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            // A full counter is a wake-up that has not been seen yet.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => tracing::error!(%errno, "waking the supervisor"),
        }
    }

    /// A thread that panicked while holding the lock left counters that are still consistent: each critical section
    /// changes them last.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
