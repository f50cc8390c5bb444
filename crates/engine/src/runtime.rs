//! The host's OCI runtime: finding one that works here, and asking it for things.
//!
//! A runtime is a program, `runc` or `crun` or one that speaks like them. It keeps its state in our run directory,
//! apart from that of anyone else using it. Nothing here is a container engine: the launch sequence is in
//! [`crate::launch`].

mod answer;
mod apart;
mod ask;
mod failure;
mod orphans;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cgroup::Layout;

pub(crate) use ask::show;
pub use ask::{ExecRequest, RunMode, RunRequest, State, Status};
pub use failure::{Failure, FailureKind, last_lines, read_log};
pub use orphans::OrphanError;

/// Runtimes looked for, the one with the cheaper start first.
pub const KNOWN: [&str; 2] = ["crun", "runc"];

/// How long a runtime may take to say what it is; usually milliseconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What a runtime can be told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `crun`: written in C, one binary.
    Crun,
    /// `runc`, or anything with its command line.
    Runc,
}

/// A runtime that answered.
#[derive(Clone, Debug)]
pub struct Runtime {
    path: PathBuf,
    name: String,
    version: String,
    family: Family,
    state_root: PathBuf,
}

/// A runtime that was looked at, and the verdict.
#[derive(Debug)]
pub struct Candidate {
    /// What was looked for: a name or a path.
    pub wanted: String,
    /// Where it was found.
    pub path: Option<PathBuf>,
    /// What it calls itself, the first line of `--version`.
    pub version: Option<String>,
    /// Why it cannot be used; `None` if it can.
    pub refusal: Option<Refusal>,
}

/// Why a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such program.
    #[error("not installed")]
    NotInstalled,
    /// A path to something else.
    #[error("there is no executable file at that path")]
    NoSuchFile,
    /// It could not be started.
    #[error("`{path} --version` cannot be run")]
    CannotRun {
        /// The program.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// It does not answer like a runtime.
    #[error("`{path} --version` failed: {output}")]
    NotARuntime {
        /// The program.
        path: PathBuf,
        /// What it said.
        output: String,
    },
    /// It refuses this host's control groups.
    #[error(
        "crun refuses the hybrid cgroup layout of this host (v1 hierarchies with a v2 one at /sys/fs/cgroup/unified)"
    )]
    HybridCgroups,
    /// It says itself that it cannot use this host's control groups.
    #[error("its `features` say it has no cgroup {0}, which this host uses")]
    NoCgroups(&'static str),
}

/// No runtime can be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The one asked for cannot.
    #[error("the OCI runtime `{wanted}` cannot be used here")]
    Refused {
        /// What was asked for.
        wanted: String,
        /// Why not.
        #[source]
        refusal: Refusal,
    },
    /// None of the known ones can.
    #[error("no OCI runtime can be used here ({}); install one, such as: apt-get install runc", describe(.0))]
    NoneWorks(Vec<Candidate>),
}

