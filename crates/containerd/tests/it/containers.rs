//! Containers with id mappings in real containerds, and that nothing of them stays.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plywood_containerd::{
    Client, ConnectError, ImageError, Kind, Mounting, NAMESPACE, Rootfs, Session, SessionError,
};
use plywood_kernel::testing::require_root;
use plywood_kernel::{IdMap, IdRange};
use plywood_xtask::containerd::{SUITES, Server, Settings, Suite, Tree, small_image};
use plywood_xtask::proc::output;

pub(crate) const IMAGE: &str = "plywood.test/small:latest";
const LAYERS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a test body run in a process of its own: see [`root_what_a_killed_process_left_is_removed`].
const LEAVE: &str = "PLYWOOD_TEST_LEAVE";

pub(crate) fn start(suite: Suite, settings: &Settings) -> Server {
    Server::start(Tree::open(suite).unwrap(), settings).unwrap()
}

/// A layout of the image in the server's directory.
pub(crate) fn layout(server: &Server) -> std::path::PathBuf {
    let layout = server.dir().join("layout");
    small_image(&layout, IMAGE, LAYERS, &["/bin/true"]).unwrap();
    layout
}

pub(crate) fn mapping() -> IdMap {
    IdMap::from_ranges(IdRange { start: 200_000, length: 65_536 }, IdRange { start: 400_000, length: 65_536 })
}

/// What fails inside a container unless it has that mapping, and sees each layer with its owner.
pub(crate) fn check() -> Vec<String> {
    let script = "grep -q '^ *0 *200000 *65536$' /proc/self/uid_map || exit 1
        grep -q '^ *0 *400000 *65536$' /proc/self/gid_map || exit 2
        for n in 0 1 2 3 4; do [ $(stat -c %u:%g /layers/$n) = $n:$n ] || exit 3; done
        touch /new || exit 4";
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// What there is of a containerd besides itself: mounts, processes, control groups, and records in a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: usize,
    processes: usize,
    groups: usize,
    records: Vec<String>,
}

