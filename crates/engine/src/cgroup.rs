//! Control groups: which layout this host has, where our containers are in it, and leaving nothing behind.
//!
//! ```text
//! v2      /sys/fs/cgroup/plywood/<id>
//! v1      /sys/fs/cgroup/<hierarchy>/plywood/<id>   in every hierarchy
//! hybrid  as v1; the v2 hierarchy at /sys/fs/cgroup/unified is one more
//! ```
//!
//! The runtime makes and removes a container's groups; this module finds them, removes what a killed runtime left, and
//! removes the parent `plywood` once nobody launches and no container runs. It only ever names groups below that parent.

mod in_use;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FsWord;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

pub use in_use::InUse;

/// Our group in every hierarchy; each container's is inside it.
pub const PARENT: &str = "/plywood";

/// Where every Linux system mounts its control groups.
pub const ROOT: &str = "/sys/fs/cgroup";

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP1_MAGIC: FsWord = 0x0027_e0eb;
const CGROUP2_MAGIC: FsWord = 0x6367_7270;

/// How long a killed group's processes may take to be gone: an unmount or a core dump can hold them for a while.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Descriptors of processes held at once while killing a group.
const KILL_AT_ONCE: usize = 64;

/// How control groups are arranged on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One unified hierarchy.
    V2,
    /// One hierarchy per controller, and a unified one beside them.
    Hybrid,
    /// One hierarchy per controller.
    V1,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
        })
    }
}

/// Why control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Nothing of the kind where it belongs.
    #[error("no cgroup hierarchy at {0}; mount one (on v2: mount -t cgroup2 none {0})")]
    NotMounted(PathBuf),
    /// A group's files or directory refused.
    #[error("{doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// Processes that outlive SIGKILL.
    #[error("processes of {0} do not go away; see its cgroup.procs")]
    StillBusy(PathBuf),
    /// Another process has been removing our parent group all the time.
    #[error(
        "another plywood has been tidying the control groups for {} s; it is stopped or stuck (`fuser -v {group}` names it)",
        .after.as_secs()
    )]
    Locked {
        /// Our parent group.
        group: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// The caller gave up.
    #[error("stopped while waiting for another plywood to tidy the control groups")]
    Cancelled,
}

/// The CPUs and NUMA nodes containers can have, as the kernel lists them: `0-3,8`. Nothing where it does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpusets {
    /// CPUs.
    pub cpus: Option<String>,
    /// NUMA nodes.
    pub mems: Option<String>,
}

