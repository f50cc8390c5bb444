//! Layers that mean harm, or make no sense.

use std::fs;

use plywood_image::testing::{RawHeader, TarBuilder};
use plywood_kernel::testing::require_root;
use plywood_store::{Cancel, Event, FetchRequest, Source, fetch_image};

use super::super::import_images::{LayerBlob, Layout, assert_untouched, chain, import};
use super::super::support::store;
use super::tree::Tree;

/// A file outside the store that every escape aims at.
struct Victim {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Victim {
    fn new() -> Victim {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "precious").unwrap();
        Victim { before: listing(&dir), dir }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn assert_unharmed(&self, what: &str) {
        assert_eq!(listing(&self.dir), self.before, "{what}");
    }
}

fn listing(dir: &tempfile::TempDir) -> Vec<String> {
    let tree = Tree::read(dir.path());
    vec![format!("{tree:?}")]
}

#[test]
fn root_escapes_are_refused() {
    require_root();
    let victim = Victim::new();
    let outside = victim.path().to_owned();
    let file = format!("{outside}/file");
    let up = format!("../../../../../../../../../../..{outside}");
    let cases: Vec<(&str, TarBuilder, &str)> = vec![
        ("..", TarBuilder::new().file("../x", "x"), "\"..\""),
        (".. in the middle", TarBuilder::new().dir("a", 0o755).file("a/../../x", "x"), "\"..\""),
        (".. to the victim", TarBuilder::new().file(format!("{up}/x"), "x"), "\"..\""),
        ("a link and below it", TarBuilder::new().symlink("l", &outside).file("l/x", "x"), "below \"l\""),
        (
            "a relative link and below it",
            TarBuilder::new().symlink("l", &up).file("l/file", "x"),
            "below \"l\"",
        ),
        (
            "a link and a directory in it",
            TarBuilder::new().symlink("l", &outside).dir("l/d", 0o755),
            "below \"l\"",
        ),
        (
            "a link and a whiteout in it",
            TarBuilder::new().symlink("l", &outside).whiteout("l", "file"),
            "below \"l\"",
        ),
        ("a link made opaque", TarBuilder::new().symlink("l", &outside).opaque("l"), "\"l\""),
        (
            "a link and a device in it",
            TarBuilder::new().symlink("l", &outside).char_device("l/null", 1, 3),
            "below \"l\"",
        ),
        ("a hard link up", TarBuilder::new().hard_link("x", format!("{up}/file")), "\"..\""),
        ("an absolute name", TarBuilder::new().file("/absolute", "x"), "\"/absolute\": the name is absolute"),
        ("an absolute name outside", TarBuilder::new().file(&file, "x"), "the name is absolute"),
        ("a hard link out", TarBuilder::new().hard_link("x", &file), "\"x\""),
        (
            "a hard link through a link",
            TarBuilder::new().symlink("l", &outside).hard_link("x", "l/file"),
            "l",
        ),
        ("the root as a link", TarBuilder::new().symlink("./", &outside), "root"),
        (
            "an overlay mark",
            TarBuilder::new().xattr("trusted.overlay.redirect", &outside).dir("d", 0o755),
            "trusted.overlay.redirect",
        ),
        ("a whiteout device", TarBuilder::new().char_device("x", 0, 0), "whiteout"),
        ("a whiteout of nothing", TarBuilder::new().file("a/.wh.", ""), "whiteout"),
        ("a whiteout of ..", TarBuilder::new().file("a/.wh...", ""), "whiteout"),
        (
            "a replaced directory",
            TarBuilder::new().dir("d", 0o755).file("d/x", "x").symlink("d", &outside),
            "directory",
        ),
        ("a NUL", TarBuilder::new().pax("path", b"a\0b").file("a", ""), "NUL"),
        ("a long name", TarBuilder::new().file(format!("d/{}", "n".repeat(256)), ""), "255"),
        (
            "an owner that is none",
            TarBuilder::new().entry(RawHeader::new(b'0').name("x").owner(u64::from(u32::MAX), 0), b""),
            "4294967295",
        ),
        ("an unknown type", TarBuilder::new().entry(RawHeader::new(b'Q').name("x"), b""), "type"),
    ];
    for (what, tar, expected) in cases {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let error =
            chain(&import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar.finish())])).unwrap_err());
        assert!(error.contains(expected), "{what}: {error}");
        assert_untouched(&store);
        victim.assert_unharmed(what);
    }
}

