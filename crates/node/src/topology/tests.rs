//! Trees nobody exports: half of them missing, contradicting themselves, random.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Topology {
    Topology::parse(&text.parse().unwrap())
}

#[test]
fn this_machine_is_described_and_its_text_says_the_same() {
    let tree = SysTree::read();
    let machine = Topology::parse(&tree);
    assert_eq!(machine.allowed.iter().collect::<Vec<_>>(), plywood_kernel::affinity::allowed().unwrap());
    assert_eq!(tree.to_string().parse::<SysTree>().unwrap(), tree);
    holds_together(&machine);
}

#[test]
fn an_empty_tree_is_a_machine_of_which_nothing_is_known() {
    let machine = parse("");
    assert_eq!(machine, Topology::default());
    assert!(machine.to_string().contains("unknown processor"));
}

#[test]
fn old_kernels_list_siblings_under_other_names() {
    let machine = parse(
        "/sys/devices/system/cpu/online=0-3\n\
         /sys/devices/system/cpu/cpu{0-3}/topology/physical_package_id=0\n\
         /sys/devices/system/cpu/cpu{0-3}/topology/core_siblings_list=0-3\n\
         /sys/devices/system/cpu/cpu{0,2}/topology/thread_siblings_list=0,2\n\
         /sys/devices/system/cpu/cpu{1,3}/topology/thread_siblings_list=1,3\n",
    );
    assert_eq!((machine.sockets.len(), machine.cores.len(), machine.dies.len()), (1, 2, 0));
    assert_eq!(machine.cores[0].cpus.to_string(), "0,2");
}

#[test]
fn a_level_that_one_cpu_is_not_told_about_is_unknown() {
    let machine = parse(
        "/sys/devices/system/cpu/online=0-1\n\
         /sys/devices/system/cpu/cpu0/topology/core_cpus_list=0\n\
         /sys/devices/system/cpu/cpu{0-1}/topology/physical_package_id=-1\n\
         /sys/devices/system/cpu/cpu{0-1}/topology/core_siblings_list=0-1\n\
         /sys/devices/system/cpu/cpu{0-1}/topology/cluster_id=65535\n\
         /sys/devices/system/cpu/cpu{0-1}/topology/cluster_cpus_list=0-1\n\
         /sys/devices/system/node/node0/cpulist=0\n",
    );
    assert!(machine.cores.is_empty() && machine.sockets.is_empty() && machine.clusters.is_empty());
    assert!(machine.nodes.is_empty(), "CPU 1 is in none of them");
}

#[test]
fn a_cpu_that_is_offline_is_in_no_group() {
    let machine = parse(
        "/sys/devices/system/cpu/online=0,2-3\n\
         /sys/devices/system/cpu/present=0-3\n\
         /sys/devices/system/cpu/cpu{0,2,3}/topology/core_cpus_list=0-1\n\
         /sys/devices/system/node/node0/cpulist=0-3\n",
    );
    assert_eq!(machine.offline.to_string(), "1");
    assert_eq!(machine.nodes[0].cpus.to_string(), "0,2-3");
}

const V2: &str = "/proc/thread-self/mountinfo=30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
const V1: &str = "/proc/thread-self/mountinfo=\
    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\\n\
    34 31 0:31 /docker/abc /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

#[test]
fn the_least_quota_of_all_groups_above_counts() {
    let limits =
        |cgroup: &str| parse(&format!("{V2}/proc/thread-self/cgroup=0::/a.slice/b\n{cgroup}")).limits;
    let found = limits(
        "/sys/fs/cgroup/a.slice/cpu.max=150000 100000\n\
         /sys/fs/cgroup/a.slice/b/cpu.max=max 100000\n\
         /sys/fs/cgroup/a.slice/cpuset.cpus.effective=0-1\n\
         /sys/fs/cgroup/a.slice/memory.max=max\n\
         /sys/fs/cgroup/a.slice/b/memory.max=1073741824\n",
    );
    assert_eq!(found.quota_cpus, Some(1.5));
    assert_eq!(found.memory_bytes, Some(1 << 30));
    assert_eq!(found.cpuset.unwrap().to_string(), "0-1");
    let none = limits("/sys/fs/cgroup/a.slice/b/cpu.max=max 100000\n");
    assert_eq!(none, Limits::default());
}

/// The root that is mounted is a path, no beginning of names: `/pod12` is not `2` within `/pod1`.
#[test]
fn a_group_is_looked_for_below_the_root_that_is_mounted() {
    let quota = |group: &str| {
        parse(&format!(
            "/proc/thread-self/mountinfo=30 24 0:26 /pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             /proc/thread-self/cgroup=0::{group}\n\
             /sys/fs/cgroup/cpu.max=400000 100000\n\
             /sys/fs/cgroup/2/cpu.max=100000 100000\n"
        ))
        .limits
        .quota_cpus
    };
    assert_eq!(quota("/pod1/2"), Some(1.0));
    assert_eq!(quota("/pod12"), Some(4.0));
    assert_eq!(quota("/pod1"), Some(4.0));
}

