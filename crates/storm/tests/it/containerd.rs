//! Storms of a real containerd and of its CRI: rounds start, mount where they should, and leave nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plywood_kernel::testing::require_root;
use plywood_kernel::{IdMap, IdRange};
use plywood_storm::launcher::containerd::{self, Config, Part, Source};
use plywood_storm::launcher::{Launcher, LauncherError, Round, cri};
use plywood_xtask::containerd::{SUITES, Server, Settings, Suite, Tree, small_image};
use plywood_xtask::proc::output;

const CONTAINERS: usize = 8;
const LAYERS: usize = 12;
/// As many as do not fit the options of one mount by their full names.
const MANY: usize = 60;

/// What a user namespace maps that is none: the whole range to itself.
const WHOLE: [u32; 3] = [0, 0, u32::MAX];

fn start(suite: Suite, pods: bool) -> (Server, PathBuf) {
    start_with(suite, pods, LAYERS)
}

/// The image's own command writes down what its user namespace maps, and stays.
fn start_with(suite: Suite, pods: bool, layers: usize) -> (Server, PathBuf) {
    let server =
        Server::start(Tree::open(suite).unwrap(), &Settings { pods, ..Settings::default() }).unwrap();
    let layout = server.dir().join("layout");
    let command = "cat /proc/self/uid_map > /maps; cat /proc/self/gid_map >> /maps; exec sleep 1000";
    small_image(&layout, "plywood.test/storm:latest", layers, &["/bin/sh", "-c", command]).unwrap();
    (server, layout)
}

fn mappings() -> Vec<IdMap> {
    let range = |n: usize| IdRange { start: 0x7000_0000 + 65_536 * n as u32, length: 65_536 };
    (0..CONTAINERS).map(|n| IdMap::from_ranges(range(n), range(n))).collect()
}

fn config(server: &Server, layout: PathBuf, part: Part) -> Config {
    Config {
        socket: server.socket(),
        snapshotter: "overlayfs".into(),
        image: Source::Layout(layout, None),
        layers: None,
        command: Vec::new(),
        part,
        mappings: Some(mappings()),
        cancel: Arc::default(),
    }
}

fn pods(server: &Server, layout: PathBuf) -> cri::Config {
    cri::Config {
        socket: server.socket(),
        snapshotter: "overlayfs".into(),
        image: Source::Layout(layout, None),
        command: Vec::new(),
        mappings: Some(mappings()),
        cancel: Arc::default(),
    }
}

