//! Levels of the hierarchy: which CPUs share a socket, a die, a cluster, a core, a cache.
//!
//! The kernel gives each CPU an id and a list for each level. The list counts, since ids repeat (core 0 of socket 0,
//! core 0 of socket 1) and need not be dense; the id only where an old kernel has no list.

use super::{CacheDomain, CoreType, Group, Limits, SysTree};
use crate::CpuSet;

const DIR: &str = "/sys/devices/system/cpu";

/// Kernels that do not know a cluster give it this id; for others it is -1.
const NO_CLUSTER: u32 = 65535;

/// CPUs that run. Without the file that says so: those that are described, else those one may run on.
pub(super) fn online(tree: &SysTree, limits: &Limits) -> CpuSet {
    let described = || {
        let cpus: CpuSet = tree.numbers(&format!("{DIR}/cpu")).into_iter().collect();
        (!cpus.is_empty()).then_some(cpus)
    };
    tree.parse(&format!("{DIR}/online"))
        .filter(|online: &CpuSet| !online.is_empty())
        .or_else(described)
        .or_else(|| limits.affinity.clone())
        .unwrap_or_default()
}

/// CPUs that are present and do not run.
pub(super) fn offline(tree: &SysTree, online: &CpuSet) -> CpuSet {
    let present: CpuSet = tree.parse(&format!("{DIR}/present")).unwrap_or_default();
    present.without(online)
}

pub(super) fn sockets(tree: &SysTree, online: &CpuSet) -> Vec<Group> {
    partition(tree, online, &[], "physical_package_id", &["package_cpus_list", "core_siblings_list"])
}

pub(super) fn dies(tree: &SysTree, online: &CpuSet, sockets: &[Group]) -> Vec<Group> {
    partition(tree, online, sockets, "die_id", &["die_cpus_list"])
}

pub(super) fn clusters(tree: &SysTree, online: &CpuSet, outer: &[Group]) -> Vec<Group> {
    let clusters = partition(tree, online, outer, "cluster_id", &["cluster_cpus_list"]);
    let known = clusters.iter().all(|cluster| cluster.id.is_some_and(|id| id != NO_CLUSTER));
    if known { clusters } else { Vec::new() }
}

pub(super) fn cores(tree: &SysTree, online: &CpuSet, outer: &[Group]) -> Vec<Group> {
    partition(tree, online, outer, "core_id", &["core_cpus_list", "thread_siblings_list"])
}

/// Groups of the online CPUs by what they are told about themselves, cut at the borders of `outer`; empty if one of them
/// is told nothing.
fn partition(tree: &SysTree, online: &CpuSet, outer: &[Group], id: &str, lists: &[&str]) -> Vec<Group> {
    let path = |cpu: u32, file: &str| format!("{DIR}/cpu{cpu}/topology/{file}");
    // -1 means that nobody told the kernel; it then lists each CPU alone, which says nothing.
    let id_of = |cpu: u32| tree.parse::<u32>(&path(cpu, id));
    let told_nothing = |cpu: u32| tree.parse::<i64>(&path(cpu, id)).is_some_and(|id| id < 0);
    let mut groups = Vec::new();
    let mut left = online.clone();
    while let Some(cpu) = left.first() {
        if told_nothing(cpu) {
            return Vec::new();
        }
        let listed = lists.iter().find_map(|file| tree.parse::<CpuSet>(&path(cpu, file)));
        let same = || {
            let id = id_of(cpu)?;
            Some(left.iter().filter(|other| id_of(*other) == Some(id)).collect())
        };
        let Some(mut cpus) = listed.or_else(same) else { return Vec::new() };
        cpus.insert(cpu);
        cpus = cpus.and(&left);
        if let Some(border) = outer.iter().find(|group| group.cpus.contains(cpu)) {
            cpus = cpus.and(&border.cpus);
        }
        left = left.without(&cpus);
        groups.push(Group { id: id_of(cpu), cpus });
    }
    groups
}

/// Domains of the highest cache level each CPU has; empty if one has none.
pub(super) fn caches(tree: &SysTree, online: &CpuSet) -> Vec<CacheDomain> {
    let mut domains: Vec<CacheDomain> = Vec::new();
    let mut left = online.clone();
    while let Some(cpu) = left.first() {
        let Some(mut domain) = last_level(tree, cpu) else { return Vec::new() };
        domain.cpus.insert(cpu);
        // Cores without a third level are not in the domain of those that have one, whatever the list says.
        let level = |other: u32| last_level(tree, other).map(|domain| domain.level);
        let shared = domain.cpus.and(&left);
        domain.cpus = shared.iter().filter(|other| level(*other) == Some(domain.level)).collect();
        left = left.without(&domain.cpus);
        domains.push(domain);
    }
    domains
}

fn last_level(tree: &SysTree, cpu: u32) -> Option<CacheDomain> {
    let dir = format!("{DIR}/cpu{cpu}/cache/index");
    let cache = |index: u32| {
        let file = |name: &str| format!("{dir}{index}/{name}");
        if tree.get(&file("type")).is_some_and(|kind| kind == "Instruction") {
            return None;
        }
        Some(CacheDomain {
            level: tree.parse(&file("level"))?,
            size_bytes: tree.get(&file("size")).and_then(size),
            cpus: tree.parse(&file("shared_cpu_list"))?,
        })
    };
    tree.numbers(&dir).into_iter().filter_map(cache).max_by_key(|cache| cache.level)
}

/// `32768K`
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Intel names the kinds of its hybrid processors by the counters they have; elsewhere capacities tell them apart.
pub(super) fn core_types(tree: &SysTree, online: &CpuSet) -> Vec<CoreType> {
    let named = [("performance", "core"), ("efficiency", "atom"), ("low-power", "lowpower")];
    let mut left = online.clone();
    let mut types = Vec::new();
    for (name, unit) in named {
        let cpus: CpuSet = tree.parse(&format!("/sys/devices/cpu_{unit}/cpus")).unwrap_or_default();
        let cpus = cpus.and(&left);
        left = left.without(&cpus);
        if !cpus.is_empty() {
            types.push(CoreType { name: name.to_owned(), cpus });
        }
    }
    if types.is_empty() {
        types = capacities(tree, online);
    }
    if types.len() > 1 { types } else { Vec::new() }
}

fn capacities(tree: &SysTree, online: &CpuSet) -> Vec<CoreType> {
    let mut by_capacity = std::collections::BTreeMap::<u32, CpuSet>::new();
    for cpu in online.iter() {
        let Some(capacity) = tree.parse(&format!("{DIR}/cpu{cpu}/cpu_capacity")) else { return Vec::new() };
        by_capacity.entry(capacity).or_default().insert(cpu);
    }
    let largest_first = by_capacity.into_iter().rev();
    largest_first.map(|(capacity, cpus)| CoreType { name: format!("capacity {capacity}"), cpus }).collect()
}
