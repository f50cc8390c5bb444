//! Opening the state root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use plywood_store::db::OpenDbError;
use plywood_store::root::RootError;
use plywood_store::{OpenError, Store};

use crate::import_images::run;

#[test]
fn a_missing_root_is_made_for_its_owner_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("some/where/root");
    let store = Store::open(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(store.root().path(), root);
    drop(store);
    Store::open(&root).unwrap();
}

#[test]
fn roots_that_others_could_enter_or_redirect_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |name: &str| Store::open(&scratch.path().join(name)).map(|_| ());

    fs::create_dir(scratch.path().join("wide")).unwrap();
    for mode in [0o755, 0o710, 0o701] {
        fs::set_permissions(scratch.path().join("wide"), fs::Permissions::from_mode(mode)).unwrap();
        let error = open("wide").unwrap_err();
        assert!(matches!(error, OpenError::Root(RootError::Mode { .. })), "{error:?}");
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }
    assert!(fs::read_dir(scratch.path().join("wide")).unwrap().next().is_none());

    fs::write(scratch.path().join("file"), "").unwrap();
    assert!(matches!(open("file"), Err(OpenError::Root(RootError::NotADirectory(_)))));
    fs::create_dir(scratch.path().join("real")).unwrap();
    symlink("real", scratch.path().join("link")).unwrap();
    assert!(matches!(open("link"), Err(OpenError::Root(RootError::Symlink(_)))));
}

/// The mode of the root itself is worth nothing where others can rename it and make another.
#[test]
fn roots_below_what_others_can_write_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let above = scratch.path().join("above");
    let root = above.join("between/root");
    fs::create_dir(&above).unwrap();
    for mode in [0o777, 0o775, 0o757] {
        fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
        let error = Store::open(&root).unwrap_err();
        assert!(
            matches!(&error, OpenError::Root(RootError::Parent { dir, .. }) if *dir == above),
            "{error:?}"
        );
        assert!(error.to_string().contains(&format!("chmod go-w {}", above.display())), "{error}");
    }
    // By way of a link from a safe place, too.
    symlink(&above, scratch.path().join("link")).unwrap();
    let error = Store::open(&scratch.path().join("link/between/root")).unwrap_err();
    assert!(matches!(error, OpenError::Root(RootError::Parent { .. })), "{error:?}");
    // In a sticky directory only the owner renames: /tmp.
    for mode in [0o1777, 0o755] {
        fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
        Store::open(&root).unwrap();
    }
}

#[test]
fn root_a_root_below_another_users_directory_is_refused() {
    plywood_kernel::testing::require_root();
    let scratch = tempfile::tempdir().unwrap();
    let above = scratch.path().join("above");
    fs::create_dir(&above).unwrap();
    std::os::unix::fs::chown(&above, Some(12345), None).unwrap();
    let error = Store::open(&above.join("root")).unwrap_err();
    assert!(error.to_string().contains("is of user 12345"), "{error}");
    assert!(error.to_string().contains("chown -h 0"), "{error}");
}

#[test]
fn root_a_root_of_another_user_is_refused() {
    plywood_kernel::testing::require_root();
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&root, Some(12345), None).unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, OpenError::Root(RootError::Owner { owner: 12345, .. })), "{error:?}");
}

#[test]
fn a_newer_database_and_a_foreign_one_are_refused_untouched() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    drop(Store::open(&root).unwrap());
    let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "user_version", 1000).unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, OpenError::Db(OpenDbError::TooNew { found: 1000, .. })), "{error:?}");
    connection.pragma_update(None, "user_version", version).unwrap();
    drop(Store::open(&root).unwrap());

    let other = scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let foreign = rusqlite::Connection::open(other.join("plywood.db")).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(Store::open(&other), Err(OpenError::Db(OpenDbError::Foreign(_)))));
    drop(foreign);
    fs::write(other.join("plywood.db"), "not a database at all, but long enough to be looked at").unwrap();
    assert!(matches!(Store::open(&other), Err(OpenError::Db(OpenDbError::Db { .. }))));
}

#[test]
fn a_store_that_is_closed_leaves_no_owner() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let store = Store::open(&root).unwrap();
    let pins = store.pins().unwrap();
    let count = |sql: &str| -> i64 {
        let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM owners"), 1);
    drop(store);
    assert_eq!(count("SELECT count(*) FROM owners"), 1, "the pins still hold the store");
    drop(pins);
    assert_eq!(count("SELECT count(*) FROM owners"), 0);
}

/// A directory of nothing but dot-files, a home directory for instance, was taken for an empty one and filled.
#[test]
fn directories_of_others_are_refused_whatever_their_names() {
    let scratch = tempfile::tempdir().unwrap();
    for (n, theirs) in
        [".bashrc", ".cache", ".trial-", ".trial-x-1", "plywood.database", "Layers"].iter().enumerate()
    {
        let root = scratch.path().join(n.to_string());
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join(theirs), "").unwrap();
        let error = Store::open(&root).unwrap_err();
        assert!(
            matches!(&error, OpenError::Root(RootError::InUse { entry, .. }) if entry == theirs),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1, "{theirs}");
    }
    let root = scratch.path().join("ours");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    for ours in ["layers", "run", "lost+found", ".trial-4194305-1", ".plywood-probe-4194305-0"] {
        fs::create_dir(root.join(ours)).unwrap();
    }
    Store::open(&root).unwrap();
}

/// Such a root was used, and its layers could neither be removed nor were they synced before they counted.
#[test]
fn root_directories_on_other_file_systems_are_refused() {
    plywood_kernel::testing::require_root();
    plywood_kernel::testing::in_private_mount_ns(|| {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        drop(Store::open(&root).unwrap());
        for directory in ["layers", "flat", "snapshots", "scratch", "trash", "blobs", "blobs/ingest"] {
            // Another file system, and the same one by another mount.
            for (what, options) in [("tmpfs", vec!["-t", "tmpfs", "tmpfs"]), ("bind", vec!["--bind"])] {
                let at = root.join(directory);
                let at = at.to_str().unwrap();
                let source: &[&str] = if what == "bind" { &[at, at] } else { &[at] };
                run("mount", "mount", &[&options[..], source].concat());
                let error = Store::open(&root).unwrap_err();
                let expected = matches!(&error, OpenError::Root(RootError::Elsewhere { directory: found, .. }) if *found == directory);
                assert!(expected, "{directory} {what}: {error:?}");
                run("umount", "mount", &[at]);
            }
        }
        Store::open(&root).unwrap();
    });
}
