//! What the machine's processors are and which of them this program may use, as the kernel exports it.
//!
//! ```text
//! /  --SysTree::read-->  paths and their contents  --Topology::parse-->  sockets, nodes, caches, cores, limits
//!                        (also a text file: fixtures, reports)
//! ```
//!
//! Parsing is pure and never fails: a level whose files are missing, unreadable or say nothing for some CPU is
//! unknown, that is, empty. It refuses to complete what it was not told: a virtual machine that shows no caches
//! has none here.
//!
//! Invariants, whatever the tree says: each level is unknown or a partition of the online CPUs; a core lies within
//! one die and a die within one socket, where those are known; `allowed` is a part of `online`.

use serde::{Deserialize, Serialize};

use crate::CpuSet;

mod cpus;
mod limits;
mod machine;
mod nodes;
mod show;
mod tree;

pub use tree::{SysTree, TreeError};

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// What the processor calls itself.
    pub processor: Processor,
    /// Whether there is a hypervisor below.
    pub virtualised: Virtualised,
    /// CPUs that run.
    pub online: CpuSet,
    /// CPUs that are there but switched off.
    pub offline: CpuSet,
    /// CPUs this program may run on: online, in its affinity, in its control group's cpuset.
    pub allowed: CpuSet,
    /// What its affinity and its control groups leave it.
    pub limits: Limits,
    /// Processor packages.
    pub sockets: Vec<Group>,
    /// Dies, where the kernel tells (5.2).
    pub dies: Vec<Group>,
    /// Groups of cores within a die that share something: on x86 the second-level cache, on ARM what firmware says (5.16).
    pub clusters: Vec<Group>,
    /// Domains of the last-level cache, the highest level each CPU has.
    pub caches: Vec<CacheDomain>,
    /// Cores with their SMT siblings.
    pub cores: Vec<Group>,
    /// NUMA nodes, those without CPUs as well. A node may be a part of a socket, a socket, or several.
    pub nodes: Vec<NumaNode>,
    /// Kinds of cores where there is more than one; empty otherwise.
    pub core_types: Vec<CoreType>,
}

/// CPUs that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The kernel's number, unique within the next larger group only; None where it gives none.
    pub id: Option<u32>,
    /// Its online CPUs.
    pub cpus: CpuSet,
}

/// CPUs that share a last-level cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheDomain {
    /// 3 on most machines.
    pub level: u32,
    /// Its size, where the kernel tells.
    pub size_bytes: Option<u64>,
    /// The online CPUs that share it.
    pub cpus: CpuSet,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// The kernel's number.
    pub id: u32,
    /// Its online CPUs; none if it is only memory.
    pub cpus: CpuSet,
    /// Its memory.
    pub memory_bytes: Option<u64>,
    /// To each node, in the order of [`Topology::nodes`]; 10 is local. Empty if unknown.
    pub distances: Vec<u32>,
}

/// Cores of one kind, on a machine that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreType {
    /// `performance`, `efficiency`, `low-power`, or `capacity 446` where the kernel tells only that.
    pub name: String,
    /// Its online CPUs.
    pub cpus: CpuSet,
}

/// What the processor calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// `GenuineIntel`, `AuthenticAMD`, `ARM`.
    pub vendor: Option<String>,
    /// The model's name.
    pub model: Option<String>,
    /// The frequency it is sold with.
    pub base_mhz: Option<u32>,
    /// The highest frequency of its fastest core.
    pub max_mhz: Option<u32>,
    /// Whether it may exceed its base frequency.
    pub boost: Option<bool>,
}

/// Whether there is a hypervisor below, and how that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Virtualised {
    /// There is one.
    Yes {
        /// Whose, where the machine says so.
        by: Option<String>,
        /// What says that there is one.
        how: String,
    },
    /// There is none, or it hides.
    No {
        /// What says so.
        how: String,
    },
    /// The kernel exports nothing that tells.
    #[default]
    Unknown,
}

/// What affinity and control groups leave a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The affinity of the thread that looked.
    pub affinity: Option<CpuSet>,
    /// The cpuset of its control group.
    pub cpuset: Option<CpuSet>,
    /// CPUs it may use at once on average, the least of its control group and all above; None without a quota.
    pub quota_cpus: Option<f64>,
    /// Memory it may use, likewise.
    pub memory_bytes: Option<u64>,
}

impl Topology {
    /// This machine, as the calling thread may use it.
    pub fn read() -> Self {
        Self::parse(&SysTree::read())
    }

    /// The machine a tree describes.
    pub fn parse(tree: &SysTree) -> Self {
        let (processor, virtualised) = (machine::processor(tree), machine::virtualised(tree));
        let limits = limits::parse(tree);
        let online = cpus::online(tree, &limits);
        let mut allowed = online.clone();
        for limit in [&limits.affinity, &limits.cpuset].into_iter().flatten() {
            allowed = allowed.and(limit);
        }
        let sockets = cpus::sockets(tree, &online);
        let dies = cpus::dies(tree, &online, &sockets);
        let outer = if dies.is_empty() { &sockets } else { &dies };
        let clusters = cpus::clusters(tree, &online, outer);
        let cores = cpus::cores(tree, &online, outer);
        Self {
            processor,
            virtualised,
            offline: cpus::offline(tree, &online),
            allowed,
            limits,
            dies,
            clusters,
            caches: cpus::caches(tree, &online),
            cores,
            nodes: nodes::parse(tree, &online),
            core_types: cpus::core_types(tree, &online),
            sockets,
            online,
        }
    }

    /// SMT siblings of the core that has most of them; None if cores are unknown.
    pub fn threads_per_core(&self) -> Option<usize> {
        self.cores.iter().map(|core| core.cpus.len()).max()
    }
}

#[cfg(test)]
mod tests;