/// Why the runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The program could not be started.
    #[error("`{command}` cannot be run")]
    CannotRun {
        /// The command line.
        command: String,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// It ran and failed; its last lines of output say why.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last lines it printed.
        output: String,
    },
    /// It answered with something that is not what the specification says.
    #[error("`{command}` answered with something else than a container's state")]
    BadAnswer {
        /// The command line.
        command: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The runtime to use: `wanted` (a name or a path) if given, else the first of [`KNOWN`] that works on a host with
/// `layout`. Names are searched in `search_path`, directories separated by colons. The runtime's state is kept below
/// `run_dir`.
pub fn find(
    wanted: Option<&str>,
    search_path: &OsStr,
    layout: Layout,
    run_dir: &Path,
) -> Result<Runtime, FindError> {
    let mut refused = Vec::new();
    for name in wanted.map_or_else(|| KNOWN.to_vec(), |name| vec![name]) {
        let candidate = look_at(name, search_path, layout);
        match candidate {
            Candidate { path: Some(path), version: Some(version), refusal: None, .. } => {
                return Ok(Runtime::new(path, version, run_dir));
            }
            Candidate { refusal: Some(refusal), .. } if wanted.is_some() => {
                return Err(FindError::Refused { wanted: name.to_owned(), refusal });
            }
            other => refused.push(other),
        }
    }
    Err(FindError::NoneWorks(refused))
}

/// Looks at every runtime of [`KNOWN`].
pub fn survey(search_path: &OsStr, layout: Layout) -> Vec<Candidate> {
    KNOWN.iter().map(|name| look_at(name, search_path, layout)).collect()
}

fn look_at(wanted: &str, search_path: &OsStr, layout: Layout) -> Candidate {
    let mut candidate = Candidate { wanted: wanted.to_owned(), path: None, version: None, refusal: None };
    let Some(path) = locate(wanted, search_path) else {
        let by_path = wanted.contains('/');
        candidate.refusal = Some(if by_path { Refusal::NoSuchFile } else { Refusal::NotInstalled });
        return candidate;
    };
    candidate.path = Some(path.clone());
    // Not worth asking then.
    if layout == Layout::Hybrid && path.file_name() == Some(OsStr::new("crun")) {
        candidate.refusal = Some(Refusal::HybridCgroups);
        return candidate;
    }
    match version(&path) {
        Ok(version) => {
            let family = Family::of(&version);
            candidate.version = Some(version);
            candidate.refusal = cgroups_refused(&path, family, layout);
        }
        Err(refusal) => candidate.refusal = Some(refusal),
    }
    candidate
}

fn locate(wanted: &str, search_path: &OsStr) -> Option<PathBuf> {
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if wanted.contains('/') {
        let path = std::path::absolute(wanted).ok()?;
        return executable(&path).then_some(path);
    }
    std::env::split_paths(search_path).map(|directory| directory.join(wanted)).find(|path| executable(path))
}

fn version(path: &Path) -> Result<String, Refusal> {
    let output = apart::apart(|| answer::within(ANSWER_PATIENCE, Command::new(path).arg("--version")))
        .flatten()
        .map_err(|source| Refusal::CannotRun { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next().filter(|line| output.status.success() && line.contains("version")) {
        Some(line) => Ok(line.trim().to_owned()),
        None => Err(Refusal::NotARuntime {
            path: path.to_owned(),
            output: last_lines(&[output.stdout, output.stderr].concat()),
        }),
    }
}

/// crun up to now drops out on hosts that mix both versions, whatever its `features` say; runc uses v1 there.
fn cgroups_refused(path: &Path, family: Family, layout: Layout) -> Option<Refusal> {
    if family == Family::Crun && layout == Layout::Hybrid {
        return Some(Refusal::HybridCgroups);
    }
    // Runtimes before the `features` command fail here, which says nothing against them.
    let features = || answer::within(ANSWER_PATIENCE, Command::new(path).arg("features"));
    let output = apart::apart(features).flatten().ok()?;
    let features: serde_json::Value =
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    let (key, name) = if layout == Layout::V2 { ("v2", "v2") } else { ("v1", "v1") };
    let has = features.pointer(&format!("/linux/cgroup/{key}")).and_then(serde_json::Value::as_bool);
    (has == Some(false)).then_some(Refusal::NoCgroups(name))
}

fn describe(candidates: &[Candidate]) -> String {
    let why = |candidate: &Candidate| match &candidate.refusal {
        Some(refusal) => format!("{}: {refusal}", candidate.wanted),
        None => candidate.wanted.clone(),
    };
    candidates.iter().map(why).collect::<Vec<_>>().join("; ")
}

impl Family {
    fn of(version: &str) -> Family {
        if version.starts_with("crun") { Family::Crun } else { Family::Runc }
    }
}

impl Runtime {
    fn new(path: PathBuf, version: String, run_dir: &Path) -> Runtime {
        let family = Family::of(&version);
        let name =
            path.file_name().map_or_else(|| "runtime".to_owned(), |name| name.to_string_lossy().into_owned());
        Runtime { state_root: run_dir.join(&name), path, name, version, family }
    }

    /// The program, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first line of `--version`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Which command line it speaks.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where it keeps the state of our containers.
    pub fn state_root(&self) -> &Path {
        &self.state_root
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}

#[cfg(test)]
mod tests;