/// The hierarchies of this host.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// Looks at `/sys/fs/cgroup`.
    pub fn detect() -> Result<Cgroups, CgroupError> {
        Self::detect_at(Path::new(ROOT))
    }

    fn detect_at(root: &Path) -> Result<Cgroups, CgroupError> {
        if magic(root)? == CGROUP2_MAGIC {
            return Ok(Cgroups { layout: Layout::V2, hierarchies: vec![root.to_owned()] });
        }
        let mut layout = Layout::V1;
        let mut hierarchies = Vec::new();
        let list = |source| CgroupError::Io { doing: "listing", path: root.to_owned(), source };
        for entry in fs::read_dir(root).map_err(list)? {
            let entry = entry.map_err(list)?;
            // Links such as cpu -> cpu,cpuacct name a hierarchy a second time.
            if !entry.file_type().map_err(list)?.is_dir() {
                continue;
            }
            match magic(&entry.path())? {
                CGROUP1_MAGIC => hierarchies.push(entry.path()),
                CGROUP2_MAGIC => {
                    layout = Layout::Hybrid;
                    hierarchies.push(entry.path());
                }
                _ => {}
            }
        }
        if hierarchies.is_empty() {
            return Err(CgroupError::NotMounted(root.to_owned()));
        }
        hierarchies.sort();
        Ok(Cgroups { layout, hierarchies })
    }

    /// The arrangement.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The path for a container's spec, the same in every hierarchy.
    pub fn path_for(id: &str) -> PathBuf {
        Path::new(PARENT).join(id)
    }

    /// The directories of container `id` that exist.
    pub fn directories(&self, id: &str) -> Vec<PathBuf> {
        self.all(id).filter(|directory| directory.is_dir()).collect()
    }

    /// Ids that have a group in any hierarchy, in order.
    pub fn ids(&self) -> Result<BTreeSet<String>, CgroupError> {
        let mut ids = BTreeSet::new();
        for parent in self.parents() {
            let entries = match fs::read_dir(&parent) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(CgroupError::Io { doing: "listing", path: parent, source }),
            };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                ids.extend(entry.file_name().into_string());
            }
        }
        Ok(ids)
    }

    /// The processes of container `id`.
    pub fn processes(&self, id: &str) -> Result<BTreeSet<i32>, CgroupError> {
        let mut processes = BTreeSet::new();
        for directory in self.all(id) {
            collect_processes(&directory, &mut processes)?;
        }
        Ok(processes)
    }

    /// What `cpuset` lets our containers have: our parent group's set, or while there is none the one it will inherit.
    pub fn cpusets(&self) -> Cpusets {
        let first = |names: [&str; 3]| {
            let groups: Vec<PathBuf> = self.parents().chain(self.hierarchies.iter().cloned()).collect();
            let mut files = groups.iter().flat_map(|group| names.map(|name| group.join(name)));
            files.find_map(|file| {
                // Absent without the controller, empty in a v1 group that has just been made.
                let text = fs::read_to_string(file).ok()?;
                Some(text.trim().to_owned()).filter(|list| !list.is_empty())
            })
        };
        Cpusets {
            cpus: first(["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"]),
            mems: first(["cpuset.mems.effective", "cpuset.effective_mems", "cpuset.mems"]),
        }
    }

    /// Kills whatever is left in the groups of container `id` and removes them; nothing there is fine.
    ///
    /// Blocks until the processes are gone, at most ten seconds.
    pub fn remove(&self, id: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_PATIENCE;
        while let Some(busy) = self.try_remove(id)? {
            if Instant::now() > deadline {
                return Err(CgroupError::StillBusy(busy));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The same without waiting: a group with processes that are still dying, if there is one.
    pub fn try_remove(&self, id: &str) -> Result<Option<PathBuf>, CgroupError> {
        let mut busy = None;
        for directory in self.all(id) {
            kill(&directory)?;
            if !remove_tree(&directory)? {
                busy.get_or_insert(directory);
            }
        }
        Ok(busy)
    }

    /// Says that containers are about to be made, until the value is dropped: nobody removes our parent group in
    /// between, when a runtime has made it and not yet the container's inside it. Makes it, in one hierarchy.
    ///
    /// Whoever removes it right now is waited for, until `give_up` says not to.
    pub fn in_use(&self, give_up: &dyn Fn() -> bool) -> Result<InUse, CgroupError> {
        let parent = self.parents().next().ok_or_else(|| CgroupError::NotMounted(PathBuf::from(ROOT)))?;
        InUse::share(&parent, give_up)
    }

    /// Removes our parent group, unless others use it too or containers run in it.
    ///
    /// When nobody uses it, a group inside it without a process is what a killed launcher left, of whatever state root:
    /// that may be gone, and nobody else would ever remove it.
    pub fn remove_parent(&self, in_use: InUse) -> Result<(), CgroupError> {
        if !in_use.claim()? {
            return Ok(());
        }
        // The one that is locked goes last: from then on the lock is nobody's.
        let mut parents: Vec<PathBuf> = self.parents().collect();
        parents.reverse();
        for parent in parents {
            for group in subgroups(&parent)? {
                let mut processes = BTreeSet::new();
                collect_processes(&group, &mut processes)?;
                if processes.is_empty() {
                    remove_tree(&group)?;
                }
            }
            remove_directory(&parent)?;
        }
        Ok(())
    }

    fn parents(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.join(PARENT.trim_start_matches('/')))
    }

    fn all(&self, id: &str) -> impl Iterator<Item = PathBuf> {
        // An id with a slash, `.` or `..` would name a group that is not a container of ours.
        let plain = !id.is_empty() && !id.contains('/') && id != "." && id != "..";
        self.parents().filter(move |_| plain).map(move |parent| parent.join(id))
    }
}

fn magic(path: &Path) -> Result<FsWord, CgroupError> {
    match rustix::fs::statfs(path) {
        Ok(stat) => Ok(stat.f_type),
        Err(Errno::NOENT) => Err(CgroupError::NotMounted(path.to_owned())),
        Err(errno) => {
            Err(CgroupError::Io { doing: "asking about", path: path.to_owned(), source: errno.into() })
        }
    }
}

/// Kills the processes of `directory` and the groups inside it, and nobody else.
fn kill(directory: &Path) -> Result<(), CgroupError> {
    // Linux 5.14, v2 only: the kernel kills them all, those being forked too. Never made: v1 has no such file.
    let file = directory.join("cgroup.kill");
    match File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"1")) {
        Ok(()) => return Ok(()),
        Err(error) if gone(&error) => {}
        Err(source) => return Err(CgroupError::Io { doing: "writing", path: file, source }),
    }
    let failed =
        |errno: Errno| CgroupError::Io { doing: "killing", path: directory.to_owned(), source: errno.into() };
    let mut listed = BTreeSet::new();
    collect_processes(directory, &mut listed)?;
    let listed: Vec<Pid> = listed.into_iter().filter_map(Pid::from_raw).collect();
    for some in listed.chunks(KILL_AT_ONCE) {
        let mut pinned = Vec::with_capacity(some.len());
        for &pid in some {
            match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => pinned.push((pid, pidfd)),
                Err(Errno::SRCH) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        // A pid may have changed hands between the list and the descriptor; from here on it cannot.
        let mut still = BTreeSet::new();
        collect_processes(directory, &mut still)?;
        for (pid, pidfd) in pinned {
            if !still.contains(&pid.as_raw_nonzero().get()) {
                continue;
            }
            match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
    Ok(())
}

/// Adds the processes of `directory` and the groups inside it; a group that vanishes meanwhile has none.
fn collect_processes(directory: &Path, into: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    for group in subgroups(directory)? {
        collect_processes(&group, into)?;
    }
    let file = directory.join("cgroup.procs");
    match fs::read_to_string(&file) {
        Ok(text) => into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if gone(&error) => {}
        Err(source) => return Err(CgroupError::Io { doing: "reading", path: file, source }),
    }
    Ok(())
}

fn subgroups(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if gone(&error) => Ok(Vec::new()),
        Err(source) => Err(CgroupError::Io { doing: "listing", path: directory.to_owned(), source }),
    }
}

/// Removes a group and those inside it; false while any is busy. A cgroup directory is removed by `rmdir` alone, its
/// files with it.
fn remove_tree(directory: &Path) -> Result<bool, CgroupError> {
    for group in subgroups(directory)? {
        if !remove_tree(&group)? {
            return Ok(false);
        }
    }
    remove_directory(directory)
}

fn remove_directory(directory: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if gone(&error) => Ok(true),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty) =>
        {
            Ok(false)
        }
        Err(source) => Err(CgroupError::Io { doing: "removing", path: directory.to_owned(), source }),
    }
}

