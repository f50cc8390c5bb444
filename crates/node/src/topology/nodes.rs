//! NUMA nodes with their memory and distances.

use super::{NumaNode, SysTree};
use crate::CpuSet;

const DIR: &str = "/sys/devices/system/node/node";

pub(super) fn parse(tree: &SysTree, online: &CpuSet) -> Vec<NumaNode> {
    let ids = tree.numbers(DIR);
    let mut left = online.clone();
    let mut nodes = Vec::new();
    for &id in &ids {
        let file = |name: &str| format!("{DIR}{id}/{name}");
        let Some(cpus) = tree.parse::<CpuSet>(&file("cpulist")) else { return Vec::new() };
        let cpus = cpus.and(&left);
        left = left.without(&cpus);
        let distances: Option<Vec<u32>> = tree
            .get(&file("distance"))
            .and_then(|row| row.split_ascii_whitespace().map(|one| one.parse().ok()).collect());
        nodes.push(NumaNode {
            id,
            cpus,
            memory_bytes: tree.get(&file("meminfo")).and_then(memory),
            // A row of another length speaks of other nodes than those that are described.
            distances: distances.filter(|row| row.len() == ids.len()).unwrap_or_default(),
        });
    }
    if left.is_empty() { nodes } else { Vec::new() }
}

/// `Node 0 MemTotal:       16384000 kB`
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.split_once(" MemTotal:"))?.1;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
