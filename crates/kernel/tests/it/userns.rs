//! User namespaces: their maps, both ways to their descriptor, and what is left behind (nothing).

use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use plywood_kernel::testing::{deny_syscalls, on_own_thread, require_root};
use plywood_kernel::userns::maps_in_use;
use plywood_kernel::{IdMap, IdMapping, IdRange, Kind, UserNs};
use rustix::io::Errno;

fn map() -> IdMap {
    IdMap::from_ranges(IdRange { start: 200_000, length: 65_536 }, IdRange { start: 300_000, length: 1_000 })
}

/// What a process inside sees: its own maps and whether setgroups works.
fn seen_inside(ns: &UserNs) -> String {
    let namespace = format!("--user=/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    let output = Command::new("nsenter")
        .args([
            &namespace,
            "--preserve-credentials",
            "cat",
            "/proc/self/uid_map",
            "/proc/self/gid_map",
            "/proc/self/setgroups",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let words: Vec<String> =
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
    words.join(" ")
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of any kind, also those without an exit signal.
fn assert_no_children() {
    let mut found = String::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        found += &std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
    }
    assert_eq!(found, "", "children left behind");
}

#[test]
fn root_a_namespace_has_its_maps_and_allows_setgroups() {
    require_root();
    let ns = UserNs::create(&map()).unwrap();
    assert_no_children();
    assert_eq!(seen_inside(&ns), "0 200000 65536 0 300000 1000 allow");
}

#[test]
fn root_a_map_of_several_lines() {
    require_root();
    let line = |inside, outside, length| IdMapping { inside, outside, length };
    let uid = vec![line(0, 500_000, 10), line(100, 0, 1), line(1000, 600_000, 5)];
    let ns = UserNs::create(&IdMap { uid, gid: vec![line(7, 700_000, 1)] }).unwrap();
    assert_eq!(seen_inside(&ns), "0 500000 10 100 0 1 1000 600000 5 7 700000 1 allow");
}

#[test]
fn root_without_the_pidfd_ioctl_the_descriptor_comes_from_proc() {
    require_root();
    let ns = on_own_thread(|| {
        deny_syscalls(&[libc::SYS_ioctl]);
        UserNs::create(&map())
    })
    .unwrap();
    assert_no_children();
    assert_eq!(seen_inside(&ns), "0 200000 65536 0 300000 1000 allow");
}

#[test]
fn root_a_refused_map_leaves_neither_child_nor_descriptor() {
    require_root();
    let mut map = map();
    map.gid.push(IdMapping { inside: 10, outside: 400_000, length: 10 });
    let before = open_descriptors();
    let error = UserNs::create(&map).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.call().contains("gid_map") && error.call().contains("10 400000 10"), "{error}");
    assert_no_children();
    assert_eq!(open_descriptors(), before);
}

#[test]
fn root_a_refused_clone_is_denied_or_exhausted_not_unsupported() {
    require_root();
    let error = on_own_thread(|| {
        plywood_kernel::testing::deny(&[plywood_kernel::testing::Denied {
            call: libc::SYS_clone,
            argument: None,
            errno: libc::ENOSPC,
        }]);
        UserNs::create(&map()).unwrap_err()
    });
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.to_string().starts_with("clone(CLONE_VM|"), "{error}");
}

#[test]
fn root_many_threads_make_many() {
    require_root();
    let before = open_descriptors();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    UserNs::create(&map()).unwrap();
                }
            });
        }
    });
    assert_no_children();
    assert_eq!(open_descriptors(), before);
}

/// A process that ended while it was looked at used to make its namespace known without its maps, and the processes
/// still living there were passed over.
#[test]
fn root_maps_are_seen_while_processes_of_the_namespace_end() {
    require_root();
    let map = IdMap::from_ranges(
        IdRange { start: 2_234_500, length: 77 },
        IdRange { start: 2_334_500, length: 78 },
    );
    let ns = UserNs::create(&map).unwrap();
    let namespace = format!("--user=/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    // Children come and go before the one that stays, which has the higher pid most of the time.
    let script = "while :; do /bin/true & /bin/true & wait; done & exec sleep 60";
    let mut child = Command::new("setsid")
        .args(["nsenter", &namespace, "--preserve-credentials", "sh", "-c", script])
        .spawn()
        .unwrap();
    while !maps_in_use().unwrap().contains(&map) {
        assert_eq!(child.try_wait().unwrap(), None, "nsenter failed");
    }
    let missed = (0..3_000).filter(|_| !maps_in_use().unwrap().contains(&map)).count();
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    assert_eq!(missed, 0);
}

#[test]
fn root_the_maps_of_living_processes_are_seen() {
    require_root();
    let map = IdMap::from_ranges(
        IdRange { start: 1_234_500, length: 77 },
        IdRange { start: 1_334_500, length: 78 },
    );
    let ns = UserNs::create(&map).unwrap();
    assert!(!maps_in_use().unwrap().contains(&map), "nobody is in it yet");
    let namespace = format!("--user=/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    let mut child =
        Command::new("nsenter").args([&namespace, "--preserve-credentials", "sleep", "60"]).spawn().unwrap();
    while !maps_in_use().unwrap().contains(&map) {
        assert_eq!(child.try_wait().unwrap(), None, "nsenter failed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!maps_in_use().unwrap().contains(&map));
}