#[test]
fn root_duplicate_entries_are_refused() {
    require_root();
    let victim = Victim::new();
    let outside = victim.path().to_owned();
    let cases: Vec<(TarBuilder, &str)> = vec![
        (TarBuilder::new().file("d/twice", "first").file("./d//twice", "second"), "d/twice"),
        (TarBuilder::new().symlink("link", &outside).file("link", "the link is gone"), "link"),
        (TarBuilder::new().file("file", "").dir("file", 0o700), "file"),
        (TarBuilder::new().dir("empty", 0o755).symlink("empty", &outside), "empty"),
        (TarBuilder::new().file("a", "a").hard_link("b", "a").hard_link("b", "a"), "b"),
        (TarBuilder::new().file("a", "a").file("b", "b").hard_link("b", "a"), "b"),
        (TarBuilder::new().dir("d", 0o755).file("d/x", "x").dir("d", 0o700), "d"),
        (TarBuilder::new().dir("./", 0o755).dir(".", 0o700), "."),
        (TarBuilder::new().whiteout("d", "x").whiteout("d", "x"), "d/.wh.x"),
        (TarBuilder::new().opaque("d").opaque("d"), "d/.wh..wh..opq"),
    ];
    for (tar, named) in cases {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let error =
            chain(&import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar.finish())])).unwrap_err());
        let named = format!("layer entry \"{}\": the layer has an earlier entry", named);
        assert!(error.contains(&named), "{named}: {error}");
        assert_untouched(&store);
        victim.assert_unharmed(&named);
    }
    // One file by two names, since below one of them is a link to the other's directory.
    let below = TarBuilder::new().dir("usr", 0o755).symlink("bin", "usr");
    let above = TarBuilder::new().file("usr/x", "1").file("bin/x", "2");
    let layers = [below, above].map(|tar| LayerBlob::gzip(&tar.finish()));
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = chain(&import(&store, &pins, &Layout::of("a", &layers)).unwrap_err());
    assert!(error.contains("layer 2") && error.contains("\"usr/x\": the layer has an earlier"), "{error}");
    assert_untouched(&store);
}

/// Names that look odd and are none of what is refused, directories named again, and marks beside what they would hide.
#[test]
fn root_odd_layers_that_are_accepted() {
    require_root();
    let victim = Victim::new();
    let outside = victim.path().to_owned();
    let dated = |name: &str| super::header(b'5', name, 0o750, (3, 4), 77);
    let tar = TarBuilder::new()
        .dir("./", 0o711)
        .file("././dots//and/slashes", "inside")
        .entry(&dated("dots"), b"")
        .entry(&dated("./again/"), b"")
        .file("again/a", "a")
        .dir(".", 0o711)
        .dir("/", 0o711)
        .hard_link("linked", "/again/a")
        .entry(&dated("again"), b"")
        .file("again/b", "b")
        .entry(&dated("again//."), b"")
        .whiteout("again", "a")
        .whiteout("", "again")
        .opaque("again")
        .symlink("out", &outside)
        .symlink("dangling", "/nonexistent")
        .finish();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar)]));
    let image = image.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let root = store.layer_path(image.layers[0].id);
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("dots/and/slashes"), "inside");
    assert_eq!((read("again/a"), read("again/b"), read("linked")), ("a".into(), "b".into(), "a".into()));
    let tree = Tree::read(&root);
    for (path, mode, owner) in [("", 0o711, (0, 0)), ("dots", 0o750, (3, 4)), ("again", 0o750, (3, 4))] {
        let entry = tree.get(path).unwrap();
        assert_eq!((entry.mode & 0o7777, entry.owner), (mode, owner), "{path}");
    }
    assert_eq!(tree.get("again").unwrap().mtime, (77, 0));
    assert_eq!(fs::read_link(root.join("out")).unwrap().to_str().unwrap(), outside);
    // again, again/a, again/b, dots, dots/and, dots/and/slashes, linked, out, dangling
    assert_eq!(image.layers[0].info.entries, 9);
    victim.assert_unharmed("odd");
}

/// An attribute the file system does not take is an error that names it.
#[test]
fn root_attributes_are_kept_or_refused() {
    require_root();
    let tar = TarBuilder::new().xattr("nonsense.name", "x").file("etc/file", "x").finish();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = chain(&import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar)])).unwrap_err());
    assert!(error.contains("etc/file") && error.contains("nonsense.name"), "{error}");
    assert_untouched(&store);
}

