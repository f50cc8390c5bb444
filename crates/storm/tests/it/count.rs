//! Mount operations counted by the kernel against a known number of them.

use std::path::Path;

use plywood_kernel::perf::Scope;
use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{Kind, MountFd, UnmountFlags, unmount};
use plywood_storm::count::{MountCounter, MountTotals};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move, mount_remount,
};

/// One of each kind that counts, and of each that does not; `at` holds two empty directories, `a` and `b`.
fn one_of_each(at: &Path) -> MountTotals {
    let (a, b) = (at.join("a"), at.join("b"));
    let detach = |path: &Path| unmount(path, UnmountFlags::DETACH).unwrap();
    let magic = MountFlags::from_bits_retain(0xc0ed_0000);

    // Attached: by descriptor, new, new by an old program, bound, moved.
    MountFd::clone_tree(CWD, &a, false).unwrap().attach(CWD, &a).unwrap();
    mount("none", &b, "tmpfs", MountFlags::empty(), None).unwrap();
    mount("none", &b, "tmpfs", magic, None).unwrap();
    mount_bind(&a, &a).unwrap();
    detach(&b);
    mount_move(&a, &b).unwrap();
    // Neither: attributes, propagation, a clone nobody attaches.
    mount_remount(&b, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    mount_change(&b, MountPropagationFlags::PRIVATE).unwrap();
    drop(MountFd::clone_tree(CWD, &b, false).unwrap());
    // Refused: whatever it is.
    mount_bind("/no/such/path", &b).unwrap_err();
    mount("none", &b, "nofs", MountFlags::empty(), None).unwrap_err();
    mount("none", &b, "nofs", magic, None).unwrap_err();
    mount_remount("/no/such/path", MountFlags::BIND, c"").unwrap_err();
    mount_change("/no/such/path", MountPropagationFlags::SHARED).unwrap_err();
    MountFd::clone_tree(CWD, &b, false).unwrap().attach(CWD, "/no/such/path").unwrap_err();
    unmount("/no/such/path", UnmountFlags::DETACH).unwrap_err();
    // Detached: at once and lazily.
    unmount(&b, UnmountFlags::empty()).unwrap();
    detach(&b);
    detach(&a);
    MountTotals { attach: 5, detach: 4 }
}

/// What others did meanwhile is the difference between the machine's count and this thread's.
#[test]
fn root_mount_operations_are_counted_to_the_last() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    in_private_mount_ns(|| {
        let mut mine = MountCounter::open(Scope::ThisThread).unwrap();
        let mut machine = MountCounter::open(Scope::Machine).unwrap();
        let before = machine.read().unwrap();
        assert_eq!(mine.read().unwrap(), MountTotals::default());
        let mut expected = MountTotals::default();
        for round in 0..200 {
            let once = one_of_each(dir.path());
            expected.attach += once.attach;
            expected.detach += once.detach;
            if round % 100 == 0 {
                assert_eq!(mine.read().unwrap(), expected, "and read while it goes on");
            }
        }
        let (mine, all) = (mine.read().unwrap(), machine.read().unwrap().since(before));
        assert_eq!(mine, expected);
        assert!(all.attach >= mine.attach && all.detach >= mine.detach, "{all:?} of all, {mine:?} of these");
        println!("by other programs: {:?}", all.since(mine));
    });
}

/// Threads, each in a mount namespace of its own, on whatever CPUs: the machine's count holds all of them.
#[test]
fn root_every_namespace_counts() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let mut machine = MountCounter::open(Scope::Machine).unwrap();
    let before = machine.read().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let at = dir.path().join(thread.to_string());
            scope.spawn(move || {
                std::fs::create_dir_all(at.join("a")).unwrap();
                std::fs::create_dir(at.join("b")).unwrap();
                in_private_mount_ns(|| {
                    for _ in 0..25 {
                        one_of_each(&at);
                    }
                });
            });
        }
    });
    let all = machine.read().unwrap().since(before);
    assert!(all.attach >= 1000 && all.detach >= 800, "{all:?}");
}

#[test]
fn root_a_kernel_that_will_not_count_says_why() {
    require_root();
    assert!(MountCounter::supported().unwrap());
    on_own_thread(|| {
        deny(&[Denied { call: libc::SYS_perf_event_open, argument: None, errno: libc::EACCES }]);
        let error = MountCounter::open(Scope::Machine).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("syscalls/sys_exit_move_mount"), "{error}");
    });
}
