//! Storms of a real containerd and of its CRI: rounds start, mount where they should, and leave nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use plywood_kernel::testing::require_root;
use plywood_kernel::{IdMap, IdRange};
use plywood_storm::launcher::containerd::{self, Config, Part, Source};
use plywood_storm::launcher::{Launcher, Round, cri};
use plywood_xtask::containerd::{Server, Settings, Suite, Tree, small_image};
use plywood_xtask::proc::output;

const CONTAINERS: usize = 8;
const LAYERS: usize = 12;

fn start(suite: Suite, pods: bool) -> (Server, PathBuf) {
    let server =
        Server::start(Tree::open(suite).unwrap(), &Settings { pods, ..Settings::default() }).unwrap();
    let layout = server.dir().join("layout");
    small_image(&layout, "plywood.test/storm:latest", LAYERS, &["/bin/sleep", "1000"]).unwrap();
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
        mappings: mappings(),
    }
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
    storm(&launcher, || assert!(server.processes().unwrap().len() >= before.0 + 2 * CONTAINERS));
    assert_only(&server, before);
}

#[test]
fn root_snapshots_of_containerd_mounted_where_it_mounts() {
    require_root();
    let (server, layout) = start(Suite::Sid, false);
    let (before, host) = (processes_and_mounts(&server), host_mounts());
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
        assert_eq!(host_mounts(), host);
    });
    assert_only(&server, before);
    let run = output(server.command("/busybox").args(["ls", "/run"])).unwrap();
    assert!(!run.contains("plywood"), "{run}");
}

#[test]
fn root_pods_of_containerd() {
    require_root();
    let (server, layout) = start(Suite::Sid, true);
    let config = cri::Config {
        socket: server.socket(),
        snapshotter: "overlayfs".into(),
        image: Source::Layout(layout, None),
        command: Vec::new(),
        mappings: mappings(),
    };
    let before = processes_and_mounts(&server);
    let launcher = cri::open(config).unwrap();
    // A shim, a pause process and a process each.
    storm(&launcher, || assert!(server.processes().unwrap().len() >= before.0 + 3 * CONTAINERS));
    assert_only(&server, before);
}

#[test]
fn root_a_containerd_that_copies_is_refused_with_the_version_that_does_not() {
    require_root();
    let (server, layout) = start(Suite::Trixie, false);
    let error = containerd::open(config(&server, layout, Part::Task)).unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("2.0 and newer map ids by mounts"), "{reason}");
}

fn host_mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}
