//! Bystanders see what is done beside them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{MountFd, MountNs, UnmountFlags, table, unmount};
use plywood_storm::bystander::{Bystanders, Config, Observed, those_there};
use rustix::fs::CWD;
use rustix::io::Errno;

const MOUNTS: usize = 50;

/// A path some directories deep.
fn deep(at: &Path) -> PathBuf {
    let path = at.join("a/b/c/d/e/f/g/h");
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn attach(at: &Path, times: usize) {
    for _ in 0..times {
        MountFd::clone_tree(CWD, at, false).unwrap().attach(CWD, at).unwrap();
    }
}

fn detach(at: &Path, times: usize) {
    for _ in 0..times {
        unmount(at, UnmountFlags::DETACH).unwrap();
    }
}

/// Fifty mounts appear, stay longer than it takes to look at the table, and go.
fn fifty(config: &Config, attach: impl Fn(), detach: impl Fn()) -> Observed {
    let bystanders = Bystanders::start(config).unwrap();
    bystanders.begin();
    attach();
    std::thread::sleep(Duration::from_millis(60));
    bystanders.launched();
    detach();
    bystanders.stop().unwrap()
}

fn check(observed: &Observed, mounts_before: usize) {
    let ops = &observed.mount_ops;
    assert_eq!((ops.host_attach, ops.host_detach, ops.exact), (50, 50, true));
    assert_eq!(observed.not_counted, None);
    assert!(ops.attach.unwrap() >= 50 && ops.detach.unwrap() >= 50, "the machine's: {ops:?}");
    assert_eq!(observed.mount_table_peak, mounts_before + MOUNTS);

    assert!(
        !observed.health_ms.is_empty()
            && observed.health_ms.iter().all(|(took, stands)| *took > 0.0 && stands >= took)
    );
    assert!(observed.watcher.wakeups >= 1 && observed.watcher.wakeups <= 100, "{:?}", observed.watcher);
    assert!(observed.watcher.lag_max_ms > 0.0 && observed.watcher.cpu_ms > 0.0, "{:?}", observed.watcher);
    let walks = &observed.path_walk_us;
    assert!(walks.iter().map(|(_, count)| count).sum::<u64>() >= 16, "{walks:?}");
    assert!(walks.is_sorted_by(|a, b| a.0 < b.0), "{walks:?}");

    assert!(observed.measuring_cpu_ms >= observed.watcher.cpu_ms);
    assert!(observed.storm_cpu_ms > 0.0, "mounting is work");
    assert!(observed.context_switches > 0);
}

#[test]
fn root_each_bystander_sees_the_mounts_beside_it() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let walk = deep(dir.path());
    in_private_mount_ns(|| {
        let config = Config::new(None, &walk);
        let before = table::count().unwrap();
        // The counters of a configuration last for many rounds.
        for _ in 0..2 {
            let observed = fifty(&config, || attach(dir.path(), MOUNTS), || detach(dir.path(), MOUNTS));
            check(&observed, before);
            let round = observed.round(3, 2, Duration::from_millis(60), Duration::from_millis(61));
            assert_eq!((round.arm, round.round, round.wall_ms, round.removed_ms), (3, 2, 60.0, 61.0));
        }
    });
}

#[test]
fn root_bystanders_live_where_the_launcher_works() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let walk = deep(dir.path());
    let (theirs, ours) = in_private_mount_ns(|| (MountNs::current().unwrap(), MountNs::current().unwrap()));
    let inside = |work: fn(&Path, usize)| {
        on_own_thread(|| {
            ours.enter().unwrap();
            work(dir.path(), MOUNTS);
        });
    };
    let here = std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let before = ours.size().unwrap().unwrap();
    let observed = fifty(&Config::new(Some(theirs), &walk), || inside(attach), || inside(detach));
    check(&observed, before);
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/mnt").unwrap(), here, "the caller stays where it is");
}

/// A kernel without fanotify mount events, size of a namespace and tracepoints for us: less is known, and that is said.
#[test]
fn root_what_the_kernel_refuses_is_told() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let walk = deep(dir.path());
    on_own_thread(|| {
        let denied = |call, errno| Denied { call, argument: None, errno };
        deny(&[
            denied(libc::SYS_perf_event_open, libc::EACCES),
            denied(libc::SYS_fanotify_init, libc::EPERM),
            denied(libc::SYS_ioctl, libc::ENOTTY),
        ]);
        in_private_mount_ns(|| {
            let config = Config::new(None, &walk);
            let before = table::count().unwrap();
            let bystanders = Bystanders::start(&config).unwrap();
            attach(dir.path(), MOUNTS);
            std::thread::sleep(Duration::from_millis(60));
            detach(dir.path(), MOUNTS - 1);
            let observed = bystanders.stop().unwrap();
            let why = observed.not_counted.unwrap();
            assert!(
                why.starts_with("perf_event_open(") && why.contains("EACCES: Permission denied"),
                "{why}"
            );
            assert_eq!(config.not_counted(), Some(why.as_str()));
            let ops = observed.mount_ops;
            assert_eq!((ops.attach, ops.detach), (None, None));
            assert_eq!((ops.host_attach, ops.host_detach, ops.exact), (1, 0, false));
            assert_eq!(observed.mount_table_peak, before + MOUNTS);
            assert!(observed.watcher.wakeups >= 1);
        });
    });
}

