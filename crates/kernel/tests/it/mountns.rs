//! Mount namespaces, and launching from one thread again and again.

use std::path::{Path, PathBuf};
use std::process::Command;

use plywood_kernel::mountns::unshare_current_thread;
use plywood_kernel::testing::{
    Denied, deny, in_private_mount_ns, in_shared_mount_ns, on_own_thread, require_root,
};
use plywood_kernel::{FsContext, MountAttrs, MountFd, MountNs, MountWatch, table};
use rustix::fs::CWD;

/// Runs a test whose host is a namespace nobody else mounts in, and checks that the host saw nothing.
fn unseen_by_the_host(test: impl FnOnce() + Send) {
    in_private_mount_ns(|| {
        let before = table::count().unwrap();
        let mut host = MountWatch::start().unwrap();
        assert!(host.is_exact());
        test();
        assert_eq!(table::count().unwrap(), before);
        assert_eq!(host.counts().unwrap().total(), 0);
    });
}

/// The mount points seen from within.
fn points(ns: &MountNs) -> Vec<PathBuf> {
    on_own_thread(|| {
        ns.enter().unwrap();
        let mut points: Vec<PathBuf> =
            table::list().unwrap().into_iter().map(|entry| entry.mount_point).collect();
        points.sort();
        points
    })
}

fn tmpfs_with(file: &str) -> MountFd {
    let context = FsContext::open("tmpfs").unwrap();
    context.create().unwrap();
    let mount = context.mount(MountAttrs::NONE).unwrap();
    rustix::fs::openat(
        &mount,
        file,
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    mount
}

#[test]
fn root_a_minimal_namespace_holds_only_what_is_kept() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    unseen_by_the_host(|| {
        let ns = MountNs::minimal(&[Path::new("/proc"), dir.path()]).unwrap();
        assert_eq!(points(&ns), [PathBuf::from("/"), PathBuf::from("/proc")]);
        let ns = MountNs::minimal(&[Path::new("/sys/kernel"), Path::new("/no/such/path")]).unwrap();
        assert_eq!(points(&ns), [PathBuf::from("/"), PathBuf::from("/sys")]);
        on_own_thread(|| {
            ns.enter().unwrap();
            assert_eq!(std::env::current_dir().unwrap(), PathBuf::from("/"));
            assert!(!Path::new("/proc/self").exists());
            assert!(dir.path().exists());
        });
    });
}

#[test]
fn root_every_kept_mount_is_there_with_its_contents_and_flags() {
    require_root();
    let entries = table::list().unwrap();
    let keep = table::points_below(&entries, Path::new("/"));
    let ns = MountNs::minimal(&keep).unwrap();
    let mut visible: Vec<PathBuf> = keep.iter().map(|point| point.to_path_buf()).collect();
    visible.sort();
    assert_eq!(points(&ns), visible, "each point once, stacked ones by their top");
    let inside = on_own_thread(|| {
        ns.enter().unwrap();
        table::list().unwrap()
    });
    for point in keep {
        let outer = table::covering(&entries, point).unwrap();
        let inner = table::covering(&inside, point).unwrap();
        assert_eq!((&outer.device, &outer.root), (&inner.device, &inner.root), "{point:?}");
        assert_eq!(outer.options, inner.options, "{point:?}");
        assert!(!inner.propagates);
    }
}

#[test]
fn root_symlinks_in_kept_paths_are_resolved() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
    let ns = MountNs::minimal(&[&dir.path().join("link/self")]).unwrap();
    assert_eq!(points(&ns), [PathBuf::from("/"), PathBuf::from("/proc")]);
}

#[test]
fn root_a_root_that_cannot_be_pivoted_is_copied_whole() {
    require_root();
    let count = table::count().unwrap();
    let ns = on_own_thread(|| {
        deny(&[Denied { call: libc::SYS_pivot_root, argument: None, errno: libc::EINVAL }]);
        MountNs::minimal(&[Path::new("/proc")])
    })
    .unwrap();
    assert_eq!(points(&ns).len(), count);
    assert_eq!(table::count().unwrap(), count);
}

