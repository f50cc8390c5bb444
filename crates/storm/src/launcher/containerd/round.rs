//! The containers of a round: added as they are there, taken back on several threads.

use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::launcher::LauncherError;

/// Removing is mostly waiting for containerd, which kills, unmounts and deletes one after the other.
const REMOVERS: usize = 8;

/// What runs, and of which round.
#[derive(Debug)]
pub(in crate::launcher) struct Running<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    round: u64,
    open: bool,
    containers: Vec<T>,
}

impl<T> Default for Running<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { round: 0, open: false, containers: Vec::new() }) }
    }
}

impl<T: fmt::Debug + Send> Running<T> {
    /// A round begins.
    pub(in crate::launcher) fn open(&self) {
        let mut state = self.state();
        state.round += 1;
        state.open = true;
    }

    /// The round under way.
    pub(in crate::launcher) fn round(&self) -> u64 {
        self.state().round
    }

    /// Adds what was started in that round, or gives it back should the round have ended.
    pub(in crate::launcher) fn add(&self, round: u64, container: T) -> Result<(), T> {
        let mut state = self.state();
        if state.open && state.round == round {
            state.containers.push(container);
            Ok(())
        } else {
            Err(container)
        }
    }

    /// Ends the round and takes back all there is; the first error, after all were tried.
    pub(in crate::launcher) fn take_back(
        &self,
        remove: impl Fn(T) -> Result<(), LauncherError> + Sync,
    ) -> Result<(), LauncherError> {
        let containers = {
            let mut state = self.state();
            state.open = false;
            mem::take(&mut state.containers)
        };
        let threads = containers.len().min(REMOVERS);
        let (left, failed) = (Mutex::new(containers), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(container) = pop(&left) {
                        if let Err(error) = remove(container) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pop<T>(left: &Mutex<Vec<T>>) -> Option<T> {
    left.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_is_late_is_given_back_and_all_are_tried() {
        let running = Running::default();
        running.open();
        let round = running.round();
        for container in 0..20 {
            running.add(round, container).unwrap();
        }
        let tried = AtomicUsize::new(0);
        let error = running.take_back(|container| {
            tried.fetch_add(1, Ordering::Relaxed);
            if container == 3 { Err(LauncherError::new("removing 3", "no")) } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().to_string(), "removing 3");
        assert_eq!(tried.into_inner(), 20);
        assert_eq!(running.add(round, 20), Err(20));
        running.open();
        assert_eq!(running.add(round, 21), Err(21));
        running.take_back(|_| unreachable!()).unwrap();
    }
}
