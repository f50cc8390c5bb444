//! What a test must leave as it found it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plywood_engine::cgroup::{Cgroups, ROOT};
use plywood_kernel::table;

/// Other tests' containers come and go on the same host; what does not go within this time is ours.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts, control groups, processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Host {
    /// What there is now, as far as it concerns plywood or the state root.
    pub(crate) fn snapshot(root: &Path) -> Host {
        Host { mounts: mounts(), cgroups: cgroups(root), processes: processes(root) }
    }

    /// Waits until nothing is here that was not there before, and panics if that does not come.
    #[track_caller]
    pub(crate) fn expect(before: &Host, root: &Path) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = Host::snapshot(root).without(before);
            // A mount is nobody else's: the namespace is this test's own.
            if left == Host::default() {
                return;
            }
            assert!(left.mounts.is_empty() && Instant::now() < until, "left on the host: {left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn without(mut self, before: &Host) -> Host {
        self.mounts = self.mounts.symmetric_difference(&before.mounts).cloned().collect();
        self.cgroups.retain(|group| !before.cgroups.contains(group));
        self.processes.retain(|process| !before.processes.contains(process));
        self
    }
}

/// One line a mount of this thread's namespace.
fn mounts() -> BTreeSet<String> {
    let entries = table::list().unwrap();
    entries
        .iter()
        .map(|entry| format!("{} {} on {}", entry.id, entry.fs_type, entry.mount_point.display()))
        .collect()
}

/// Groups of plywood's containers, and its parent group if nobody is in it.
fn cgroups(root: &Path) -> BTreeSet<String> {
    let cgroups = Cgroups::detect().unwrap();
    let mut found: BTreeSet<String> = cgroups.ids().unwrap();
    found.retain(|id| !cgroups.processes(id).unwrap().iter().any(|&pid| is_foreign(pid, root)));
    if found.is_empty() {
        let parents = fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path().join("plywood"));
        let parents = parents.chain([Path::new(ROOT).join("plywood")]).filter(|parent| parent.is_dir());
        found.extend(parents.map(|parent| parent.display().to_string()));
    }
    found
}

/// Processes in plywood's control groups, and those that name the state root.
fn processes(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while we look.
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let contained = groups.lines().any(|line| line.contains(":/plywood/"));
        if command.contains(root.to_str().unwrap()) || contained && !is_foreign(pid, root) {
            found.insert(format!("{pid} {command}"));
        }
    }
    found
}

/// Whether the process descends from a plywood or a runtime with another state root: a container of somebody else.
fn is_foreign(mut pid: i32, root: &Path) -> bool {
    while pid > 1 {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if command.contains(" --root ") || command.contains("plywood run") {
            return !command.contains(root.to_str().unwrap());
        }
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    false
}