fn gone(error: &io::Error) -> bool {
    // ENODEV: the group was removed between opening and reading its file.
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::NODEV)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_place_without_hierarchies_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Cgroups::detect_at(directory.path()).unwrap_err();
        assert!(matches!(&error, CgroupError::NotMounted(path) if path == directory.path()), "{error}");
        let missing = directory.path().join("missing");
        assert!(Cgroups::detect_at(&missing).unwrap_err().to_string().contains("missing"));
    }

    /// Files of a v1 hierarchy whose group of ours has just been made, then given a narrower set.
    #[test]
    fn the_nearest_cpuset_that_says_something_counts() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { layout: Layout::V1, hierarchies: vec![directory.path().to_owned()] };
        assert_eq!(cgroups.cpusets(), Cpusets::default());
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("cpuset.cpus", "0-3\n");
        write("cpuset.effective_mems", "0\n");
        fs::create_dir(directory.path().join("plywood")).unwrap();
        write("plywood/cpuset.cpus", "\n");
        let sets = cgroups.cpusets();
        assert_eq!((sets.cpus.as_deref(), sets.mems.as_deref()), (Some("0-3"), Some("0")));
        write("plywood/cpuset.cpus", "0-1\n");
        assert_eq!(cgroups.cpusets().cpus.as_deref(), Some("0-1"));
    }

    /// A launcher was killed and its state root deleted: whoever launches next removes the groups it left, and only those
    /// nobody is in, and only while nobody launches.
    #[test]
    fn root_groups_of_the_dead_are_removed_with_the_parent() {
        plywood_kernel::testing::require_root();
        let here = Cgroups::detect().unwrap();
        let top = here.hierarchies[0].join(format!("plywood-test-{}", std::process::id()));
        let cgroups = Cgroups { layout: here.layout, hierarchies: vec![top.clone()] };
        fs::create_dir_all(top.join("plywood/dead/inner")).unwrap();
        fs::create_dir_all(top.join("plywood/live")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(top.join("plywood/live/cgroup.procs"), child.id().to_string()).unwrap();

        let launches = || cgroups.in_use(&|| false).unwrap();
        let others = launches();
        cgroups.remove_parent(launches()).unwrap();
        assert!(top.join("plywood/dead/inner").exists(), "somebody else launches");
        drop(others);
        cgroups.remove_parent(launches()).unwrap();
        assert_eq!(cgroups.ids().unwrap(), BTreeSet::from(["live".to_owned()]));
        assert_eq!(cgroups.processes("live").unwrap().len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        cgroups.remove_parent(launches()).unwrap();
        assert!(!top.join("plywood").exists());
        fs::remove_dir(&top).unwrap();
    }

    /// Control groups can be opened by everybody, and so locked: any user of the machine kept every launch and every
    /// removal waiting, past Ctrl-C.
    #[test]
    fn root_a_locked_control_group_stops_nobody() {
        plywood_kernel::testing::require_root();
        let here = Cgroups::detect().unwrap();
        let top = here.hierarchies[0].join(format!("plywood-test-locked-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        let stranger = File::open(&top).unwrap();
        rustix::fs::flock(&stranger, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        let cgroups = Cgroups { layout: here.layout, hierarchies: vec![top.clone()] };
        let (done, launched) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mine = cgroups.in_use(&|| false).unwrap();
            let mode = fs::metadata(cgroups.parents().next().unwrap()).unwrap().permissions().mode();
            done.send(mode & 0o777).unwrap();
            cgroups.remove_parent(mine).unwrap();
            done.send(0).unwrap();
        });
        let seen = [(); 2].map(|()| launched.recv_timeout(Duration::from_secs(20)));
        drop(stranger);
        let _gone_if_all_is_well = fs::remove_dir(top.join("plywood"));
        fs::remove_dir(&top).unwrap();
        // And nobody but root can open what is locked instead.
        assert_eq!(seen, [Ok(0o711), Ok(0)]);
    }

    #[test]
    fn ids_that_climb_name_nothing() {
        let cgroups = Cgroups { layout: Layout::V2, hierarchies: vec![PathBuf::from(ROOT)] };
        for id in ["", ".", "..", "../x", "/etc"] {
            assert_eq!(cgroups.all(id).count(), 0, "{id:?}");
        }
        assert_eq!(cgroups.all("c1").collect::<Vec<_>>(), [PathBuf::from("/sys/fs/cgroup/plywood/c1")]);
    }
}
