//! Named sets of CPUs and the order in which threads are put on them; pure.
//!
//! One rule of order for all: neighbours in the order are as far apart as the set allows. Threads alternate between
//! sockets, within a socket between NUMA nodes, within a node between last-level caches, and every core gets one thread
//! before any gets a second. So the first `n` threads of `all` are spread as an idle machine's scheduler would spread
//! them, and `socket` against `two-sockets` compares the same number of threads on one socket and on two.
//!
//! Only what exists and differs is offered: on a machine of one socket, `socket` is another name for `all`.
//!
//! Invariant: a placement names allowed CPUs only, each once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topology::{Group, Topology};
use crate::{CpuSet, cpuset};

/// Levels a [`Place`] tells apart.
pub const LEVELS: usize = 4;

/// Which socket, NUMA node, last-level cache and core a CPU is of, as this machine numbers them from 0. Cores that are
/// unknown are as many as CPUs; of what else is unknown there is one.
pub type Place = [usize; LEVELS];

/// CPUs for threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// How it is asked for: `all`, `socket`, `llc:3`.
    pub name: String,
    /// Other names that mean the same on this machine.
    pub aliases: Vec<String>,
    /// What it is, for people.
    pub what: String,
    /// The first thread goes to the first, and so on; distinct.
    pub cpus: Vec<u32>,
    /// Where each of them is. Not in JSON: the topology is.
    #[serde(skip)]
    pub places: Vec<Place>,
}

/// There is no such placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Nobody knows the name.
    #[error("there is no placement {name:?}; this machine has {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: Vec<String>,
    },
    /// The machine has no such CPUs.
    #[error("this machine has no placement {name}: {why}")]
    Absent {
        /// What was asked for.
        name: String,
        /// What the machine lacks.
        why: &'static str,
    },
    /// It is numbered, and there is none of that number.
    #[error("this machine has no {name}; there are {}", known.join(", "))]
    NoSuchNumber {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: Vec<String>,
    },
    /// A list of CPUs that cannot be read.
    #[error("cpus: takes CPUs of this machine")]
    Cpus(#[from] cpuset::CpuSetError),
    /// A list with CPUs that cannot be used.
    #[error("CPUs {missing} are offline, not there, or denied to this program; allowed are {allowed}")]
    Denied {
        /// Those.
        missing: CpuSet,
        /// The others.
        allowed: CpuSet,
    },
}

/// Every name that is known, what it is, and what a machine lacks that does not have it. A name that comes first is the
/// one that stays where two mean the same.
const NAMES: [(&str, &str, &str); 8] = [
    ("all", "every allowed CPU", "it has no allowed CPU"),
    ("one-per-core", "one thread a core, as with SMT switched off", "its cores are unknown"),
    ("two-sockets", "two sockets", "it has no two sockets with allowed CPUs"),
    ("socket", "one socket", "it has no socket of two allowed CPUs"),
    ("one-per-core-socket", "one thread a core of one socket", "it has no socket of two cores"),
    ("numa-node", "one NUMA node", "it has no NUMA node of two allowed CPUs"),
    ("llc", "the CPUs of one last-level cache", "no two allowed CPUs share a last-level cache"),
    ("smt-siblings", "the SMT siblings of one core", "no two allowed CPUs are SMT siblings"),
];

impl Placement {
    /// The CPU of the thread with this number, from 0. More threads than CPUs start again from the first.
    pub fn cpu(&self, thread: usize) -> Option<u32> {
        self.cpus.get(thread.checked_rem(self.cpus.len())?).copied()
    }

    fn new(machine: &Topology, name: impl Into<String>, what: impl Into<String>, cpus: Vec<u32>) -> Self {
        let places = cpus.iter().map(|cpu| place(machine, *cpu)).collect();
        Self { name: name.into(), aliases: Vec::new(), what: what.into(), cpus, places }
    }
}

/// The placements of this machine that differ, the widest first.
pub fn all(machine: &Topology) -> Vec<Placement> {
    let mut found: Vec<Placement> = Vec::new();
    let named = NAMES.iter().filter_map(|(name, what, _)| {
        let cpus = cpus_of(machine, name);
        (cpus.len() > 1 || *name == "all" && !cpus.is_empty())
            .then(|| Placement::new(machine, *name, *what, cpus))
    });
    let kinds = machine.core_types.iter().filter_map(|kind| {
        let cpus = spread(machine, &kind.cpus);
        let name = format!("{}-cores", kind.name.replace(' ', "-"));
        (cpus.len() > 1).then(|| Placement::new(machine, name, format!("the {} cores", kind.name), cpus))
    });
    for placement in named.chain(kinds) {
        match found.iter_mut().find(|earlier| earlier.cpus == placement.cpus) {
            Some(earlier) => earlier.aliases.push(placement.name),
            None => found.push(placement),
        }
    }
    found
}