/// What each of the round's containers has written down of its user namespace, by the files their processes see.
fn maps(server: &Server) -> Vec<[u32; 3]> {
    let start = Instant::now();
    loop {
        let seen = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/root/maps")).ok();
        let mut maps = Vec::new();
        for text in
            server.processes().unwrap().iter().filter_map(seen).filter(|text| text.lines().count() == 2)
        {
            let lines: Vec<Vec<u32>> = text
                .lines()
                .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
                .collect();
            assert_eq!(lines[0], lines[1], "uids and gids");
            maps.push(<[u32; 3]>::try_from(lines[0].as_slice()).unwrap());
        }
        if maps.len() >= CONTAINERS {
            maps.sort_unstable();
            return maps;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{maps:?} of {CONTAINERS}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Each has its own.
fn own() -> Vec<[u32; 3]> {
    mappings().iter().map(|map| [map.uid[0].inside, map.uid[0].outside, map.uid[0].length]).collect()
}

/// What containerd's own client lists in a namespace.
fn records(server: &Server, namespace: &str) -> Vec<String> {
    let list = |kind: &str, command: &str| output(server.ctr(namespace).args([kind, command])).unwrap();
    let kinds =
        [("containers", "ls"), ("images", "ls"), ("leases", "ls"), ("snapshots", "ls"), ("tasks", "list")];
    let lists = kinds.map(|(kind, command)| list(kind, command));
    lists.iter().flat_map(|list| list.lines().skip(1).map(str::to_owned)).collect()
}

/// Two rounds of all containers at once; `during` looks at the first while it is there.
fn storm(launcher: &dyn Launcher, during: impl Fn()) {
    for round in 0..2 {
        launcher.prepare(Round { containers: CONTAINERS, burst: CONTAINERS }).unwrap();
        let before = Instant::now();
        std::thread::scope(|scope| {
            let launch = |n| scope.spawn(move || launcher.launch(n).map_err(|error| error.to_string()));
            let launches: Vec<_> = (0..CONTAINERS).map(launch).collect();
            for launched in launches {
                assert!(launched.join().unwrap().unwrap().there > before);
            }
        });
        if round == 0 {
            during();
        }
        launcher.remove().unwrap();
    }
    launcher.close().unwrap();
    launcher.close().unwrap();
}

fn processes_and_mounts(server: &Server) -> (usize, usize) {
    (server.processes().unwrap().len(), server.mounts().unwrap().len())
}

fn assert_only(server: &Server, before: (usize, usize)) {
    let start = Instant::now();
    while processes_and_mounts(server) != before {
        let now = server.mounts().unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{before:?} before, now {now:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn root_tasks_of_containerd() {
    require_root();
    let (server, layout) = start(Suite::Sid, false);
    let before = processes_and_mounts(&server);
    let few = Config { layers: Some(3), ..config(&server, layout, Part::Task) };
    assert_eq!(containerd::open(few.clone()).unwrap().layers(), 3);
    let launcher = containerd::open(Config { layers: None, ..few }).unwrap();
    assert_eq!(launcher.layers(), LAYERS);
    assert!(launcher.versions()["containerd"].starts_with("2."));
    // A shim and a process each.
    storm(&launcher, || {
        assert!(server.processes().unwrap().len() >= before.0 + 2 * CONTAINERS);
        assert_eq!(maps(&server), own());
    });
    assert_only(&server, before);
}

/// Old ones, too: they need to map nothing.
#[test]
fn root_tasks_of_every_containerd_with_the_hosts_ids() {
    require_root();
    for suite in SUITES {
        let (server, layout) = start(suite, false);
        let before = processes_and_mounts(&server);
        let config = Config { mappings: None, ..config(&server, layout, Part::Task) };
        storm(&containerd::open(config).unwrap(), || {
            assert_eq!(maps(&server), [WHOLE; CONTAINERS], "{suite}");
            assert_eq!(host_mounts(&server), Vec::<String>::new());
        });
        assert_only(&server, before);
        assert_eq!(records(&server, "plywood-storm"), Vec::<String>::new(), "{suite}");
    }
}

/// One mount each, of as many layers as there may be, and nothing else.
#[test]
fn root_snapshots_without_mappings_are_mounted_by_every_containerds_one_call() {
    require_root();
    for suite in SUITES {
        let (server, layout) = start_with(suite, false, MANY);
        let before = processes_and_mounts(&server);
        let config = Config { mappings: None, ..config(&server, layout, Part::Rootfs { passes: 2 }) };
        storm(&containerd::open(config).unwrap(), || {
            let mounts = server.mounts().unwrap();
            let overlays: Vec<_> = mounts.iter().filter(|line| line.contains(" - overlay ")).collect();
            assert_eq!((overlays.len(), mounts.len()), (CONTAINERS, before.1 + CONTAINERS), "{suite}");
            for overlay in overlays {
                let (_, options) = overlay.split_once("lowerdir=").unwrap();
                assert_eq!(options.split(',').next().unwrap().split(':').count(), MANY, "{overlay}");
                assert!(overlay.contains(",upperdir=") && overlay.contains(",workdir="), "{overlay}");
            }
            // Nobody's ids are shifted.
            let seen = "for d in /run/plywood-storm-*/*/rootfs; do /busybox stat -c %u:%g $d/layers/7; done";
            let owners = output(server.command("/busybox").args(["sh", "-c", seen])).unwrap();
            assert_eq!(owners.lines().collect::<Vec<_>>(), ["7:7"; CONTAINERS], "{suite}");
            assert_eq!(host_mounts(&server), Vec::<String>::new());
        });
        assert_only(&server, before);
        assert_eq!(records(&server, "plywood-storm"), Vec::<String>::new(), "{suite}");
        let run = output(server.command("/busybox").args(["ls", "/run"])).unwrap();
        assert!(!run.contains("plywood"), "{run}");
    }
}

#[test]
fn root_snapshots_of_containerd_mounted_where_it_mounts() {
    require_root();
    let (server, layout) = start(Suite::Sid, false);
    let before = processes_and_mounts(&server);
    // As a storm leaves it that was killed between mounting and removing: no process has that number.
    let left = "b=/busybox; d=/run/plywood-storm-4194305-1-0/one
        $b mkdir -p $d/rootfs $d/scratch/lower && $b mount -t tmpfs t $d/rootfs && $b mount -t tmpfs t $d/scratch/lower";
    output(server.command("/busybox").args(["sh", "-e", "-c", left])).unwrap();
    assert_ne!(processes_and_mounts(&server), before);

    let launcher = containerd::open(config(&server, layout, Part::Rootfs { passes: 2 })).unwrap();
    assert!(launcher.namespace().unwrap().unwrap().size().unwrap().is_none_or(|size| size == before.1));
    storm(&launcher, || {
        let overlays = server.mounts().unwrap().iter().filter(|line| line.contains(" - overlay ")).count();
        assert_eq!(overlays, CONTAINERS);
        assert_eq!(host_mounts(&server), Vec::<String>::new());
    });
    assert_only(&server, before);
    let run = output(server.command("/busybox").args(["ls", "/run"])).unwrap();
    assert!(!run.contains("plywood"), "{run}");
}

#[test]
fn root_pods_of_containerd() {
    require_root();
    let (server, layout) = start(Suite::Sid, true);
    let before = processes_and_mounts(&server);
    let launcher = cri::open(pods(&server, layout)).unwrap();
    // A shim, a pause process and a process each.
    storm(&launcher, || {
        assert!(server.processes().unwrap().len() >= before.0 + 3 * CONTAINERS);
        assert_eq!(maps(&server), own());
    });
    assert_only(&server, before);
}

#[test]
fn root_pods_of_every_containerd_with_the_hosts_ids() {
    require_root();
    for suite in SUITES {
        let (server, layout) = start(suite, true);
        let before = processes_and_mounts(&server);
        let launcher = cri::open(cri::Config { mappings: None, ..pods(&server, layout) }).unwrap();
        storm(&launcher, || {
            assert_eq!(maps(&server), [WHOLE; CONTAINERS], "{suite}");
            assert_eq!(host_mounts(&server), Vec::<String>::new());
        });
        assert_only(&server, before);
        // The pause image is the node's, and so is what containerd may have unpacked of it: one layer.
        let left = records(&server, "k8s.io");
        let ours = |record: &&String| {
            ["storm", "plywood-", "RUNNING", "Active"].iter().any(|word| record.contains(word))
        };
        assert_eq!(left.iter().find(ours), None, "{suite}");
        let layers = left.iter().filter(|record| record.contains("Committed")).count();
        assert!(layers <= 1, "{suite}: {left:#?}");
    }
}

#[test]
fn root_a_containerd_that_copies_is_refused_with_what_can_be_done() {
    require_root();
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let (server, layout) = start(suite, true);
        let before = processes_and_mounts(&server);
        let reason = |error: LauncherError| error.source.to_string();
        let tasks = reason(containerd::open(config(&server, layout.clone(), Part::Task)).unwrap_err());
        assert!(tasks.contains("2.0 and newer map ids by mounts; `--userns host` measures"), "{tasks}");
        let pods = reason(cri::open(pods(&server, layout)).unwrap_err());
        assert!(pods.contains("2.0 and newer have; `--userns host` measures"), "{pods}");
        assert_only(&server, before);
        assert_eq!(records(&server, "plywood-storm"), Vec::<String>::new(), "{suite}");
    }
}

/// What this containerd and its storms have mounted where this machine's other programs live, who mount as they like.
fn host_mounts(server: &Server) -> Vec<String> {
    let name = server.dir().display().to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect()
}
