//! The merged view, by examples; against a real overlay in `flat`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use plywood_store::{MergedError, MergedTree};
use rustix::fs::FileType;

use crate::support::{layer, opaque, store, whiteout};

/// Two plain layers, no whiteouts: needs no privilege.
fn tree() -> (tempfile::TempDir, MergedTree) {
    let scratch = tempfile::tempdir().unwrap();
    let (low, high) = (scratch.path().join("low"), scratch.path().join("high"));
    for dir in ["etc", "usr/bin", "deep/a/b"] {
        fs::create_dir_all(low.join(dir)).unwrap();
    }
    fs::create_dir_all(high.join("etc")).unwrap();
    fs::write(low.join("etc/passwd"), "low").unwrap();
    fs::write(low.join("etc/group"), "low").unwrap();
    fs::write(high.join("etc/passwd"), "high").unwrap();
    symlink("usr/bin", high.join("bin")).unwrap();
    symlink("/../../../etc/passwd", high.join("absolute")).unwrap();
    symlink("../../etc/group", low.join("deep/relative")).unwrap();
    symlink("../../../../../../etc/group", low.join("deep/escaping")).unwrap();
    symlink("loop", high.join("loop")).unwrap();
    symlink("/deep/a/b/../../relative", high.join("chain")).unwrap();
    symlink("nowhere", high.join("dangling")).unwrap();
    fs::write(low.join("usr/bin/true"), "").unwrap();
    let base = fs::File::open(scratch.path()).unwrap().into();
    let tree = MergedTree::new(base, vec!["low".into(), "high".into()]);
    (scratch, tree)
}

#[test]
fn the_topmost_layer_decides() {
    let (_scratch, tree) = tree();
    assert_eq!(tree.read_file("etc/passwd", 100).unwrap().unwrap(), b"high");
    assert_eq!(tree.read_file("/etc/group", 100).unwrap().unwrap(), b"low");
    assert_eq!(tree.lookup("/etc/passwd").unwrap().unwrap().layer, 1);
    assert_eq!(tree.lookup("/etc/group").unwrap().unwrap().layer, 0);
    assert_eq!(tree.lookup("/etc").unwrap().unwrap().file_type(), FileType::Directory);
    assert_eq!(tree.lookup("/").unwrap().unwrap().path, Path::new(""));
    assert!(tree.lookup("/etc/shadow").unwrap().is_none());
    assert!(tree.lookup("/etc/passwd/x").unwrap().is_none());
    let names: Vec<_> = tree.read_dir("/etc").unwrap().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["group", "passwd"]);
    assert!(tree.read_dir("/etc/passwd").unwrap().is_none());
}

#[test]
fn links_stay_inside_the_tree() {
    let (_scratch, tree) = tree();
    for (path, leads_to) in [
        ("/bin/true", "usr/bin/true"),
        ("/absolute", "etc/passwd"),
        ("/deep/relative", "etc/group"),
        ("/deep/escaping", "etc/group"),
        ("/chain", "etc/group"),
        ("../../../etc/passwd", "etc/passwd"),
        ("/bin/../../etc/passwd", "etc/passwd"),
        ("/bin/..", "usr"),
        ("/.//deep/./a/", "deep/a"),
    ] {
        assert_eq!(tree.lookup(path).unwrap().expect(path).path, Path::new(leads_to), "{path}");
    }
    assert!(tree.lookup("/dangling").unwrap().is_none());
    assert!(tree.lookup("/dangling/x").unwrap().is_none());
    assert_eq!(tree.lookup_no_follow("/dangling").unwrap().unwrap().file_type(), FileType::Symlink);
    assert_eq!(tree.lookup_no_follow("/bin/true").unwrap().unwrap().path, Path::new("usr/bin/true"));
    assert!(matches!(tree.lookup("/loop"), Err(MergedError::TooManyLinks(_))));
    assert_eq!(tree.lookup_no_follow("/loop").unwrap().unwrap().layer, 1);
}

#[test]
fn reading_is_bounded_and_of_regular_files() {
    let (_scratch, tree) = tree();
    assert!(matches!(tree.read_file("/etc/passwd", 3), Err(MergedError::TooLarge { size: 4, limit: 3, .. })));
    assert!(matches!(tree.read_file("/etc", 3), Err(MergedError::NotAFile(_))));
    assert!(tree.read_file("/none", 3).unwrap().is_none());
    let empty = MergedTree::new(fs::File::open("/").unwrap().into(), vec![]);
    assert!(empty.lookup("/").unwrap().is_none());
}

#[test]
fn root_whiteouts_and_opaque_directories_hide_what_is_below() {
    plywood_kernel::testing::require_root();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let low = layer(&store, &pins, "low", |dir| {
        fs::create_dir_all(dir.join("kept/below")).unwrap();
        fs::create_dir_all(dir.join("gone/below")).unwrap();
        fs::create_dir_all(dir.join("opaque/below")).unwrap();
    });
    let middle = layer(&store, &pins, "middle", |dir| {
        whiteout(&dir.join("gone"));
        fs::create_dir_all(dir.join("kept")).unwrap();
        fs::create_dir_all(dir.join("opaque/middle")).unwrap();
        opaque(&dir.join("opaque"));
    });
    let high = layer(&store, &pins, "high", |dir| {
        fs::create_dir_all(dir.join("opaque/high")).unwrap();
        fs::create_dir_all(dir.join("gone")).unwrap();
        whiteout(&dir.join("kept"));
    });
    let names = |layers: &[_], path: &str| {
        let tree = store.merged(layers).unwrap();
        let entries = tree.read_dir(path).unwrap()?;
        Some(entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect::<Vec<_>>())
    };
    let two = [low.id, middle.id];
    assert_eq!(names(&two, "/").unwrap(), ["kept", "opaque"]);
    assert_eq!(names(&two, "/kept").unwrap(), ["below"]);
    assert_eq!(names(&two, "/opaque").unwrap(), ["middle"]);
    assert_eq!(names(&two, "/gone"), None);
    let three = [low.id, middle.id, high.id];
    assert_eq!(names(&three, "/").unwrap(), ["gone", "opaque"]);
    assert_eq!(names(&three, "/opaque").unwrap(), ["high", "middle"]);
    assert!(names(&three, "/gone").unwrap().is_empty(), "the whiteout between them separates them");
    assert_eq!(names(&three, "/kept/below"), None);
}
