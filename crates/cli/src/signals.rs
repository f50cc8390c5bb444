//! Ctrl-C and its kin: they set a flag, and whoever works looks at it and undoes what it began.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::remedy::INTERRUPTED;

/// Those that ask a process to stop.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Set once somebody asked this process to stop.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    requested: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Cancel {
    /// A flag that SIGINT, SIGTERM and SIGHUP set.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let cancel = Self::default();
        for signal in SIGNALS {
            signal_hook::flag::register_conditional_shutdown(
                signal,
                INTERRUPTED.into(),
                Arc::clone(&cancel.at_once),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&cancel.requested))?;
        }
        Ok(cancel)
    }

    /// From now on such a signal ends the process: for work that leaves nothing behind and looks at no flag.
    pub fn end_at_once(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }

    /// A descriptor that can be read from once one of the signals has come, for those who wait for other things, too. It
    /// stays so: nobody reads it.
    ///
    /// # Errors
    /// There are no descriptors left, or a handler cannot be installed.
    pub fn listen(&self) -> std::io::Result<OwnedFd> {
        let (listener, mut bell) = std::io::pipe()?;
        for signal in SIGNALS {
            // After the flag's handler: whoever hears it finds the flag set.
            signal_hook::low_level::pipe::register(signal, bell.try_clone()?)?;
        }
        // It came before.
        if self.requested() {
            bell.write_all(b"!")?;
        }
        Ok(listener.into())
    }

    /// Asks this process to stop, as a signal does.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// The flag itself, for libraries that poll it.
    #[must_use]
    pub fn flag(&self) -> &AtomicBool {
        &self.requested
    }

    /// The flag itself, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }
}
