//! What affinity and control groups leave a program, for cgroup v1, v2 and both at once.
//!
//! A control group is found where its hierarchy is mounted, which inside a container may show only a part of it. Quotas
//! and memory limits of the groups above count as well: the least is what one gets.

use std::path::Path;

use plywood_kernel::table::{self, MountEntry};

use super::{Limits, SysTree};
use crate::CpuSet;

/// What is read in each directory of each hierarchy.
const FILES: [&str; 8] = [
    "cpuset.cpus.effective",
    "cpuset.effective_cpus",
    "cpuset.cpus",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "memory.max",
    "memory.limit_in_bytes",
];

/// cgroup v1 writes the largest multiple of a page where there is no limit.
const UNLIMITED: u64 = 1 << 60;

/// Deeper groups than this are not looked at.
const DEPTH: usize = 64;

pub(super) fn parse(tree: &SysTree) -> Limits {
    let dirs = |controller| directories(tree, controller);
    let file = |dir: &String, name: &str| tree.get(&format!("{dir}/{name}"));
    let cpuset = dirs("cpuset").iter().find_map(|dir| {
        let mut sets = FILES[..3].iter().filter_map(|name| file(dir, name)?.parse::<CpuSet>().ok());
        // Inherited, if it is empty.
        sets.find(|set| !set.is_empty())
    });
    let quota = |dir: &String| match file(dir, "cpu.max") {
        Some(max) => {
            let (quota, period) = max.split_once(' ')?;
            ratio(quota, period)
        }
        None => ratio(file(dir, "cpu.cfs_quota_us")?, file(dir, "cpu.cfs_period_us")?),
    };
    let memory = |dir: &String| {
        let limit: u64 =
            file(dir, "memory.max").or_else(|| file(dir, "memory.limit_in_bytes"))?.parse().ok()?;
        (limit < UNLIMITED).then_some(limit)
    };
    Limits {
        affinity: tree
            .get("/proc/thread-self/status")
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")))
            .and_then(|list| list.parse().ok()),
        cpuset,
        quota_cpus: dirs("cpu").iter().filter_map(quota).min_by(f64::total_cmp),
        memory_bytes: dirs("memory").iter().filter_map(memory).min(),
    }
}

/// `max` and -1 are no limit.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period).filter(|cpus| cpus.is_finite())
}

/// The files that hold the limits of the thread whose `/proc/thread-self` is in the tree.
pub(super) fn files(tree: &SysTree) -> Vec<String> {
    let mut dirs: Vec<String> =
        ["cpuset", "cpu", "memory"].iter().flat_map(|controller| directories(tree, controller)).collect();
    dirs.sort();
    dirs.dedup();
    dirs.iter().flat_map(|dir| FILES.map(|name| format!("{dir}/{name}"))).collect()
}

/// The thread's group of this controller and those above it as far as they are mounted, the innermost first; those of
/// version 1 before those of version 2, since a controller that is mounted there is missing here.
fn directories(tree: &SysTree, controller: &str) -> Vec<String> {
    let mounts = tree.get("/proc/thread-self/mountinfo").unwrap_or_default();
    let mounts = table::parse_mountinfo(mounts.as_bytes()).unwrap_or_default();
    let groups = tree.get("/proc/thread-self/cgroup").unwrap_or_default();
    let group = |controllers: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            controllers(names).then_some(path)
        })
    };
    let listed = |list: &str| list.split(',').any(|name| name == controller);
    let v1 = mounts.iter().find(|mount| mount.fs_type == "cgroup" && listed(&mount.fs_options));
    let v2 = mounts.iter().find(|mount| mount.fs_type == "cgroup2");
    let mut dirs = Vec::new();
    for (mount, path) in [(v1, group(&listed)), (v2, group(&str::is_empty))] {
        if let (Some(mount), Some(path)) = (mount, path) {
            dirs.extend(upwards(mount, path));
        }
    }
    dirs
}

fn upwards(mount: &MountEntry, path: &str) -> Vec<String> {
    let point = mount.mount_point.to_string_lossy();
    // As paths: the group /pod12 is not below a root /pod1.
    let inner = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new("")).to_string_lossy();
    // Seen from another cgroup namespace, a group may lie outside what is mounted.
    let inner = if inner.split('/').any(|part| part == "..") { "" } else { &*inner };
    let mut dirs = vec![point.trim_end_matches('/').to_owned()];
    for part in inner.split('/').filter(|part| !part.is_empty()).take(DEPTH) {
        dirs.push(format!("{}/{part}", dirs[dirs.len() - 1]));
    }
    dirs.reverse();
    dirs
}
