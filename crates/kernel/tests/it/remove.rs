//! Removing trees: everything of ours, nothing of anybody else's.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{IdMap, IdRange, Kind, MountFd, UnmountFlags, UserNs, empty_tree, remove_tree, unmount};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// An empty directory and a descriptor of it.
fn parent() -> (tempfile::TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    (dir, fd)
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_tree_of_all_kinds_is_removed_and_symlinks_are_not_followed() {
    let (dir, fd) = parent();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for number in 0..3_000 {
        fs::write(tree.join(format!("a/file-{number}")), "").unwrap();
    }
    symlink(&outside, tree.join("a/absolute")).unwrap();
    symlink("../../../outside", tree.join("a/b/relative")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    rustix::fs::mknodat(CWD, tree.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::hard_link(outside.join("precious"), tree.join("link")).unwrap();

    remove_tree(&fd, "tree").unwrap();
    assert_eq!(names(dir.path()), ["outside"]);
    assert_eq!(names(&outside), ["precious"]);
}

#[test]
fn a_tree_deeper_than_descriptors_and_paths_reach() {
    let (dir, fd) = parent();
    rustix::fs::mkdirat(&fd, "tree", Mode::RWXU).unwrap();
    let mut at = rustix::fs::openat(&fd, "tree", OFlags::DIRECTORY, Mode::empty()).unwrap();
    for level in 0..3_000 {
        rustix::fs::mkdirat(&at, "directory", Mode::RWXU).unwrap();
        if level % 50 == 0 {
            rustix::fs::mkdirat(&at, ".plywood-removing-0", Mode::RWXU).unwrap();
            rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        }
        at = rustix::fs::openat(&at, "directory", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(at);
    remove_tree(&fd, "tree").unwrap();
    assert!(names(dir.path()).is_empty());
}

#[test]
fn only_one_name_that_is_a_directory() {
    let (dir, fd) = parent();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("a", dir.path().join("link")).unwrap();
    for name in ["a/b", "..", ".", "", "/", "/a"] {
        assert_eq!(remove_tree(&fd, name).unwrap_err().errno(), Errno::INVAL, "{name}");
    }
    assert_eq!(remove_tree(&fd, "file").unwrap_err().errno(), Errno::NOTDIR);
    assert!(matches!(remove_tree(&fd, "link").unwrap_err().errno(), Errno::LOOP | Errno::NOTDIR));
    assert_eq!(remove_tree(&fd, "missing").unwrap_err().kind(), Kind::Missing);
    assert!(dir.path().join("a/b").is_dir());
}

#[test]
fn root_a_mount_in_the_tree_ends_the_removal_before_it() {
    require_root();
    let (dir, fd) = parent();
    for name in ["precious", "tree/mounted"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("precious/file"), "x").unwrap();
    in_private_mount_ns(|| {
        // Opened here: a descriptor belongs to the namespace it was opened in.
        let fd = File::open(dir.path()).unwrap();
        let clone = MountFd::clone_tree(CWD, dir.path().join("precious"), false).unwrap();
        clone.attach(CWD, dir.path().join("tree/mounted")).unwrap();
        let error = remove_tree(&fd, "tree").unwrap_err();
        assert_eq!(error.errno(), Errno::XDEV, "{error}");
        assert!(dir.path().join("tree/mounted/file").exists());
        // A mount on the directory itself.
        assert_eq!(
            remove_tree(File::open(dir.path().join("tree")).unwrap(), "mounted").unwrap_err().errno(),
            Errno::XDEV
        );
    });
    assert!(dir.path().join("precious/file").exists());
    remove_tree(&fd, "tree").unwrap();
}

/// Data of images was once deleted through a temporary idmapped mount; here neither an attached nor a detached
/// one can be the way in.
#[test]
fn root_idmapped_and_detached_mounts_are_refused() {
    require_root();
    let (dir, _) = parent();
    fs::create_dir_all(dir.path().join("layers/tree")).unwrap();
    fs::create_dir(dir.path().join("at")).unwrap();
    fs::write(dir.path().join("layers/tree/file"), "x").unwrap();
    in_private_mount_ns(|| {
        let detached = MountFd::clone_tree(CWD, dir.path().join("layers"), false).unwrap();
        assert_eq!(remove_tree(&detached, "tree").unwrap_err().errno(), Errno::XDEV);

        let range = IdRange { start: 0, length: 65_536 };
        let identity = UserNs::create(&IdMap::from_ranges(range, range)).unwrap();
        detached.set_idmap(&identity).unwrap();
        assert_eq!(remove_tree(&detached, "tree").unwrap_err().errno(), Errno::XDEV);
        detached.attach(CWD, dir.path().join("at")).unwrap();
        let error = remove_tree(File::open(dir.path().join("at")).unwrap(), "tree").unwrap_err();
        assert_eq!(error.errno(), Errno::XDEV, "{error}");
    });
    assert!(dir.path().join("layers/tree/file").exists());
}

#[test]
fn a_directory_is_emptied_and_stays() {
    let (dir, fd) = parent();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/file"), "").unwrap();
    symlink("a", dir.path().join("link")).unwrap();
    let deep: std::path::PathBuf = std::iter::repeat_n("deep", 200).collect();
    fs::create_dir_all(dir.path().join(deep)).unwrap();
    empty_tree(&fd).unwrap();
    assert!(names(dir.path()).is_empty());
    empty_tree(&fd).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(empty_tree(File::open(dir.path().join("file")).unwrap()).unwrap_err().errno(), Errno::NOTDIR);
}

/// A directory is opened by path before it is emptied: whatever has been mounted there, not a file of it goes.
#[test]
fn root_nothing_is_emptied_through_a_mount() {
    require_root();
    let (dir, _) = parent();
    for name in ["precious", "upper/inner"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("precious/file"), "x").unwrap();
    in_private_mount_ns(|| {
        let upper = dir.path().join("upper");
        let open = || File::open(&upper).unwrap();
        let clone = || MountFd::clone_tree(CWD, dir.path().join("precious"), false).unwrap();
        let refused = |what: &str| {
            let error = empty_tree(open()).unwrap_err();
            assert_eq!(error.errno(), Errno::XDEV, "{what}: {error}");
            assert!(dir.path().join("precious/file").exists(), "{what}");
            unmount(&upper, UnmountFlags::DETACH).unwrap();
        };
        assert_eq!(empty_tree(reopened(&clone())).unwrap_err().errno(), Errno::XDEV);
        clone().attach(CWD, &upper).unwrap();
        refused("a mount");
        let range = IdRange { start: 0, length: 65_536 };
        let idmapped = MountFd::clone_tree(CWD, dir.path(), false).unwrap();
        idmapped.set_idmap(&UserNs::create(&IdMap::from_ranges(range, range)).unwrap()).unwrap();
        idmapped.attach(CWD, &upper).unwrap();
        let error = empty_tree(File::open(upper.join("precious")).unwrap()).unwrap_err();
        assert_eq!(error.errno(), Errno::XDEV, "{error}");
        refused("an idmapped mount");
        clone().attach(CWD, upper.join("inner")).unwrap();
        assert_eq!(empty_tree(open()).unwrap_err().errno(), Errno::XDEV);
        assert!(upper.join("inner/file").exists());
    });
    assert!(dir.path().join("precious/file").exists());
}

/// For reading: a detached mount is a bare reference.
fn reopened(mount: &MountFd) -> File {
    rustix::fs::openat(mount, ".", OFlags::DIRECTORY, Mode::empty()).unwrap().into()
}
