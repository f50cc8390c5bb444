//! Launchers: who starts the containers of a round. All have the same functions.
//!
//! ```text
//! open(config)
//!   prepare(round) ──> launch(0..containers), on as many threads ──> remove()     again and again
//! close()
//! ```
//!
//! Only `launch` is measured. What it needs and a real node would have ready (the image unpacked, ids leased, user
//! namespaces made) is there before; what it leaves is taken back by `remove`.
//!
//! Invariant: after `remove` nothing of the round is mounted or runs, except launches that have not returned; those
//! take their own back when they do. After `close` nothing of the storm is left.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use plywood_kernel::MountNs;

pub mod assembly;
pub mod containerd;
pub mod cri;
pub mod ids;
pub mod run;

/// A round to prepare for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// How many containers it will start, numbered from 0.
    pub containers: usize,
    /// How many of them are due at the same moment, one such burst after the other.
    pub burst: usize,
}

/// A container that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// Since when.
    pub there: Instant,
    /// How long it waited for admission before.
    pub waited: Duration,
    /// When its turn came, of a launcher that is given more at once than it starts at a time: it was due then.
    pub turn: Option<Instant>,
}

impl Launched {
    /// There since then, without having waited for anything.
    #[must_use]
    pub fn at(there: Instant) -> Self {
        Self { there, waited: Duration::ZERO, turn: None }
    }
}

/// Why a container is not there: one line, the causes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailure(String);

impl LaunchFailure {
    /// The error with its causes.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        Self(text)
    }

    /// In so many words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LaunchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A launcher could not be opened, prepare, take back or close.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct LauncherError {
    /// What was tried.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl LauncherError {
    /// Says what was tried.
    pub fn new(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }

    /// For `map_err`.
    pub fn doing<E: Into<Box<dyn Error + Send + Sync>>>(doing: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::new(doing, source)
    }
}

/// Who starts the containers of one arm.
pub trait Launcher: fmt::Debug + Send + Sync {
    /// Makes everything ready that is not measured.
    ///
    /// # Errors
    /// [`LauncherError`]; the storm then ends.
    fn prepare(&self, round: Round) -> Result<(), LauncherError>;

    /// Starts a container and returns when it is there. Called once for each, on many threads at once.
    ///
    /// # Errors
    /// It is not there; the others go on.
    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure>;

    /// Takes the round back. Its containers are gone when this returns.
    ///
    /// # Errors
    /// [`LauncherError`]; the storm then ends.
    fn remove(&self) -> Result<(), LauncherError>;

    /// Gives back whatever is left. Idempotent.
    ///
    /// # Errors
    /// [`LauncherError`], naming what is left.
    fn close(&self) -> Result<(), LauncherError>;

    /// Makes launches under way return soon, from any thread.
    fn cancel(&self) {}

    /// The mount namespace whose table the launcher's work shows in; none for our own.
    ///
    /// # Errors
    /// It cannot be opened.
    fn namespace(&self) -> Result<Option<MountNs>, LauncherError> {
        Ok(None)
    }

    /// Programs that bear on the figures, with their versions.
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// On how many threads `launch` is called, if so many containers are to be started at a time. More only where
    /// launches wait for something that bounds them itself.
    fn threads(&self, concurrency: usize, _round: Round) -> usize {
        concurrency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_each_cause_once() {
        let inner = LauncherError::new("reading", "reading failed");
        let outer = LauncherError::new("starting: reading", inner);
        assert_eq!(LaunchFailure::of(&outer).to_string(), "starting: reading: reading failed");
    }
}
