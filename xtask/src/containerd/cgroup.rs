//! A control group of our own in each hierarchy, which a containerd sees as the whole hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const MOUNTED_AT: &str = "/sys/fs/cgroup";

/// How long the kernel may take to notice that a group's last process has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group and where in `/sys/fs/cgroup` it stands for its hierarchy; empty where there is only one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) name: PathBuf,
}

/// Groups that go when it is dropped, if all processes in them have ended.
#[derive(Debug)]
pub(super) struct Groups(pub(super) Vec<Bind>);

impl Groups {
    /// One in each hierarchy, called `name`.
    pub(super) fn make(name: &str) -> Result<Groups> {
        let mut groups = Groups(Vec::new());
        for hierarchy in hierarchies(&fs::read_to_string("/proc/self/mountinfo")?) {
            let source = hierarchy.join(name);
            fs::create_dir(&source)
                .with_context(|| format!("cannot make the control group {}", source.display()))?;
            let name = hierarchy.strip_prefix(MOUNTED_AT).unwrap_or(Path::new("")).to_path_buf();
            groups.0.push(Bind { source: source.clone(), name });
            // Of the old hierarchies, this one takes no process before it is told processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.join("cpuset.cpu_exclusive").exists() {
                    fs::write(source.join(file), fs::read(hierarchy.join(file))?)?;
                }
            }
        }
        if groups.0.is_empty() {
            bail!("no control groups are mounted below {MOUNTED_AT}");
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for Bind { source, .. } in &self.0 {
            if let Err(error) = remove(source, PATIENCE) {
                eprintln!("cannot remove the control group {}: {error}", source.display());
            }
        }
    }
}

/// Removes groups of processes that were killed before they could: those whose name is `prefix`, a process's number
/// and anything.
pub(super) fn sweep(prefix: &str) -> Result<()> {
    for hierarchy in hierarchies(&fs::read_to_string("/proc/self/mountinfo")?) {
        for entry in fs::read_dir(hierarchy)? {
            let entry = entry?;
            if super::server::is_stale(&entry.file_name(), prefix) {
                remove(&entry.path(), PATIENCE)
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

/// Where control groups are mounted at or below `/sys/fs/cgroup`.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let at = Path::new(left.split(' ').nth(4)?);
        let kind = right.split(' ').next()?;
        (["cgroup", "cgroup2"].contains(&kind) && at.starts_with(MOUNTED_AT)).then(|| at.to_path_buf())
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The groups below, then the group.
fn remove(group: &Path, patience: Duration) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), patience)?;
        }
    }
    let start = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_control_groups_are_found() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      50 1 0:50 / /mnt/other rw - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchies(hybrid), ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from));
        let unified = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchies(unified), [PathBuf::from(MOUNTED_AT)]);
    }
}