/// Attributes in forms that no image tool reads were dropped without a word.
#[test]
fn root_attributes_that_are_left_out_are_told() {
    require_root();
    let tar = TarBuilder::new()
        .pax("SCHILY.acl.access", "user::rwx,user:1000:r-x")
        .file("acl", "x")
        .pax("SCHILY.acl.default", "user::rwx")
        .dir("dir", 0o755)
        .pax("LIBARCHIVE.xattr.user.note", "eA==")
        .file("libarchive", "x")
        .pax("LIBARCHIVE.xattr.user.note", "eA==")
        .xattr("user.note", "x")
        .file("both", "x")
        .pax("RHT.security.selinux", "system_u:object_r:etc_t:s0")
        .file("label", "x")
        .finish();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let plain = TarBuilder::new().file("plain", "").finish();
    let layout = Layout::of("a", &[plain, tar].map(|tar| LayerBlob::gzip(&tar)));
    let events = std::sync::Mutex::new(Vec::new());
    let request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
    let fetched =
        fetch_image(&store, &pins, &request, &|event| events.lock().unwrap().push(event), &Cancel::new());
    let image = fetched.unwrap_or_else(|e| panic!("{}", chain(&e))).image;
    let told: Vec<_> = events
        .into_inner()
        .unwrap()
        .into_iter()
        .filter_map(|event| match event {
            Event::LeftOut { layer, what } => Some((layer, what.to_string())),
            _ => None,
        })
        .collect();
    let expected = "access lists (SCHILY.acl) of 2 entries, extended attributes (LIBARCHIVE.xattr) of 1 entry, \
                    labels (SELinux) of 1 entry";
    assert_eq!(told, [(1, expected.to_owned())]);
    let tree = Tree::read(&store.layer_path(image.layers[1].id));
    assert!(
        ["acl", "dir", "libarchive", "label"].iter().all(|path| tree.get(path).unwrap().xattrs.is_empty())
    );
    assert_eq!(tree.get("both").unwrap().xattrs["user.note"], b"x");
}

/// Version 2; user rwx, group rwx, other none.
fn access_list() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions) in [(1u16, 7u16), (4, 7), (32, 0)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    acl
}

/// A default ACL or set-group-id bit of the image must not change what is made below it.
#[test]
fn root_directories_do_not_rub_off() {
    require_root();
    let acl = access_list();
    let tar = TarBuilder::new()
        .xattr("system.posix_acl_default", &acl)
        .entry(&super::header(b'5', "d", 0o2775, (0, 50), 5), b"")
        .file("d/file", "x")
        .dir("d/sub", 0o755)
        .finish();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar)]));
    let image = image.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let tree = Tree::read(&store.layer_path(image.layers[0].id));
    let get = |path: &str| tree.get(path).map(|e| (e.mode & 0o7777, e.owner)).unwrap();
    assert_eq!(get("d"), (0o2775, (0, 50)));
    assert_eq!(tree.get("d").unwrap().mtime, (5, 0));
    assert_eq!(tree.get("d").unwrap().xattrs["system.posix_acl_default"], acl);
    assert_eq!(get("d/file"), (0o644, (0, 0)));
    assert_eq!(get("d/sub"), (0o755, (0, 0)));
    assert!(tree.get("d/sub").unwrap().xattrs.is_empty());
}

/// What a hard link into a lower layer copies is made in a directory that is finished.
#[test]
fn root_directories_do_not_rub_off_on_what_comes_from_below() {
    require_root();
    let open = || super::header(b'5', "d", 0o2775, (0, 50), 5);
    let below = TarBuilder::new()
        .entry(&super::header(b'5', "d", 0o755, (0, 0), 5), b"")
        .file("d/file", "x")
        .symlink("d/link", "file")
        .fifo("d/fifo");
    let above = TarBuilder::new()
        .xattr("system.posix_acl_default", access_list())
        .entry(&open(), b"")
        .hard_link("file", "d/file")
        .hard_link("link", "d/link")
        .hard_link("fifo", "d/fifo");
    let layers = [below, above].map(|tar| LayerBlob::gzip(&tar.finish()));
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = import(&store, &pins, &Layout::of("a", &layers)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let [below, above] = [0, 1].map(|n: usize| Tree::read(&store.layer_path(image.layers[n].id)));
    assert_eq!(above.get("d").unwrap().owner, (0, 50));
    for path in ["d/file", "d/link", "d/fifo"] {
        let (was, is) = (below.get(path).unwrap(), above.get(path).unwrap());
        assert_eq!((is.mode, is.owner, &is.xattrs), (was.mode, was.owner, &was.xattrs), "{path}");
    }
}