/// The placement of this name or alias; `socket:1`, `numa-node:0` and `llc:3` choose one by number, as the topology
/// numbers them, and `cpus:0-3,8` lists CPUs.
///
/// # Errors
/// If the machine has none.
pub fn find(machine: &Topology, name: &str) -> Result<Placement, PlacementError> {
    let placements = all(machine);
    let matches = |placement: &&Placement| {
        placement.name == name || placement.aliases.iter().any(|alias| alias == name)
    };
    if let Some(found) = placements.iter().find(matches) {
        return Ok(found.clone());
    }
    if let Some((kind, argument)) = name.split_once(':') {
        if let Some(found) = numbered(machine, name, kind, argument) {
            return found;
        }
    } else if let Some((_, _, why)) = NAMES.iter().find(|(known, ..)| *known == name) {
        return Err(PlacementError::Absent { name: name.to_owned(), why });
    }
    let known = placements.into_iter().flat_map(|one| [vec![one.name], one.aliases].concat()).collect();
    Err(PlacementError::Unknown { name: name.to_owned(), known })
}

/// None if `kind` is not one that is numbered.
fn numbered(
    machine: &Topology,
    name: &str,
    kind: &str,
    argument: &str,
) -> Option<Result<Placement, PlacementError>> {
    let groups: Vec<(u32, &CpuSet)> = match kind {
        "cpus" => return Some(listed(machine, name, argument)),
        "socket" => (0..).zip(&machine.sockets).map(|(n, one)| (one.id.unwrap_or(n), &one.cpus)).collect(),
        "numa-node" => machine.nodes.iter().map(|node| (node.id, &node.cpus)).collect(),
        "llc" => (0..).zip(machine.caches.iter().map(|cache| &cache.cpus)).collect(),
        _ => return None,
    };
    let wanted = argument.parse().ok();
    let found =
        groups.iter().find(|(number, _)| Some(*number) == wanted).map(|(_, cpus)| spread(machine, cpus));
    Some(match found {
        Some(cpus) if !cpus.is_empty() => Ok(Placement::new(machine, name, name, cpus)),
        _ => {
            let usable = groups.iter().filter(|(_, cpus)| !cpus.and(&machine.allowed).is_empty());
            let known = usable.map(|(number, _)| format!("{kind}:{number}")).collect();
            Err(PlacementError::NoSuchNumber { name: name.to_owned(), known })
        }
    })
}

fn listed(machine: &Topology, name: &str, list: &str) -> Result<Placement, PlacementError> {
    let cpus: CpuSet = list.parse()?;
    let missing = cpus.without(&machine.allowed);
    if !missing.is_empty() || cpus.is_empty() {
        return Err(PlacementError::Denied { missing, allowed: machine.allowed.clone() });
    }
    Ok(Placement::new(machine, name, "the CPUs listed", spread(machine, &cpus)))
}

fn cpus_of(machine: &Topology, name: &str) -> Vec<u32> {
    let spread = |cpus: &CpuSet| spread(machine, cpus);
    let sockets = || machine.sockets.iter().map(|socket| &socket.cpus);
    let largest_socket = || largest(machine, sockets());
    match name {
        "all" => spread(&machine.allowed),
        "one-per-core" if !machine.cores.is_empty() => spread(&firsts(machine, &machine.allowed)),
        "two-sockets" => {
            let mut usable: Vec<CpuSet> =
                sockets().map(|cpus| cpus.and(&machine.allowed)).filter(|cpus| !cpus.is_empty()).collect();
            // Stable: of equal ones the first two.
            usable.sort_by_key(|cpus| std::cmp::Reverse(cpus.len()));
            match &usable[..] {
                [first, second, ..] => spread(&first.iter().chain(second.iter()).collect()),
                _ => Vec::new(),
            }
        }
        "socket" => spread(&largest_socket()),
        "one-per-core-socket" if !machine.cores.is_empty() => spread(&firsts(machine, &largest_socket())),
        "numa-node" => spread(&largest(machine, machine.nodes.iter().map(|node| &node.cpus))),
        "llc" => spread(&largest(machine, machine.caches.iter().map(|cache| &cache.cpus))),
        "smt-siblings" => spread(&largest(machine, machine.cores.iter().map(|core| &core.cpus))),
        _ => Vec::new(),
    }
}

