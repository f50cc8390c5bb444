//! What a test must leave as it found it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plywood_engine::cgroup::Cgroups;
use plywood_kernel::table;

/// Processes that are ending may take a while; what does not go within this time stays.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts, control groups, processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// What and where.
    mounts: BTreeSet<(String, PathBuf)>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

/// The containers of one test, by the bundles that turn up in its run directories. Others come and go on the same
/// machine, and are none of its business.
#[derive(Debug)]
pub(crate) struct Containers {
    ids: Arc<Mutex<BTreeSet<String>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Containers {
    /// Notes every container of this state root, and of those whose runtime directory is the machine's own: `/run`
    /// is the test's.
    pub(crate) fn note(root: &Path) -> Containers {
        let bundles = [root.join("run/bundles"), PathBuf::from("/run/plywood/bundles")];
        let (ids, done) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (noted, end) = (Arc::clone(&ids), Arc::clone(&done));
        // A container lives for tens of milliseconds at least, and one that is left behind for ever.
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for entry in
                    bundles.iter().filter_map(|bundles| fs::read_dir(bundles).ok()).flatten().flatten()
                {
                    noted.lock().unwrap().extend(entry.file_name().into_string());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Containers { ids, done, thread: Some(thread) }
    }

    fn ids(&self) -> BTreeSet<String> {
        self.ids.lock().unwrap().clone()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _its_panic_is_no_news_now = thread.join();
        }
    }
}

impl Host {
    /// What there is now of the test with these containers and this state root.
    pub(crate) fn snapshot(containers: &Containers, root: &Path) -> Host {
        let ids = containers.ids();
        Host { mounts: mounts(), cgroups: cgroups(&ids), processes: processes(&ids, root) }
    }

    /// Waits until nothing is here that was not there before, and panics if that does not come.
    #[track_caller]
    pub(crate) fn expect(before: &Host, containers: &Containers, root: &Path) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = Host::snapshot(containers, root).without(before);
            // A mount is nobody else's: the namespace is this test's own.
            if left == Host::default() {
                return;
            }
            assert!(left.mounts.is_empty() && Instant::now() < until, "left on the host: {left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn without(mut self, before: &Host) -> Host {
        // The kernel detaches what is mounted on a directory that somebody else removes, in this copy of the host's table,
        // too: that is no loss of ours.
        let gone = before.mounts.difference(&self.mounts).filter(|(_, point)| point.exists());
        let new = self.mounts.difference(&before.mounts);
        self.mounts = new.chain(gone).cloned().collect();
        self.cgroups.retain(|group| !before.cgroups.contains(group));
        self.processes.retain(|process| !before.processes.contains(process));
        self
    }
}

/// The mounts of this thread's namespace.
fn mounts() -> BTreeSet<(String, PathBuf)> {
    let entries = table::list().unwrap();
    entries.into_iter().map(|entry| (format!("{} {}", entry.id, entry.fs_type), entry.mount_point)).collect()
}

/// The containers' groups. Their parent is everybody's, and removed by whoever is the last to use it.
fn cgroups(ids: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = Cgroups::detect().unwrap().ids().unwrap();
    found.retain(|id| ids.contains(id));
    found
}

/// Processes in the containers' groups, and those that name a container or the state root.
fn processes(ids: &BTreeSet<String>, root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Processes end while we look.
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let group = groups.lines().find_map(|line| line.split_once(":/plywood/"));
        let contained = group.is_some_and(|(_, id)| ids.contains(id.split('/').next().unwrap_or(id)));
        let named = command.split_whitespace().any(|word| ids.contains(word));
        if contained || named || command.contains(root.to_str().unwrap()) {
            found.insert(format!("{pid} {command}"));
        }
    }
    found
}
