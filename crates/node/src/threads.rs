//! Many threads, so with small stacks; and what this machine says when it has no room for them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use plywood_kernel::SyscallError;
use rustix::process::{Resource, getrlimit};

/// Enough for a launch in a debug build; only what is touched takes memory.
const STACK: usize = 512 << 10;

/// Left to everybody else.
const SPARE: u64 = 100;

/// Mappings of a thread: its stack, the one it handles signals on, and a guard page below each.
const MAPPINGS: u64 = 4;

/// Why threads could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// The machine has no room.
    #[error("{wanted} threads more are not possible here: {}", shown(limits))]
    NoRoom {
        /// How many were to be started.
        wanted: u64,
        /// The limits that are in the way, or all of them if none obviously is.
        limits: Vec<Limit>,
    },
    /// The kernel would not start one.
    #[error("starting a thread")]
    Spawn(#[source] std::io::Error),
    /// A thread could not be put on its CPUs.
    #[error(transparent)]
    Confine(#[from] SyscallError),
}

/// A limit on threads, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What people look it up by.
    pub name: String,
    /// Threads it allows.
    pub allows: u64,
    /// Threads there are.
    pub used: u64,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {} and {} are there", self.name, self.allows, self.used)
    }
}

fn shown(limits: &[Limit]) -> String {
    limits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Starts a thread with a small stack.
///
/// # Errors
/// [`ThreadsError::NoRoom`] with the limits there are, if the kernel says that there are too many.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ThreadsError> {
    builder(name).spawn(run).map_err(refused)
}

/// The same for a thread that borrows what outlives the scope.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ThreadsError> {
    builder(name).spawn_scoped(scope, run).map_err(refused)
}

fn builder(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK)
}

fn refused(error: std::io::Error) -> ThreadsError {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        return ThreadsError::NoRoom { wanted: 1, limits: limits(Path::new("/")) };
    }
    ThreadsError::Spawn(error)
}

/// Whether there is room for so many threads more.
///
/// # Errors
/// [`ThreadsError::NoRoom`] with the limits in the way.
pub fn suffice(wanted: usize) -> Result<(), ThreadsError> {
    refuse(wanted as u64, limits(Path::new("/")))
}

fn refuse(wanted: u64, mut limits: Vec<Limit>) -> Result<(), ThreadsError> {
    limits.retain(|limit| limit.used.saturating_add(wanted).saturating_add(SPARE) > limit.allows);
    if limits.is_empty() { Ok(()) } else { Err(ThreadsError::NoRoom { wanted, limits }) }
}

/// The limits that bear on this process; those that cannot be read are left out.
fn limits(root: &Path) -> Vec<Limit> {
    let number = |path: &str| -> Option<u64> { read(&root.join(path))?.parse().ok() };
    // `0.00 0.01 0.05 1/123 4567`: running and all threads of the machine.
    let all = read(&root.join("proc/loadavg")).and_then(|text| {
        let (_, all) = text.split(' ').nth(3)?.split_once('/')?;
        all.parse().ok()
    });
    let mut limits = Vec::new();
    if let Some(used) = all {
        for name in ["kernel.threads-max", "kernel.pid_max"] {
            let file = format!("proc/sys/{}", name.replace('.', "/"));
            limits.extend(number(&file).map(|allows| Limit { name: name.to_owned(), allows, used }));
        }
        // The kernel does not hold it against root.
        let nproc = getrlimit(Resource::Nproc).current;
        if let (Some(allows), false) = (nproc, rustix::process::geteuid().is_root()) {
            limits.push(Limit { name: "RLIMIT_NPROC (ulimit -u)".to_owned(), allows, used });
        }
    }
    // `VmSize` counts bytes; only the list itself tells how many mappings there are.
    let mapped = fs::read(root.join("proc/self/maps")).map(|text| text.split(|byte| *byte == b'\n').count());
    if let (Some(allows), Ok(used)) = (number("proc/sys/vm/max_map_count"), mapped) {
        let name = format!("vm.max_map_count ({MAPPINGS} a thread)");
        limits.push(Limit { name, allows: allows / MAPPINGS, used: (used as u64).div_ceil(MAPPINGS) });
    }
    for group in groups(root) {
        let number = |name: &str| read(&group.join(name))?.parse().ok();
        if let (Some(allows), Some(used)) = (number("pids.max"), number("pids.current")) {
            let shown = Path::new("/").join(group.strip_prefix(root).unwrap_or(&group));
            limits.push(Limit { name: format!("{}/pids.max", shown.display()), allows, used });
        }
    }
    limits
}

/// Our control groups that may count processes, and those above them.
fn groups(root: &Path) -> Vec<PathBuf> {
    let Some(text) = read(&root.join("proc/self/cgroup")) else { return Vec::new() };
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "" => root.join("sys/fs/cgroup"),
            named if named.split(',').any(|one| one == "pids") => root.join("sys/fs/cgroup/pids"),
            _ => continue,
        };
        let group = hierarchy.join(path.trim_start_matches('/'));
        found.extend(group.ancestors().take_while(|one| one.starts_with(&hierarchy)).map(Path::to_owned));
    }
    found
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_limits_in_the_way_are_named() {
        let dir = tree(&[
            ("proc/loadavg", "0.1 0.2 0.3 2/900 77\n"),
            ("proc/sys/kernel/threads-max", "191000\n"),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/vm/max_map_count", "65530\n"),
            ("proc/self/maps", "one\ntwo\n"),
            ("proc/self/cgroup", "4:memory:/a\n3:pids:/a/b\n0::/user.slice/x\n"),
            ("sys/fs/cgroup/pids/a/b/pids.max", "max\n"),
            ("sys/fs/cgroup/pids/a/b/pids.current", "3\n"),
            ("sys/fs/cgroup/pids/a/pids.max", "500\n"),
            ("sys/fs/cgroup/pids/a/pids.current", "120\n"),
            ("sys/fs/cgroup/user.slice/pids.max", "1000\n"),
            ("sys/fs/cgroup/user.slice/pids.current", "10\n"),
        ]);
        let limits = limits(dir.path());
        assert!(refuse(280, limits.clone()).is_ok());
        let error = refuse(281, limits.clone()).unwrap_err().to_string();
        assert_eq!(
            error,
            "281 threads more are not possible here: /sys/fs/cgroup/pids/a/pids.max allows 500 and 120 are there"
        );
        let error = refuse(17_000, limits.clone()).unwrap_err().to_string();
        assert!(error.contains("vm.max_map_count (4 a thread) allows 16382 and 1 are there;"), "{error}");
        let error = refuse(200_000, limits).unwrap_err().to_string();
        assert!(error.contains("kernel.threads-max allows 191000 and 900 are there;"), "{error}");
        assert!(
            error.contains("/sys/fs/cgroup/user.slice/pids.max") && !error.contains("pid_max"),
            "{error}"
        );
    }

    #[test]
    fn this_machine_has_room_for_some_and_not_for_all() {
        suffice(10).unwrap();
        assert!(suffice(100_000_000).is_err());
    }
}