/// The allowed CPUs of the group that has most of them; of equal ones the first.
fn largest<'a>(machine: &Topology, groups: impl Iterator<Item = &'a CpuSet>) -> CpuSet {
    groups
        .map(|cpus| cpus.and(&machine.allowed))
        .fold(CpuSet::EMPTY, |largest, cpus| if cpus.len() > largest.len() { cpus } else { largest })
}

/// The first allowed CPU of each core that has one among `cpus`.
fn firsts(machine: &Topology, cpus: &CpuSet) -> CpuSet {
    let usable = cpus.and(&machine.allowed);
    machine.cores.iter().filter_map(|core| core.cpus.and(&usable).first()).collect()
}

/// Where one core is; what is unknown does not tell cores apart.
struct Core {
    cpus: Vec<u32>,
    place: Place,
}

/// The allowed ones of these CPUs, neighbours far apart.
fn spread(machine: &Topology, cpus: &CpuSet) -> Vec<u32> {
    let usable = cpus.and(&machine.allowed);
    let singles: Vec<Group>;
    let cores = if machine.cores.is_empty() {
        singles = usable.iter().map(|cpu| Group { id: None, cpus: CpuSet::from_iter([cpu]) }).collect();
        &singles
    } else {
        &machine.cores
    };
    let cores = cores.iter().map(|core| core.cpus.and(&usable)).filter_map(|cpus| {
        let first = cpus.first()?;
        Some(Core { cpus: cpus.iter().collect(), place: place(machine, first) })
    });
    let cores = alternate(cores.collect(), 0);
    let siblings = cores.iter().map(|core| core.cpus.len()).max().unwrap_or(0);
    (0..siblings).flat_map(|nth| cores.iter().filter_map(move |core| core.cpus.get(nth).copied())).collect()
}

fn place(machine: &Topology, cpu: u32) -> Place {
    let of = |found: Option<usize>| found.unwrap_or_default();
    [
        of(machine.sockets.iter().position(|socket| socket.cpus.contains(cpu))),
        of(machine.nodes.iter().position(|node| node.cpus.contains(cpu))),
        of(machine.caches.iter().position(|cache| cache.cpus.contains(cpu))),
        machine.cores.iter().position(|core| core.cpus.contains(cpu)).unwrap_or(cpu as usize),
    ]
}