/// Namespaces of tests are private, and so is `/` of some hosts: what was not cut off from its peers was not seen there,
/// and covered the root of every host whose `/` is shared.
#[test]
fn root_where_mounts_are_shared_nothing_comes_back() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let ids = || table::list().unwrap().into_iter().map(|entry| entry.id).collect::<Vec<_>>();
    in_shared_mount_ns(|| {
        let before = ids();
        let mut host = MountWatch::start().unwrap();
        assert!(host.is_exact());
        let keep = [Path::new("/proc"), Path::new("/dev"), dir.path()];
        let uncut = on_own_thread(|| {
            deny(&[Denied { call: libc::SYS_pivot_root, argument: None, errno: libc::EINVAL }]);
            MountNs::minimal(&keep).unwrap()
        });
        for template in [MountNs::minimal(&keep).unwrap(), uncut] {
            on_own_thread(|| {
                template.enter().unwrap();
                unshare_current_thread().unwrap();
                tmpfs_with("inside").attach(CWD, dir.path()).unwrap();
                assert!(dir.path().join("inside").exists());
            });
        }
        assert_eq!((host.counts().unwrap().total(), ids()), (0, before));
        // The watch would have seen it: a copy that is not cut off shows what is mounted in it.
        on_own_thread(|| {
            unshare_current_thread().unwrap();
            tmpfs_with("shared").attach(CWD, dir.path()).unwrap();
        });
        assert_eq!(host.counts().unwrap().attached, 1);
        assert!(dir.path().join("shared").exists());
    });
}

/// Three launches on one thread: each child sees the rootfs of its own launch only, the host sees nothing.
#[test]
fn root_one_thread_launches_again_and_again() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let anchor = path.join("rootfs");
    std::fs::create_dir(&anchor).unwrap();

    let cwd = std::env::current_dir().unwrap();
    unseen_by_the_host(|| {
        let template = MountNs::minimal(&[&path, Path::new("/proc"), Path::new("/dev")]).unwrap();
        let template_mounts = points(&template).len();
        let seen: Vec<String> = on_own_thread(|| {
            (0..3)
                .map(|round| {
                    template.enter().unwrap();
                    unshare_current_thread().unwrap();
                    tmpfs_with(&format!("round-{round}")).attach(CWD, &anchor).unwrap();
                    let script = "ls $1; pwd; wc -l < /proc/self/mountinfo";
                    let child = Command::new("sh").args(["-c", script, "sh"]).arg(&anchor).output().unwrap();
                    assert!(child.status.success(), "{child:?}");
                    String::from_utf8(child.stdout).unwrap()
                })
                .collect()
        });
        for (round, output) in seen.iter().enumerate() {
            assert_eq!(*output, format!("round-{round}\n/\n{}\n", template_mounts + 1));
        }
        assert_eq!(points(&template).len(), template_mounts, "the template stays clean");
    });
    assert_eq!(std::env::current_dir().unwrap(), cwd, "other threads are not moved");
}

#[test]
fn root_two_threads_launch_at_once() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let template = MountNs::minimal(&[&path, Path::new("/dev")]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (template, path) = (&template, &path);
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("{thread}-{round}");
                    template.enter().unwrap();
                    unshare_current_thread().unwrap();
                    tmpfs_with(&name).attach(CWD, path).unwrap();
                    let child = Command::new("ls").arg(path).output().unwrap();
                    assert_eq!(String::from_utf8(child.stdout).unwrap().trim(), name);
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn root_current_is_the_threads_own() {
    require_root();
    let inode = |ns: &MountNs| rustix::fs::fstat(ns).unwrap().st_ino;
    let host = MountNs::current().unwrap();
    on_own_thread(|| {
        unshare_current_thread().unwrap();
        assert_ne!(inode(&MountNs::current().unwrap()), inode(&host));
        host.enter().unwrap();
        assert_eq!(inode(&MountNs::current().unwrap()), inode(&host));
    });
    assert_eq!(inode(&MountNs::current().unwrap()), inode(&host));
}

#[test]
fn root_the_size_of_a_namespace_is_that_of_its_table() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let ns = MountNs::current().unwrap();
        let before = table::count().unwrap();
        assert_eq!(ns.size().unwrap(), Some(before));
        MountFd::clone_tree(CWD, dir.path(), false).unwrap().attach(CWD, dir.path()).unwrap();
        // Told of any namespace, to whoever holds its descriptor.
        on_own_thread(|| {
            MountNs::minimal(&[]).unwrap().enter().unwrap();
            assert_eq!(ns.size().unwrap(), Some(before + 1));
        });
    });
    on_own_thread(|| {
        deny(&[Denied { call: libc::SYS_ioctl, argument: None, errno: libc::ENOTTY }]);
        assert_eq!(MountNs::current().unwrap().size().unwrap(), None);
    });
}
