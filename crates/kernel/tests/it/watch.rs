//! Counting mount events.

use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{MountCounts, MountFd, MountNs, MountWatch, UnmountFlags, unmount};
use rustix::fs::CWD;

fn churn(path: &std::path::Path, rounds: usize) {
    for _ in 0..rounds {
        MountFd::clone_tree(CWD, path, false).unwrap().attach(CWD, path).unwrap();
        unmount(path, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn root_every_attach_and_detach_is_counted_once() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let mut watch = MountWatch::start().unwrap();
        assert!(watch.is_exact());
        assert_eq!(watch.counts().unwrap(), MountCounts::default());
        churn(dir.path(), 201);
        assert_eq!(watch.counts().unwrap(), MountCounts { attached: 201, detached: 201 });
        churn(dir.path(), 1);
        MountFd::clone_tree(CWD, dir.path(), false).unwrap().attach(CWD, dir.path()).unwrap();
        assert_eq!(watch.counts().unwrap(), MountCounts { attached: 203, detached: 202 });
    });
}

#[test]
fn root_more_events_than_the_default_queue_holds() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let mut watch = MountWatch::start().unwrap();
        // The default limit is 16,384 events.
        churn(dir.path(), 8_500);
        assert_eq!(watch.counts().unwrap().total(), 17_000);
    });
}

#[test]
fn root_other_namespaces_are_not_counted() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let mut watch = MountWatch::start().unwrap();
        in_private_mount_ns(|| {
            churn(dir.path(), 3);
            // Events are counted from whatever namespace one asks.
            assert_eq!(watch.counts().unwrap().total(), 0);
        });
        assert_eq!(watch.counts().unwrap().total(), 0);
        churn(dir.path(), 1);
        assert_eq!(watch.counts().unwrap().total(), 2);
    });
}

#[test]
fn root_without_events_tables_are_compared() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    on_own_thread(|| {
        // What a kernel before 6.15 answers to the unknown flag.
        deny(&[Denied { call: libc::SYS_fanotify_init, argument: None, errno: libc::EINVAL }]);
        in_private_mount_ns(|| {
            assert!(MountWatch::start_events(&MountNs::current().unwrap()).unwrap().is_none());
            let mut watch = MountWatch::start().unwrap();
            assert!(!watch.is_exact());
            churn(dir.path(), 3);
            assert_eq!(watch.counts().unwrap().total(), 0, "what came and went is not seen");
            MountFd::clone_tree(CWD, dir.path(), false).unwrap().attach(CWD, dir.path()).unwrap();
            // The watch stays with its namespace, whichever thread asks.
            let counts = on_own_thread(|| watch.counts().unwrap());
            assert_eq!(counts, MountCounts { attached: 1, detached: 0 });
        });
    });
}

#[test]
fn root_a_missing_privilege_is_an_error_not_a_no() {
    require_root();
    on_own_thread(|| {
        deny(&[Denied { call: libc::SYS_fanotify_init, argument: None, errno: libc::EPERM }]);
        let error = MountWatch::start().unwrap_err();
        assert_eq!(error.kind(), plywood_kernel::Kind::Denied);
    });
}