/// Takes cores from the groups of a level in turn, each group's own in the order of the levels below.
fn alternate(cores: Vec<Core>, level: usize) -> Vec<Core> {
    // Cores of one cache are told apart by nothing: they stay in the order they are in.
    if cores.is_empty() || level == LEVELS - 1 {
        return cores;
    }
    let mut groups: BTreeMap<usize, Vec<Core>> = BTreeMap::new();
    for core in cores {
        groups.entry(core.place[level]).or_default().push(core);
    }
    let mut groups: Vec<_> =
        groups.into_values().map(|group| alternate(group, level + 1).into_iter()).collect();
    let mut order = Vec::new();
    while !groups.is_empty() {
        groups.retain_mut(|group| group.next().map(|core| order.push(core)).is_some());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Topology {
        Topology::parse(&text.parse().unwrap())
    }

    /// Four sockets of two cores with two siblings each: CPU n is on socket n / 2 % 4, its sibling n + 8.
    fn four_sockets() -> Topology {
        let mut text = "/sys/devices/system/cpu/online=0-15\n".to_owned();
        for core in 0..8 {
            let (other, socket) = (core + 8, core / 2);
            text += &format!(
                "/sys/devices/system/cpu/cpu{{{core},{other}}}/topology/core_cpus_list={core},{other}\n"
            );
            text += &format!(
                "/sys/devices/system/cpu/cpu{{{core},{other}}}/topology/physical_package_id={socket}\n"
            );
        }
        parse(&text)
    }

    #[test]
    fn threads_alternate_and_siblings_come_last() {
        let machine = four_sockets();
        let cpus = |name| find(&machine, name).unwrap().cpus;
        assert_eq!(cpus("all"), [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
        assert_eq!(cpus("one-per-core"), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(cpus("two-sockets"), [0, 2, 1, 3, 8, 10, 9, 11]);
        assert_eq!(cpus("socket"), [0, 1, 8, 9]);
        assert_eq!(cpus("one-per-core-socket"), [0, 1]);
        assert_eq!(cpus("smt-siblings"), [0, 8]);
        assert_eq!(cpus("socket:2"), [4, 5, 12, 13]);
        assert_eq!(cpus("cpus:0,8,3"), [0, 3, 8]);
        let all = find(&machine, "all").unwrap();
        assert_eq!((all.cpu(1), all.cpu(17)), (Some(2), Some(2)));
    }

    #[test]
    fn only_what_is_allowed_is_used_and_what_has_most_of_it_chosen() {
        let mut machine = four_sockets();
        machine.allowed = "1-3,6,11,14".parse().unwrap();
        let cpus = |name| find(&machine, name).unwrap().cpus;
        assert_eq!(cpus("all"), [1, 2, 6, 3, 14, 11]);
        assert_eq!(cpus("socket"), [2, 3, 11]);
        assert_eq!(cpus("smt-siblings"), [3, 11]);
        assert_eq!(cpus("two-sockets"), [2, 6, 3, 14, 11]);
        let denied = find(&machine, "cpus:0-2").unwrap_err().to_string();
        assert!(denied.contains("CPUs 0 are") && denied.contains("1-3,6,11,14"), "{denied}");
    }

    #[test]
    fn names_that_mean_nothing_here_say_why() {
        let machine = parse("/sys/devices/system/cpu/online=0-3\n");
        let error = |name| find(&machine, name).unwrap_err().to_string();
        assert_eq!(
            error("smt-siblings"),
            "this machine has no placement smt-siblings: no two allowed CPUs are SMT siblings"
        );
        assert_eq!(error("everywhere"), "there is no placement \"everywhere\"; this machine has all");
        assert_eq!(error("all:1"), "there is no placement \"all:1\"; this machine has all");
        assert!(error("cpus:x").starts_with("cpus:"));
        assert!(find(&four_sockets(), "socket:9").unwrap_err().to_string().contains("socket:0, socket:1"));
        assert_eq!(all(&Topology::default()), []);
    }

    proptest! {
        #[test]
        fn placements_hold_allowed_cpus_once(
            cores in prop::collection::vec((0_u32..4, 0_u32..24), 24),
            sockets in prop::collection::vec(0_u32..3, 24),
            nodes in prop::collection::vec(prop::collection::btree_set(0_u32..24, 0..24), 0..4),
            caches in prop::collection::vec(0_u32..24, 24),
            allowed in prop::collection::btree_set(0_u32..24, 0..24),
        ) {
            let mut text = "/sys/devices/system/cpu/online=0-23\n".to_owned();
            for (cpu, ((siblings, first), (socket, cache))) in cores.iter().zip(sockets.iter().zip(&caches)).enumerate() {
                let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
                text += &format!("{dir}/topology/core_cpus_list={first}-{}\n", first + siblings);
                text += &format!("{dir}/topology/physical_package_id={socket}\n");
                text += &format!("{dir}/cache/index0/level=3\n{dir}/cache/index0/shared_cpu_list={cache}\n");
            }
            for (node, cpus) in nodes.into_iter().enumerate() {
                text += &format!("/sys/devices/system/node/node{node}/cpulist={}\n", CpuSet::from_iter(cpus));
            }
            let mut machine = parse(&text);
            machine.allowed = allowed.into_iter().collect();
            let found = all(&machine);
            for placement in &found {
                let set: CpuSet = placement.cpus.iter().copied().collect();
                prop_assert_eq!(set.len(), placement.cpus.len());
                prop_assert!(set.is_within(&machine.allowed));
                prop_assert_eq!(&find(&machine, &placement.name).unwrap(), placement);
            }
            let names: std::collections::BTreeSet<_> = found.iter().map(|one| &one.name).collect();
            prop_assert_eq!(names.len(), found.len());
            prop_assert_eq!(found.first().map_or(0, |all| all.cpus.len()), machine.allowed.len());
            if let Ok(one) = find(&machine, "one-per-core") {
                let core = |cpu: &u32| machine.cores.iter().position(|core| core.cpus.contains(*cpu)).unwrap();
                let distinct: std::collections::BTreeSet<_> = one.cpus.iter().map(core).collect();
                prop_assert_eq!(distinct.len(), one.cpus.len());
            }
        }
    }
}
