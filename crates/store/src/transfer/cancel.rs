//! Stopping a fetch from outside: a flag that sleepers wake up for, and that can cut connections.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A request to stop, shared by clones. Setting it is idempotent and cannot be taken back.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    set: bool,
    hooks: Vec<(u64, Hook)>,
    next: u64,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("set", &self.set).field("hooks", &self.hooks.len()).finish()
    }
}

/// Keeps a hook of [`Cancel`] in place.
#[derive(Debug)]
pub(crate) struct HookGuard {
    cancel: Cancel,
    id: u64,
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody who holds a clone to stop. Not for signal handlers: it takes a lock.
    pub fn cancel(&self) {
        let hooks = {
            let mut state = self.state();
            state.set = true;
            std::mem::take(&mut state.hooks)
        };
        self.0.changed.notify_all();
        for (_, hook) in hooks {
            hook();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state().set
    }

    /// Sleeps for `time`, or until cancelled. Returns whether it was cancelled.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        while !state.set {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Runs `hook` when cancelled, at once if that already happened, never after the guard is gone.
    pub(crate) fn on_cancel(&self, hook: impl Fn() + Send + Sync + 'static) -> HookGuard {
        let hook: Hook = Arc::new(hook);
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        if state.set {
            drop(state);
            hook();
        } else {
            state.hooks.push((id, hook));
        }
        HookGuard { cancel: self.clone(), id }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HookGuard {
    fn drop(&mut self) {
        self.cancel.state().hooks.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_sleeper_wakes_up() {
        let cancel = Cancel::new();
        assert!(!cancel.wait(Duration::from_millis(1)));
        let sleeper = std::thread::spawn({
            let cancel = cancel.clone();
            move || cancel.wait(Duration::from_secs(60))
        });
        cancel.cancel();
        assert!(sleeper.join().unwrap());
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn hooks_run_once_and_only_while_guarded() {
        let cancel = Cancel::new();
        let runs = Arc::new(AtomicU32::new(0));
        let hook = |by| {
            let runs = runs.clone();
            move || {
                runs.fetch_add(by, Ordering::Relaxed);
            }
        };
        drop(cancel.on_cancel(hook(100)));
        let _kept = cancel.on_cancel(hook(1));
        cancel.cancel();
        cancel.cancel();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let _late = cancel.on_cancel(hook(10));
        assert_eq!(runs.load(Ordering::Relaxed), 11);
    }
}