pub(crate) fn traces(server: &Server, namespace: &str) -> Traces {
    let directories = |group: std::path::PathBuf| {
        std::fs::read_dir(group).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    let lists = ["containers", "images", "leases", "snapshots", "tasks"].map(|kind| {
        let command = if kind == "tasks" { "list" } else { "ls" };
        output(server.ctr(namespace).args([kind, command])).unwrap()
    });
    // The first line of each is a heading.
    let records = lists.iter().flat_map(|list| list.lines().skip(1).map(str::to_owned)).collect();
    Traces {
        mounts: server.mounts().unwrap().len(),
        processes: server.processes().unwrap().len(),
        groups: server.control_groups().into_iter().map(directories).sum(),
        records,
    }
}

/// Shims end, and the kernel notices that groups are empty, a little after they are told to.
pub(crate) fn assert_nothing_but(server: &Server, namespace: &str, before: &Traces) {
    let start = Instant::now();
    loop {
        let now = traces(server, namespace);
        if now == *before {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "before {before:#?}, now {now:#?}\n{:#?}",
            server.mounts()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn root_a_container_with_a_mapping_of_its_own_and_nothing_left() {
    require_root();
    let server = start(Suite::Sid, &Settings::default());
    let client = Client::connect(&server.socket()).unwrap();
    assert_eq!(client.pid(), Some(server.pid()));
    let before = traces(&server, NAMESPACE);

    let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
    assert!(session.snapshotter().maps_ids(), "{:?}", session.snapshotter());
    let image = session.import(&layout(&server), None).unwrap();
    assert_eq!((image.name.as_str(), image.chain.len()), (IMAGE, LAYERS));
    let snapshot = session.prepare("one", &image, Some(&mapping())).unwrap();
    let Rootfs::Overlay { lower, upper, mapping: told, .. } = snapshot.rootfs().unwrap() else {
        panic!("no overlay: {:?}", snapshot.rootfs())
    };
    assert_eq!((lower.len(), told), (LAYERS, Some(mapping())));
    let task = snapshot.start(&check()).unwrap();
    assert_eq!(task.wait(PATIENCE).unwrap(), 0, "{}", server.log());
    // Directories are bound at their own paths, so this is the host's view.
    let new = std::fs::metadata(upper.unwrap().join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (200_000, 400_000));
    task.remove().unwrap();

    // One that runs when it is dropped.
    let sleep = ["/bin/sleep", "1000"].map(str::to_owned);
    let task = session.prepare("two", &image, Some(&mapping())).unwrap().start(&sleep).unwrap();
    assert!(traces(&server, NAMESPACE).processes > before.processes && task.pid() > 0);
    drop(task);
    session.close().unwrap();
    assert_nothing_but(&server, NAMESPACE, &before);
}

#[test]
fn root_a_container_that_cannot_start_leaves_nothing() {
    require_root();
    let server = start(Suite::Sid, &Settings::default());
    let client = Client::connect(&server.socket()).unwrap();
    let before = traces(&server, NAMESPACE);
    let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
    let image = session.import(&layout(&server), Some(IMAGE)).unwrap();
    let snapshot = session.prepare("one", &image, Some(&mapping())).unwrap();
    let error = snapshot.start(&["/no/such/program".to_owned()]).unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{}", error.message());
    drop(session);
    assert_nothing_but(&server, NAMESPACE, &before);
}

#[test]
fn root_old_containerds_run_containers_and_say_that_they_cannot_map() {
    require_root();
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let server = start(suite, &Settings::default());
        let client = Client::connect(&server.socket()).unwrap();
        assert_eq!(client.version().mounting(), Mounting::Copies);
        assert!(server.tree().version().starts_with(&client.version().to_string()), "{}", client.version());
        let before = traces(&server, NAMESPACE);
        let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
        assert!(!session.snapshotter().maps_ids());
        let image = session.import(&layout(&server), None).unwrap();
        let args = ["/bin/stat", "/layers/4"].map(str::to_owned);
        let task = session.prepare("one", &image, None).unwrap().start(&args).unwrap();
        assert_eq!(task.wait(PATIENCE).unwrap(), 0, "{}", server.log());
        task.remove().unwrap();
        session.close().unwrap();
        assert_nothing_but(&server, NAMESPACE, &before);
    }
}

#[test]
fn root_an_image_of_another_namespace_is_borrowed() {
    require_root();
    for suite in SUITES {
        let server = start(suite, &Settings::default());
        let client = Client::connect(&server.socket()).unwrap();
        let before = traces(&server, NAMESPACE);
        let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
        assert!(matches!(session.image(IMAGE), Err(ImageError::Missing(name)) if name == IMAGE));
        server.import(&layout(&server), "default").unwrap();
        // As people write it, and as every tool keeps it.
        let full = server.dir().join("full");
        small_image(&full, "docker.io/real/img:1", 1, &["/bin/true"]).unwrap();
        server.import(&full, "default").unwrap();
        let elsewhere = traces(&server, "default");
        assert_eq!(session.image(IMAGE).unwrap().chain.len(), LAYERS, "{suite}");
        assert_eq!(session.image("real/img:1").unwrap().name, "docker.io/real/img:1", "{suite}");
        assert!(matches!(session.image("img:1"), Err(ImageError::Missing(name)) if name == "img:1"));
        session.close().unwrap();
        assert_nothing_but(&server, NAMESPACE, &before);
        assert_nothing_but(&server, "default", &elsewhere);
    }
}

#[test]
fn root_a_snapshotter_that_is_not_there_is_refused_with_those_that_are() {
    require_root();
    let server = start(Suite::Sid, &Settings::default());
    let client = Client::connect(&server.socket()).unwrap();
    match Session::open(&client, NAMESPACE, "plywood") {
        Err(SessionError::Snapshotter { name, there }) => {
            assert_eq!(name, "plywood");
            assert!(there.contains(&"overlayfs".to_owned()), "{there:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// One whose removal failed is held by nobody any more, and has the session's label. What another session of this process
/// has is its own.
#[test]
fn root_closing_removes_what_could_not_be_removed() {
    require_root();
    let server = start(Suite::Sid, &Settings::default());
    let client = Client::connect(&server.socket()).unwrap();
    let before = traces(&server, NAMESPACE);
    let [session, other] = [(); 2].map(|()| Session::open(&client, NAMESPACE, "overlayfs").unwrap());
    let image = session.import(&layout(&server), None).unwrap();
    let sleep = ["/bin/sleep", "1000"].map(str::to_owned);
    let lost = session.prepare("lost", &image, Some(&mapping())).unwrap().start(&sleep).unwrap();
    std::mem::forget(lost);
    let image = other.image(IMAGE).unwrap();
    let kept = other.prepare("kept", &image, Some(&mapping())).unwrap().start(&sleep).unwrap();
    session.close().unwrap();
    let there = traces(&server, NAMESPACE).records;
    let named = |name: &str| there.iter().any(|record| record.starts_with(name));
    assert!(named("kept") && !named("lost"), "{there:#?}");
    kept.remove().unwrap();
    other.close().unwrap();
    assert_nothing_but(&server, NAMESPACE, &before);
}

/// A containerd that has been stopped answers nobody: who has asked to stop is not kept waiting, and told; once it goes
/// on, closing again takes everything back.
#[test]
fn root_a_silent_containerd_keeps_nobody_who_has_asked_to_stop() {
    require_root();
    let server = start(Suite::Sid, &Settings::default());
    let before = traces(&server, NAMESPACE);
    let stop = Arc::new(AtomicBool::new(false));
    let client = Client::connect_until(&server.socket(), Arc::clone(&stop)).unwrap();
    let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
    let image = session.import(&layout(&server), None).unwrap();
    let sleep = ["/bin/sleep", "1000"].map(str::to_owned);
    let task = session.prepare("one", &image, Some(&mapping())).unwrap().start(&sleep).unwrap();
    signal(&server, "STOP");
    let asked = std::thread::scope(|scope| {
        let making = scope.spawn(|| session.prepare("two", &image, Some(&mapping())).map(drop).unwrap_err());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!making.is_finished(), "a stopped containerd has answered");
        stop.store(true, Ordering::Relaxed);
        let asked = Instant::now();
        let error = making.join().unwrap();
        assert_eq!((error.kind(), error.message()), (Kind::Late, "asked to stop"));
        asked
    });
    let error = task.remove().unwrap_err();
    assert!(error.message().contains("answered nothing for"), "{}", error.message());
    let error = session.close().unwrap_err();
    assert!(error.message().contains("answered nothing for"), "{}", error.message());
    assert!(session.left().contains("plywood.session="), "{}", session.left());
    assert!(matches!(Client::connect_until(&server.socket(), stop), Err(ConnectError::Stopped { .. })));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    signal(&server, "CONT");
    let start = Instant::now();
    while let Err(error) = session.close() {
        assert!(start.elapsed() < PATIENCE, "{error}: {}", error.message());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_nothing_but(&server, NAMESPACE, &before);
}

fn signal(server: &Server, name: &str) {
    output(Command::new("kill").args([&format!("-{name}"), &server.pid().to_string()])).unwrap();
}

/// The test starts itself as another process, which starts a container and is killed.
#[test]
fn root_what_a_killed_process_left_is_removed() {
    require_root();
    if let Some(dir) = std::env::var_os(LEAVE) {
        leave(dir.as_ref());
    }
    let server = start(Suite::Sid, &Settings::default());
    let client = Client::connect(&server.socket()).unwrap();
    let before = traces(&server, NAMESPACE);
    layout(&server);
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "containers::root_what_a_killed_process_left_is_removed"])
        .env(LEAVE, server.dir())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !server.dir().join("started").exists() {
        assert!(start.elapsed() < PATIENCE && other.try_wait().unwrap().is_none(), "{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    // While it lives, what it has is its own.
    Session::open(&client, NAMESPACE, "overlayfs").unwrap().close().unwrap();
    assert!(traces(&server, NAMESPACE).records.iter().any(|record| record.contains("left")));
    other.kill().unwrap();
    other.wait().unwrap();
    Session::open(&client, NAMESPACE, "overlayfs").unwrap().close().unwrap();
    assert_nothing_but(&server, NAMESPACE, &before);
}

fn leave(dir: &std::path::Path) -> ! {
    let client = Client::connect(&dir.join("containerd.sock")).unwrap();
    let session = Session::open(&client, NAMESPACE, "overlayfs").unwrap();
    let image = session.import(&dir.join("layout"), None).unwrap();
    let sleep = ["/bin/sleep", "1000"].map(str::to_owned);
    let task = session.prepare("left", &image, Some(&mapping())).unwrap().start(&sleep).unwrap();
    std::fs::write(dir.join("started"), "").unwrap();
    std::thread::sleep(PATIENCE);
    panic!("nobody killed this process: {task:?}");
}