#[test]
fn version_one_is_found_where_each_controller_is_mounted() {
    let machine = parse(&format!(
        "{V1}/proc/thread-self/cgroup=3:cpuset:/docker/abc/in\\n2:cpu,cpuacct:/k\\n4:memory:/\\n0::/\n\
         /sys/devices/system/cpu/online=0-7\n\
         /proc/thread-self/status=Cpus_allowed_list:\t2-5\n\
         /sys/fs/cgroup/cpuset/in/cpuset.effective_cpus=4-7\n\
         /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us=-1\n\
         /sys/fs/cgroup/cpu,cpuacct/k/cpu.cfs_quota_us=200000\n\
         /sys/fs/cgroup/cpu,cpuacct/k/cpu.cfs_period_us=100000\n\
         /sys/fs/cgroup/memory/memory.limit_in_bytes=9223372036854771712\n"
    ));
    assert_eq!(machine.allowed.to_string(), "4-5");
    assert_eq!(machine.limits.quota_cpus, Some(2.0));
    assert_eq!(machine.limits.memory_bytes, None);
}

#[test]
fn lines_that_are_no_path_and_value_are_named() {
    for (text, expected) in [
        ("/a=1\nnothing", "line 2 is not /path=value: there is no ="),
        ("a=1", "line 1 is not /path=value: the path is not absolute"),
        ("/cpu{0-1/x=1", "line 1 is not /path=value: a { without a }"),
        ("/cpu{x}/x=1", "line 1 is not /path=value: no list of CPUs in {}"),
    ] {
        assert_eq!(text.parse::<SysTree>().unwrap_err().to_string(), expected);
    }
}

/// What is promised of every machine.
fn holds_together(machine: &Topology) {
    let sets = |groups: &[Group]| groups.iter().map(|group| group.cpus.clone()).collect::<Vec<_>>();
    let levels = [
        sets(&machine.sockets),
        sets(&machine.dies),
        sets(&machine.clusters),
        sets(&machine.cores),
        machine.caches.iter().map(|cache| cache.cpus.clone()).collect(),
        machine.nodes.iter().map(|node| node.cpus.clone()).collect(),
    ];
    for level in levels.iter().filter(|level| !level.is_empty()) {
        let members: Vec<u32> = level.iter().flat_map(|cpus| cpus.iter().collect::<Vec<_>>()).collect();
        let all: CpuSet = members.iter().copied().collect();
        assert_eq!((members.len(), &all), (machine.online.len(), &machine.online), "{machine:?}");
    }
    let within = |inner: &[Group], outer: &[Group]| {
        let lies = |group: &Group| outer.iter().any(|outer| group.cpus.is_within(&outer.cpus));
        outer.is_empty() || inner.iter().all(lies)
    };
    assert!(within(&machine.dies, &machine.sockets), "{machine:?}");
    for inner in [&machine.clusters, &machine.cores] {
        assert!(within(inner, &machine.dies) && within(inner, &machine.sockets), "{machine:?}");
    }
    assert!(machine.allowed.is_within(&machine.online));
    assert!(machine.core_types.iter().all(|kind| kind.cpus.is_within(&machine.online)));
    let json = serde_json::to_string(machine).unwrap();
    assert_eq!(&serde_json::from_str::<Topology>(&json).unwrap(), machine);
    assert!(!machine.to_string().is_empty());
}

fn line() -> impl Strategy<Value = String> {
    let topology = "(physical_package_id|core_id|die_id|cluster_id)";
    let lists = "(core_cpus_list|thread_siblings_list|die_cpus_list|package_cpus_list|cluster_cpus_list)";
    let id = ("(\\{0-7\\}|[0-7])", topology, "(-1|[0-3]|65535|x|)")
        .prop_map(|(cpu, file, value)| format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}={value}"));
    let list = ("(\\{0-3\\}|\\{0-7\\}|[0-7])", lists, "([0-7](-[0-7])?(,[0-7])?|y|)")
        .prop_map(|(cpu, file, value)| format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}={value}"));
    let cache = (
        "(\\{0-7\\}|[0-7])",
        "[0-3]",
        "(level=[1-3]|shared_cpu_list=[0-7](-7)?|size=[0-9]{1,20}[KMG]?|type=[A-Z])",
    )
        .prop_map(|(cpu, index, file)| format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}/{file}"));
    let node = (
        "[0-3]",
        "(cpulist=[0-7](-7)?|distance=[0-9 ]{0,9}|meminfo=Node 0 MemTotal: [0-9]{1,20} kB|cpulist=)",
    )
        .prop_map(|(node, file)| format!("/sys/devices/system/node/node{node}/{file}"));
    let other = "(/sys/devices/system/cpu/(online|present)=[0-7](-7)?|/proc/cpuinfo=[a-z :]{0,9}|\
        /sys/devices/cpu_(core|atom)/cpus=[0-7]|/proc/thread-self/status=Cpus_allowed_list:[0-7]-7|\
        /sys/devices/system/cpu/cpu[0-7]/cpu_capacity=[0-9]{1,4}|\
        /proc/thread-self/cgroup=(0::/[.a/]{0,5}|[:,cpu/]{0,12})|/sys/fs/cgroup(/a)?/cpu\\.max=[0-9max ]{0,8})";
    prop_oneof![id, list, cache, node, other]
}

proptest! {
    #[test]
    fn random_trees_hold_together(lines in prop::collection::vec(line(), 0..60), v2 in any::<bool>()) {
        let mounts = if v2 { V2 } else { V1 };
        let tree: SysTree = format!("{mounts}{}", lines.join("\n")).parse().unwrap();
        holds_together(&Topology::parse(&tree));
        prop_assert_eq!(&tree.to_string().parse::<SysTree>().unwrap(), &tree);
    }

    #[test]
    fn random_texts_never_panic(text in "[-/a-z0-9={},\\\\\n]{0,80}") {
        if let Ok(tree) = text.parse() {
            holds_together(&Topology::parse(&tree));
        }
    }
}
