//! A control group of our own in each hierarchy, which a containerd sees as the whole hierarchy.
//!
//! containerd starts in a group below it, since a group with processes can give its children no controllers. Shims and
//! containers stay below it, too, wherever they are put: that is how all of them are found and killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const MOUNTED_AT: &str = "/sys/fs/cgroup";

/// How long the kernel may take to notice that a group's last process has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group and where in `/sys/fs/cgroup` it stands for its hierarchy; empty where there is only one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) name: PathBuf,
}

/// Groups that go when it is dropped, with all processes in them.
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

impl Groups {
    /// The group of those whose processes are looked at: of the new kind where there is one, since it holds all
    /// processes and nobody turns it off.
    fn tracked(&self) -> &Path {
        let new = |bind: &&Bind| bind.source.join("cgroup.controllers").exists();
        let bind = self.0.iter().find(new).unwrap_or(&self.0[0]);
        &bind.source
    }

    /// Where containerd is to start.
    pub(super) fn daemon(&self) -> Result<PathBuf> {
        let daemon = self.tracked().join("daemon");
        fs::create_dir(&daemon)
            .with_context(|| format!("cannot make the control group {}", daemon.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if daemon.join("cpuset.cpu_exclusive").exists() {
                fs::write(daemon.join(file), fs::read(self.tracked().join(file))?)?;
            }
        }
        Ok(daemon)
    }

    /// Kills all processes in them.
    pub(super) fn kill(&self) -> Result<()> {
        kill_all(self.tracked()).context("killing shims and containers")
    }

    /// All processes in them.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        processes(self.tracked(), &mut found)?;
        Ok(found)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
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
                kill_all(&entry.path())
                    .with_context(|| format!("cannot empty {}", entry.path().display()))?;
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

/// Those in the group and in all below it.
fn processes(group: &Path, found: &mut Vec<u32>) -> std::io::Result<()> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            processes(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// Kills until nothing is left: what is killed may have been about to fork.
fn kill_all(group: &Path) -> std::io::Result<()> {
    let start = Instant::now();
    loop {
        let mut found = Vec::new();
        match processes(group, &mut found) {
            // containerd or its last words were removing a group below meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && group.exists() => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {}
            result => {
                result?;
                if found.is_empty() {
                    return Ok(());
                }
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(std::io::Error::other(format!("{found:?} do not end")));
        }
        for pid in found.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            match kill_process(pid, Signal::KILL) {
                Err(error) if error != rustix::io::Errno::SRCH => return Err(error.into()),
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
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
