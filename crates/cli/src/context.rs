//! What every command works with: the state root, the runtime directories, how to print.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use plywood_engine::launch::RunDirectories;
use plywood_store::Store;

use crate::args::Global;
use crate::progress::Progress;
use crate::remedy::{Advised, Interrupted, Usage};
use crate::signals::Cancel;

/// The state root whose runtime directory is the machine's own.
const DEFAULT_ROOT: &str = "/var/lib/plywood";

/// What is wrong with a root that may not mount, and what to do about it.
pub const NOT_ADMIN: &str = "this process is root without CAP_SYS_ADMIN, and may not mount anything";
/// See [`NOT_ADMIN`].
pub const BE_ADMIN: &str =
    "give it that capability; inside a container of another engine, run that one privileged";

/// Shared by all commands.
#[derive(Debug)]
pub struct Context {
    /// The state root, absolute.
    pub root: PathBuf,
    /// Print JSON.
    pub json: bool,
    /// Draws progress.
    pub progress: Progress,
    /// Set when somebody asks this process to stop.
    pub cancel: Cancel,
}

impl Context {
    /// From the options every command takes.
    ///
    /// # Errors
    /// If the current directory is gone, the root's path is no text, or signal handlers cannot be installed.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        let root = std::path::absolute(&global.root)
            .with_context(|| format!("resolving the state root {}", global.root.display()))?;
        // The runtime's configuration is JSON, and names bundles and files below the root.
        if root.to_str().is_none() {
            return Err(Advised::new(
                format!(
                    "the state root {root:?} is not UTF-8, and OCI runtimes are told of files in nothing else"
                ),
                "choose another directory by --root or PLYWOOD_ROOT",
            )
            .into());
        }
        Ok(Self {
            root,
            json: global.json,
            progress: Progress::new(!global.quiet && !global.json),
            cancel: Cancel::on_signals().context("installing signal handlers")?,
        })
    }

    /// Opens the store.
    ///
    /// # Errors
    /// If this is not root, or the store cannot be opened.
    pub fn store(&self) -> anyhow::Result<Store> {
        require_root()?;
        Store::open_until(&self.root, self.cancel.shared())
            .with_context(|| format!("opening the state root {}", self.root.display()))
    }

    /// Refuses a process that may not mount, before anything is begun.
    ///
    /// # Errors
    /// If this is not root, or root without the capability.
    pub fn require_mounting() -> anyhow::Result<()> {
        require_root()?;
        if may_mount() { Ok(()) } else { Err(Advised::new(NOT_ADMIN, BE_ADMIN).into()) }
    }

    /// Fails once somebody has asked to stop.
    ///
    /// # Errors
    /// [`Interrupted`]
    pub fn heed(&self) -> Result<(), Interrupted> {
        if self.cancel.requested() { Err(Interrupted("interrupted".to_owned())) } else { Ok(()) }
    }

    /// For commands whose standard output is not ours to shape.
    ///
    /// # Errors
    /// [`Usage`] with `--json`.
    pub fn refuse_json(&self, command: &str, prints: &str) -> Result<(), Usage> {
        if !self.json {
            return Ok(());
        }
        Err(Usage(format!("`{command}` prints {prints}, as it is: leave --json out")))
    }

    /// Where bundles and the runtime's state are kept: gone at reboot for the default root, inside any other.
    #[must_use]
    pub fn directories(&self) -> RunDirectories {
        let run = if self.root == Path::new(DEFAULT_ROOT) {
            PathBuf::from(RunDirectories::ANCHOR)
        } else {
            self.root.join("run")
        };
        RunDirectories::with_run(&run)
    }
}

/// Whether this process holds what mounting takes.
#[must_use]
pub fn may_mount() -> bool {
    // Who cannot be asked about is taken for able: the kernel has the last word.
    rustix::thread::capabilities(None)
        .map_or(true, |sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// Everything plywood does to containers and images needs root.
fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Advised::new("this needs root", "run it with sudo; only root may mount and enter the state root")
        .into())
}