/// A containerd in a root of its own does not have all paths of ours.
#[test]
fn root_paths_are_looked_for_where_bystanders_live() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let (hidden, shown) = (deep(&dir.path().join("hidden")), deep(&dir.path().join("shown")));
    let theirs = in_private_mount_ns(|| {
        // An empty directory over one of them.
        let empty = tempfile::tempdir_in(dir.path()).unwrap();
        let empty = MountFd::clone_tree(CWD, empty.path(), false).unwrap();
        empty.attach(CWD, dir.path().join("hidden")).unwrap();
        MountNs::current().unwrap()
    });
    let paths = vec!["/no/such/path".into(), hidden.clone(), shown.clone()];
    assert_eq!(those_there(None, paths.clone()).unwrap(), [hidden, shown.clone()]);
    assert_eq!(those_there(Some(theirs), paths).unwrap(), [shown]);
}

#[test]
fn root_a_path_that_is_not_there_is_named() {
    require_root();
    for (path, errno) in [("/no/such/path", Errno::NOENT), ("relative", Errno::INVAL)] {
        let error = Bystanders::start(&Config::new(None, path)).unwrap_err();
        assert_eq!(error.errno(), errno);
        assert!(error.call().contains(path), "{error}");
    }
}

/// Times are of the launches alone, and of all of them: not of before, when nothing is in the way, nor of after.
#[test]
fn root_readings_and_lookups_stand_for_the_time_of_the_launches() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(None, deep(dir.path()));
    let pause = || std::thread::sleep(Duration::from_millis(80));
    let observe = |launch: &dyn Fn(&Bystanders)| {
        let bystanders = Bystanders::start(&config).unwrap();
        pause();
        launch(&bystanders);
        pause();
        bystanders.stop().unwrap()
    };
    let nothing = observe(&|_| ());
    assert_eq!((nothing.health_ms, nothing.path_walk_us), (Vec::new(), Vec::new()));

    let elapsed = std::cell::Cell::new(Duration::ZERO);
    let observed = observe(&|bystanders| {
        let begin = Instant::now();
        bystanders.begin();
        pause();
        bystanders.launched();
        elapsed.set(begin.elapsed());
    });
    // The last reading may end later than the launches, and the first begin later.
    let health: f64 = observed.health_ms.iter().map(|(_, stands)| stands).sum();
    let walks = observed.path_walk_us.iter().map(|(_, us)| *us as f64 / 1e3).sum::<f64>();
    for stands in [health, walks] {
        assert!(
            stands > 20.0 && stands < elapsed.get().as_secs_f64() * 1e3 + 70.0,
            "{stands} of {elapsed:?}"
        );
    }
    assert!(observed.health_ms.len() >= 2, "{:?}", observed.health_ms);
}

/// However long the table, what measures rests in proportion. The last rest of each thread is cut short.
#[test]
fn root_measuring_stays_cheap_when_the_table_is_long() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let walk = deep(dir.path());
    // Beside the path that is walked: of mounts stacked in its way each one is a step.
    let at = dir.path().join("table");
    std::fs::create_dir(&at).unwrap();
    in_private_mount_ns(|| {
        attach(&at, 3_000);
        let config = Config::new(None, &walk);
        let begin = Instant::now();
        let bystanders = Bystanders::start(&config).unwrap();
        bystanders.begin();
        while begin.elapsed() < Duration::from_secs(3) {
            attach(&at, 1);
            detach(&at, 1);
        }
        let wall_ms = begin.elapsed().as_secs_f64() * 1e3;
        let observed = bystanders.stop().unwrap();
        println!(
            "{:.1} ms of {wall_ms:.0}; {} health checks of {:.1} ms, {:?}, {} walks, {} operations",
            observed.measuring_cpu_ms,
            observed.health_ms.len(),
            observed.health_ms[0].0,
            observed.watcher,
            observed.path_walk_us.iter().map(|(_, count)| count).sum::<u64>(),
            observed.mount_ops.host_attach,
        );
        let a_reading = observed.watcher.cpu_ms / observed.watcher.wakeups as f64;
        assert!(observed.measuring_cpu_ms < 0.03 * wall_ms + 5.0 * a_reading, "{observed:?}");
        assert!(observed.watcher.lag_max_ms < 0.5 * wall_ms, "rests are no lag");
        assert!(observed.watcher.wakeups >= 2 && observed.health_ms.len() >= 2);
        assert_eq!(observed.mount_ops.host_attach, observed.mount_ops.host_detach);
    });
}
