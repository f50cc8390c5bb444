//! Mounts as descriptors.

use std::error::Error as _;
use std::os::unix::fs::MetadataExt as _;

use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{IdMap, IdRange, Kind, MountAttrs, MountFd, UnmountFlags, UserNs, table, unmount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

fn shifted() -> UserNs {
    let range = IdRange { start: 400_000, length: 65_536 };
    UserNs::create(&IdMap::from_ranges(range, range)).unwrap()
}

#[test]
fn root_a_detached_idmapped_clone_shows_shifted_owners_and_is_in_no_table() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("sub/deep")).unwrap();
    std::os::unix::fs::chown(dir.path().join("sub/deep"), Some(5), Some(6)).unwrap();
    in_private_mount_ns(|| {
        let before = table::count().unwrap();
        let clone = MountFd::clone_tree(CWD, dir.path(), false).unwrap();
        clone.set_idmap(&shifted()).unwrap();
        let sub = clone.open_dir("sub").unwrap();
        let stat = rustix::fs::statat(&sub, "deep", AtFlags::empty()).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (400_005, 400_006));
        assert_eq!(table::count().unwrap(), before);
        assert!(!table::is_plain_mount(&sub).unwrap());
    });
}

#[test]
fn root_attached_by_path_and_on_a_descriptor() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    for name in ["from", "to", "at"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("from/file"), "x").unwrap();
    in_private_mount_ns(|| {
        let before = table::count().unwrap();
        let base = std::fs::File::open(dir.path()).unwrap();
        let clone = MountFd::clone_tree(&base, "from", false).unwrap();
        clone.attach(&base, "to").unwrap();
        assert!(dir.path().join("to/file").exists());

        let at = std::fs::File::open(dir.path().join("at")).unwrap();
        let from = std::fs::File::open(dir.path().join("from")).unwrap();
        MountFd::clone_tree(&from, "", false).unwrap().attach(&at, "").unwrap();
        assert!(dir.path().join("at/file").exists());
        assert_eq!(table::count().unwrap(), before + 2);

        unmount(dir.path().join("to"), UnmountFlags::empty()).unwrap_err();
        drop(clone);
        unmount(dir.path().join("to"), UnmountFlags::empty()).unwrap();
        unmount(dir.path().join("at"), UnmountFlags::DETACH).unwrap();
        assert_eq!(table::count().unwrap(), before);
    });
}

#[test]
fn root_attributes_are_set_and_cleared() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let clone = MountFd::clone_tree(CWD, dir.path(), false).unwrap();
        let create = |name: &str| {
            rustix::fs::openat(&clone, name, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).map(drop)
        };
        clone.set_attrs(MountAttrs::RDONLY | MountAttrs::NODEV, MountAttrs::NONE, false).unwrap();
        assert_eq!(create("a"), Err(Errno::ROFS));
        clone.set_attrs(MountAttrs::NONE, MountAttrs::RDONLY, true).unwrap();
        assert_eq!(create("a"), Ok(()));

        clone.attach(CWD, dir.path()).unwrap();
        let entries = table::list().unwrap();
        let entry = table::covering(&entries, &dir.path().canonicalize().unwrap()).unwrap();
        assert!(entry.options.contains("nodev") && entry.options.starts_with("rw"), "{entry:?}");
    });
}

#[test]
fn root_symlinks_are_not_followed() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    let link = dir.path().join("link");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    in_private_mount_ns(|| {
        let clone = MountFd::clone_tree(CWD, dir.path(), false).unwrap();
        assert_eq!(clone.open_dir("link").unwrap_err().errno(), Errno::NOTDIR);
        assert_eq!(clone.attach(CWD, &link).unwrap_err().errno(), Errno::INVAL);
        clone.open_dir("real").unwrap();
        clone.attach(CWD, &real).unwrap();
    });
}

#[test]
fn root_a_refusal_prints_call_arguments_and_errno() {
    require_root();
    let missing = MountFd::clone_tree(CWD, "/no/such/layer", false).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "open_tree(AT_FDCWD, \"/no/such/layer\", \
         OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_SYMLINK_NOFOLLOW|AT_NO_AUTOMOUNT) = -1 ENOENT"
    );
    assert_eq!(missing.kind(), Kind::Missing);
    assert!(missing.source().unwrap().to_string().contains("No such file"));

    // An attached mount cannot be given a map.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let error = in_private_mount_ns(|| {
        MountFd::clone_tree(CWD, &path, false).unwrap().attach(CWD, &path).unwrap();
        MountFd::open(CWD, &path).unwrap().set_idmap(&shifted()).unwrap_err()
    });
    let text = error.to_string();
    assert!(text.starts_with("mount_setattr("), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("{attr_set=MOUNT_ATTR_IDMAP, userns_fd="), "{text}");
    assert!(text.ends_with(", 32) = -1 EPERM") || text.ends_with(", 32) = -1 EINVAL"), "{text}");
}

#[test]
fn root_owners_written_through_a_map_arrive_unshifted() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let clone = MountFd::clone_tree(CWD, dir.path(), false).unwrap();
        clone.set_idmap(&shifted()).unwrap();
        // Root of the host is not mapped into 400000..: it cannot own a file there.
        let refused = rustix::fs::mkdirat(&clone, "x", Mode::RWXU);
        assert_eq!(refused, Err(Errno::OVERFLOW));
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let owner = rustix::fs::Uid::from_raw(400_007);
        let group = rustix::fs::Gid::from_raw(400_008);
        rustix::fs::chownat(&clone, "file", Some(owner), Some(group), AtFlags::empty()).unwrap();
    });
    let meta = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
}
