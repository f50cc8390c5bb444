use super::*;
use crate::tar::{Device, EntryType, Header, Reader};
use crate::testing::{RawHeader, TarBuilder};

fn headers(archive: TarBuilder) -> Vec<Header> {
    let bytes = archive.finish();
    let mut reader = Reader::new(&bytes[..]);
    let mut headers = Vec::new();
    while let Some(header) = reader.next_entry().unwrap() {
        headers.push(header);
    }
    headers
}

fn one(archive: TarBuilder) -> Result<Option<DiffEntry>, LayerError> {
    let mut headers = headers(archive);
    assert_eq!(headers.len(), 1);
    classify(headers.remove(0))
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

/// Feeds a whole layer; the steps and the marks.
fn track(archive: TarBuilder) -> Result<(Vec<Step>, Marks), LayerError> {
    let mut tracker = Tracker::new();
    let mut steps = Vec::new();
    for header in headers(archive) {
        if let Some(entry) = classify(header)? {
            steps.push(tracker.add(&entry)?);
        }
    }
    Ok((steps, tracker.finish()?))
}

fn create(parents: &[&str]) -> Step {
    Step::Create { parents: parents.iter().map(|parent| path(parent)).collect() }
}

fn paths(names: &[&str]) -> Vec<EntryPath> {
    names.iter().map(|name| path(name)).collect()
}

#[test]
fn paths_are_normalised_or_refused() {
    let long = "a".repeat(255);
    let deep = format!("{}/", "b".repeat(100)).repeat(40);
    let good = [
        ("a", "a"),
        ("./a/b", "a/b"),
        ("a//b/", "a/b"),
        (".//a/./././b/.", "a/b"),
        (".", "."),
        ("./", "."),
        ("...", "..."),
        ("a/..b/c..", "a/..b/c.."),
        (long.as_str(), long.as_str()),
        (deep.as_str(), deep.trim_end_matches('/')),
    ];
    for (name, wanted) in good {
        assert_eq!(EntryPath::new(name.as_bytes()).unwrap().to_string(), wanted);
    }
    let too_long = format!("{deep}{}", "c".repeat(100));
    let bad: &[(&[u8], PathError)] = &[
        (b"", PathError::Empty),
        (b"..", PathError::DotDot),
        (b"../a", PathError::DotDot),
        (b"a/../b", PathError::DotDot),
        (b"a/..", PathError::DotDot),
        (b"/a", PathError::Absolute),
        (b"//a", PathError::Absolute),
        (b"/../../etc/passwd", PathError::Absolute),
        (b"a\0b", PathError::Nul),
        (&[b'a'; 256], PathError::ComponentTooLong),
        (too_long.as_bytes(), PathError::TooLong),
    ];
    for (name, error) in bad {
        assert_eq!(EntryPath::new(name).unwrap_err(), *error, "{}", name.escape_ascii());
    }
}

#[test]
fn paths_take_apart() {
    let root = EntryPath::root();
    assert!(root.is_root() && root.parent().is_none() && root.file_name().is_none());
    assert_eq!((root.as_path().to_str(), root.components().count()), (Some("."), 0));
    let deep = path("a/b/c");
    assert_eq!((deep.parent(), deep.file_name().unwrap().to_str()), (Some(path("a/b")), Some("c")));
    assert_eq!(path("a").parent(), Some(root));
    assert_eq!(deep.components().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn whiteouts_and_opaque_marks() {
    let whiteout = |text: &str| Some(DiffEntry::Whiteout { path: path(text) });
    let opaque = |dir: EntryPath| Some(DiffEntry::Opaque { dir });
    let table = [
        (".wh.a", whiteout("a")),
        ("./d/.wh.a", whiteout("d/a")),
        ("d/.wh.a b", whiteout("d/a b")),
        ("d/.wh..a", whiteout("d/.a")),
        ("d/.wh....", whiteout("d/...")),
        ("d/.wh..wh..opq", opaque(path("d"))),
        (".wh..wh..opq", opaque(EntryPath::root())),
        (".wh..wh.aufs", None),
        (".wh..wh.plnk", None),
        (".wh..wh.plnk/45.1234", None),
        (".wh..wh.orph/x", None),
    ];
    for (name, wanted) in table {
        assert_eq!(one(TarBuilder::new().file(name, b"")).unwrap(), wanted, "{name}");
    }
    assert_eq!(one(TarBuilder::new().hard_link(".wh.a", ".wh..wh.aufs")).unwrap(), whiteout("a"));

    use LayerErrorKind::{ReservedName, WhiteoutName, WhiteoutType};
    let bad = [
        (".wh.", WhiteoutName),
        ("a/.wh..", WhiteoutName),
        ("a/.wh...", WhiteoutName),
        ("a/.wh..wh.b", ReservedName),
        (".wh..wh.other", ReservedName),
        (".wh..wh..opq/a", ReservedName),
        ("a/.wh.b/c", ReservedName),
        ("a/.wh..wh.plnk/c", ReservedName),
    ];
    for (name, kind) in bad {
        assert_eq!(one(TarBuilder::new().file(name, b"")).unwrap_err().kind(), &kind, "{name}");
    }
    assert_eq!(one(TarBuilder::new().dir("a/.wh.b", 0o755)).unwrap_err().kind(), &WhiteoutType);
    assert_eq!(one(TarBuilder::new().symlink(".wh.b", "x")).unwrap_err().kind(), &WhiteoutType);
}

#[test]
fn nodes_keep_their_attributes() {
    let mut header = RawHeader::new(b'0');
    header.name("bin/su").mode(0o104_755).owner(70_000, 4_294_967_294).mtime(-5).size(3);
    let archive = TarBuilder::new().xattr("security.capability", b"\x01\0\0\x02").entry(&header, b"abc");
    let Ok(Some(DiffEntry::Node(node))) = one(archive) else { panic!() };
    assert_eq!(node.path, path("bin/su"));
    assert_eq!(node.kind, NodeKind::File { size: 3, sparse: None });
    assert_eq!((node.meta.uid, node.meta.gid, node.meta.mode), (70_000, 4_294_967_294, 0o4755));
    assert_eq!(node.meta.mtime.seconds, -5);
    assert_eq!(node.meta.xattrs.get(&b"security.capability"[..]).map(|v| &**v), Some(&b"\x01\0\0\x02"[..]));

    let kind = |archive| match one(archive).unwrap() {
        Some(DiffEntry::Node(node)) => node.kind,
        other => panic!("{other:?}"),
    };
    let target = b"../../../etc/shadow".to_vec();
    assert_eq!(kind(TarBuilder::new().symlink("a", &target)), NodeKind::Symlink { target });
    assert_eq!(kind(TarBuilder::new().hard_link("a", "./b/./c")), NodeKind::HardLink { target: path("b/c") });
    assert_eq!(kind(TarBuilder::new().fifo("a")), NodeKind::Fifo);
    assert_eq!(kind(TarBuilder::new().dir("./", 0o755)), NodeKind::Directory);
    assert_eq!(
        kind(TarBuilder::new().char_device("a", 1, 3)),
        NodeKind::CharDevice(Device { major: 1, minor: 3 })
    );
    let mut block = RawHeader::new(b'4');
    block.name("sda").device(0, 0);
    assert_eq!(kind(TarBuilder::new().entry(&block, b"")), NodeKind::BlockDevice(Device::default()));
}

#[test]
fn what_no_layer_may_hold() {
    let owned = |uid, gid| {
        let mut header = RawHeader::new(b'0');
        header.name("a").owner(uid, gid);
        TarBuilder::new().entry(&header, b"")
    };
    let typed = |flag: u8| {
        let mut header = RawHeader::new(flag);
        header.name("a");
        TarBuilder::new().entry(&header, b"")
    };
    let table = [
        (TarBuilder::new().file("../a", b""), "\"..\""),
        (TarBuilder::new().file("", b""), "empty"),
        (TarBuilder::new().file(".", b""), "can only be a directory"),
        (TarBuilder::new().symlink("./", "x"), "can only be a directory"),
        (TarBuilder::new().file("/etc/passwd", b""), "layer entry \"/etc/passwd\": the name is absolute"),
        (TarBuilder::new().symlink("/", "x"), "can only be a directory"),
        (TarBuilder::new().file("/etc/.wh.passwd", b""), "the name is absolute"),
        (TarBuilder::new().symlink("a", ""), "impossible target"),
        (TarBuilder::new().symlink("a", [b'x'; 4096]), "impossible target"),
        (TarBuilder::new().hard_link("a", "../b"), "hard link target \"../b\": the name contains \"..\""),
        (TarBuilder::new().hard_link("a", ""), "empty"),
        (TarBuilder::new().hard_link("a", "./"), "is a directory"),
        (
            TarBuilder::new().hard_link("a", "//b"),
            "layer entry \"a\": hard link target \"//b\": the name is absolute",
        ),
        (TarBuilder::new().hard_link("a", "./a"), "is the link itself"),
        (TarBuilder::new().hard_link("a", "/a"), "is the link itself"),
        (TarBuilder::new().hard_link("a", "/../b"), "\"..\""),
        (TarBuilder::new().hard_link("a", "/"), "empty"),
        (TarBuilder::new().hard_link("a", ".wh..wh.plnk/1"), "not an earlier entry"),
        (TarBuilder::new().char_device("a", 0, 0), "overlayfs whiteout"),
        (TarBuilder::new().char_device("a", 4096, 0), "4096:0 does not exist"),
        (TarBuilder::new().char_device("a", 1, 1 << 20), "does not exist"),
        (TarBuilder::new().xattr("trusted.overlay.opaque", "y").dir("a", 0o755), "trusted.overlay.opaque"),
        (owned(1 << 32, 0), "uid 4294967296"),
        (owned(0, u64::from(u32::MAX)), "gid 4294967295"),
        (typed(b'M'), "'M' are not supported"),
        (typed(b'V'), "'V' are not supported"),
        (typed(b's'), "'s' are not supported"),
    ];
    for (archive, wanted) in table {
        let error = one(archive).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn errors_show_the_name_as_written() {
    let error = one(TarBuilder::new().file("./x/../\n", b"")).unwrap_err();
    assert_eq!(error.path(), b"./x/../\n");
    assert_eq!(error.to_string(), "layer entry \"./x/../\\n\": the name contains \"..\"");
}

#[test]
fn parents_are_implied_once() {
    let layer = TarBuilder::new().file("a/b/c", b"").file("a/b/d", b"").dir("a", 0o700).file("e", b"");
    let (steps, marks) = track(layer).unwrap();
    assert_eq!(steps, [create(&["a", "a/b"]), create(&[]), Step::Stands, create(&[])]);
    assert_eq!(marks.implied, [EntryPath::root(), path("a/b")]);
    assert_eq!(modes(&marks), [(path("a"), 0o700)]);
    assert_eq!(Marks { implied: vec![], directories: vec![], ..marks }, Marks::default());

    let (steps, marks) = track(TarBuilder::new().dir("./", 0o711).dir("a", 0o755)).unwrap();
    assert_eq!(steps, [Step::Stands, create(&[])]);
    assert_eq!(modes(&marks), [(EntryPath::root(), 0o711), (path("a"), 0o755)]);
    assert_eq!(Marks { directories: vec![], ..marks }, Marks::default());
}

fn modes(marks: &Marks) -> Vec<(EntryPath, u32)> {
    marks.directories.iter().map(|(path, meta)| (path.clone(), meta.mode)).collect()
}

#[test]
fn duplicate_entries_are_refused() {
    let dated = |seconds| {
        let mut header = RawHeader::new(b'5');
        header.name("d").mtime(seconds);
        header
    };
    let table = [
        (
            TarBuilder::new().file("a", b"1").file("a", b"1"),
            "\"a\": the layer has an earlier entry of this name (file)",
        ),
        (
            TarBuilder::new().file("d/a", b"1").file("./d/./a", b"2"),
            "\"d/a\": the layer has an earlier entry of this name",
        ),
        (TarBuilder::new().file("a", b"").dir("a", 0o755), "earlier entry of this name (file)"),
        (TarBuilder::new().dir("a", 0o755).file("a", b""), "earlier entry of this name (directory)"),
        (TarBuilder::new().symlink("a", "x").symlink("a", "x"), "(symbolic link)"),
        (TarBuilder::new().file("b", b"").hard_link("a", "b").hard_link("a", "b"), "(hard link)"),
        (
            TarBuilder::new().file("b", b"").file("a", b"").hard_link("a", "b"),
            "\"a\": the layer has an earlier",
        ),
        (TarBuilder::new().fifo("a").file("a", b""), "(fifo)"),
        (
            TarBuilder::new().dir("d", 0o755).dir("d/", 0o700),
            "\"d\": the layer has an earlier entry of this directory, with other attributes",
        ),
        (
            TarBuilder::new().dir("./", 0o755).dir(".", 0o700),
            "layer entry \".\": the layer has an earlier entry of this directory",
        ),
        (TarBuilder::new().entry(&dated(1), b"").entry(&dated(2), b""), "with other attributes"),
        (TarBuilder::new().dir("d", 0o755).xattr("user.a", "b").dir("d", 0o755), "with other attributes"),
        (TarBuilder::new().file("d/x", b"").dir("d", 0o755).dir("d", 0o700), "with other attributes"),
        (
            TarBuilder::new().whiteout("d", "a").whiteout("./d", "a"),
            "\"d/.wh.a\": the layer has an earlier entry of this name (whiteout)",
        ),
        (TarBuilder::new().whiteout("", "a").whiteout("", "a"), "\".wh.a\": the layer has"),
        (
            TarBuilder::new().opaque("d").opaque("d"),
            "\"d/.wh..wh..opq\": the layer has an earlier entry of this name (opaque mark)",
        ),
    ];
    for (layer, wanted) in table {
        let error = track(layer).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn a_directory_may_be_named_again_as_it_is() {
    let layer = TarBuilder::new()
        .dir("./", 0o755)
        .dir("d", 0o750)
        .file("d/a", b"")
        .dir(".", 0o755)
        .dir("./d/", 0o750)
        .file("d/b", b"")
        .dir("d//.", 0o750)
        .file("late/x", b"")
        .dir("late", 0o700)
        .dir("late", 0o700);
    let (steps, marks) = track(layer).unwrap();
    let made = steps.iter().filter(|step| **step != Step::Stands).count();
    assert_eq!((steps.len(), made), (10, 4));
    assert_eq!(modes(&marks), [(EntryPath::root(), 0o755), (path("d"), 0o750), (path("late"), 0o700)]);
}

#[test]
fn lower_links_take_both_their_names() {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.add_lower_link(&path("d/l"), &path("e/t")).unwrap(), paths(&["d"]));
    assert!(tracker.is_lower_target(&path("e/t")) && !tracker.is_lower_target(&path("d/l")));
    assert!(tracker.contains(&path("d/l")) && tracker.contains(&path("e/t")));
    for name in ["d/l", "e/t"] {
        let Ok(Some(entry)) = one(TarBuilder::new().file(name, b"")) else { panic!() };
        let error = tracker.add(&entry).unwrap_err().to_string();
        assert!(error.contains("earlier entry of this name") && error.contains("hard link"), "{error}");
    }
    assert!(tracker.add_lower_link(&path("d/l"), &path("other")).is_err());
    assert!(tracker.add_lower_link(&path("d"), &path("another")).is_err());
    for (link, target) in [("x", "x/y"), ("x/y", "x"), ("z", "d/l/below")] {
        let mut tracker = Tracker::new();
        tracker.add_lower_link(&path("d/l"), &path("e/t")).unwrap();
        let error = tracker.add_lower_link(&path(link), &path(target)).unwrap_err().to_string();
        assert!(error.contains("it lies below"), "{link} -> {target}: {error}");
    }
}

/// A hard link to a file of the layers below, and a mark that removes it: the mark was forgotten, and the file came back.
#[test]
fn marks_remove_the_targets_of_earlier_links() {
    type Mark = fn(TarBuilder) -> TarBuilder;
    let others = std::cell::Cell::new(0);
    let marks: [(&str, Mark); 5] = [
        ("whiteout", |tar| tar.whiteout("d/e", "t")),
        ("whiteout of the parent", |tar| tar.whiteout("d", "e")),
        ("whiteout above", |tar| tar.whiteout("", "d")),
        ("opaque", |tar| tar.opaque("d")),
        ("opaque root", |tar| tar.opaque("")),
    ];
    let track = |mark: Mark, links: [&str; 2], mark_at: usize| {
        let mut tracker = Tracker::new();
        for n in 0..others.get() {
            tracker.add(&DiffEntry::Whiteout { path: path(&format!("other/{n}")) })?;
        }
        for (place, link) in links.iter().enumerate() {
            if mark_at == place {
                let Ok(Some(entry)) = one(mark(TarBuilder::new())) else { panic!() };
                tracker.add(&entry)?;
            }
            if place == 0 {
                tracker.add_lower_link(&path(link), &path("d/e/t"))?;
            } else {
                let Ok(Some(entry)) = one(TarBuilder::new().hard_link(link, "d/e/t")) else { panic!() };
                assert_eq!(tracker.add(&entry)?, create(&[]));
            }
        }
        if mark_at == links.len() {
            let Ok(Some(entry)) = one(mark(TarBuilder::new())) else { panic!() };
            tracker.add(&entry)?;
        }
        tracker.finish()
    };
    let many = marks.iter().chain(&marks).enumerate();
    for (n, (what, mark)) in many {
        // Few marks are looked through, many looked up.
        others.set(if n < marks.len() { 0 } else { 10 });
        let (what, mark) = (*what, *mark);
        let after = track(mark, ["l", "m"], 2).unwrap();
        assert_eq!(after.removed_targets, paths(&["d/e/t"]), "{what}");
        assert_eq!(after.whiteouts.len() + after.opaque.len(), 1 + others.get(), "{what}: {after:?}");
        // Nothing is made for a target that is gone.
        let implied = after.implied.contains(&path("d/e"));
        assert_eq!((after.replaced.len(), implied), (0, what == "whiteout"), "{what}: {after:?}");
        for (place, link) in [(0, "l"), (1, "m")] {
            let error = track(mark, ["l", "m"], place).unwrap_err();
            let expected = LayerErrorKind::LinkRemoved { target: path("d/e/t") };
            assert_eq!((error.path(), error.kind()), (link.as_bytes(), &expected), "{what}");
        }
    }
    others.set(0);
    let beside = track(|tar| tar.whiteout("d/e", "u"), ["l", "m"], 0).unwrap();
    assert_eq!((beside.removed_targets, beside.parents), (vec![], paths(&["d", "d/e"])));
}

#[test]
fn no_entry_passes_through_a_link_of_its_layer() {
    let table = [
        (
            TarBuilder::new().symlink("a", "/etc").file("a/passwd", b""),
            "below \"a\", which this layer made a symbolic link",
        ),
        (TarBuilder::new().file("a", b"").file("a/b/c", b""), "below \"a\", which this layer made a file"),
        (TarBuilder::new().file("a/b", b"").symlink("a", "/etc"), "replaces a directory that has entries"),
        (TarBuilder::new().symlink("a", "/etc").whiteout("a", "b"), "below \"a\""),
        (TarBuilder::new().symlink("a", "/etc").opaque("a"), "below \"a\""),
        (TarBuilder::new().file("b", b"").hard_link("a", "b").file("a/c", b""), "made a hard link"),
        (TarBuilder::new().hard_link("a", "b").file("b", b""), "\"b\" is not an earlier entry"),
        (TarBuilder::new().dir("b", 0o755).hard_link("a", "b"), "\"b\" is a directory"),
        (TarBuilder::new().file("b/c", b"").hard_link("a", "b"), "\"b\" is a directory"),
    ];
    for (layer, wanted) in table {
        let error = track(layer).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn whiteouts_yield_to_nodes_in_any_order() {
    for layer in [
        TarBuilder::new().whiteout("", "a").file("a", b"").whiteout("", "b").file("b/c", b""),
        TarBuilder::new().file("a", b"").whiteout("", "a").file("b/c", b"").whiteout("", "b"),
    ] {
        let (_, marks) = track(layer).unwrap();
        assert_eq!((marks.whiteouts, marks.opaque), (vec![], paths(&["b"])));
    }
}

#[test]
fn marks_bring_their_directories() {
    let layer = TarBuilder::new().whiteout("x/y", "b").whiteout("x/y", "a").opaque("o/p").opaque("");
    let (steps, marks) = track(layer).unwrap();
    assert_eq!(steps, vec![Step::Later; 4]);
    assert_eq!(marks.whiteouts, paths(&["x/y/a", "x/y/b"]));
    assert_eq!(marks.opaque, [EntryPath::root(), path("o/p")]);
    assert_eq!(marks.parents, paths(&["o", "o/p", "x", "x/y"]));
    assert_eq!(marks.implied, [vec![EntryPath::root()], marks.parents.clone()].concat());
    assert!(marks.replaced.is_empty());

    // A whiteout below a whiteout makes the upper one an opaque directory.
    let (_, marks) = track(TarBuilder::new().whiteout("", "d").whiteout("d", "e")).unwrap();
    assert_eq!(
        (marks.whiteouts, marks.opaque, marks.replaced),
        (paths(&["d/e"]), paths(&["d"]), paths(&["d"]))
    );
}

#[test]
fn a_directory_entry_may_follow_its_marks() {
    let (steps, marks) = track(TarBuilder::new().opaque("d").dir("d", 0o755)).unwrap();
    assert_eq!(steps, [Step::Later, create(&[])]);
    assert_eq!(marks.opaque, paths(&["d"]));
    assert!(marks.parents.is_empty());
}

#[test]
fn type_bytes() {
    let mut old = RawHeader::new(0);
    old.name("c/");
    let types: Vec<EntryType> = headers(TarBuilder::new().file("a", b"").dir("b", 0).entry(&old, b""))
        .iter()
        .map(|h| h.entry_type)
        .collect();
    assert_eq!(types, [EntryType::File, EntryType::Directory, EntryType::Directory]);
}

/// Attributes of directories were kept to the end and counted nowhere: 256 KiB an entry.
#[test]
fn all_that_is_kept_is_charged() {
    let meta = |size: usize| Meta {
        xattrs: (0..4).map(|n| (format!("user.{n}").into_bytes().into(), vec![n; size].into())).collect(),
        ..Meta::default()
    };
    let node = |path: EntryPath, meta: Meta| {
        let kind = NodeKind::Directory;
        DiffEntry::Node(Node { path, kind, meta })
    };
    let deep = |n: usize| path(&format!("{n}/{}", "d/".repeat(2000)));
    let long = |n: usize| path(&format!("{n}/{}/{}", "a".repeat(250), "b".repeat(250)));
    type Make<'a> = &'a dyn Fn(usize) -> DiffEntry;
    let cases: [(&str, Make<'_>, usize); 5] = [
        ("attributes", &|n| node(path(&n.to_string()), meta(64_000)), 600),
        ("few attributes", &|n| node(path(&n.to_string()), meta(1)), 200_000),
        ("parents", &|n| node(deep(n), Meta::default()), 40),
        ("whiteouts", &|n| DiffEntry::Whiteout { path: long(n) }, 130_000),
        ("opaque marks", &|n| DiffEntry::Opaque { dir: long(n) }, 130_000),
    ];
    for (what, entry, most) in cases {
        let mut tracker = Tracker::new();
        let refused = (0..most).find_map(|n| tracker.add(&entry(n)).err());
        let error = refused.unwrap_or_else(|| panic!("{what}: {} bytes", tracker.memory()));
        assert_eq!(*error.kind(), LayerErrorKind::TooMuch, "{what}");
        assert!(error.to_string().contains("than 132 MiB hold"), "{error}");
    }
    // A directory named again takes nothing more.
    let mut tracker = Tracker::new();
    let again = node(path("a"), meta(100));
    tracker.add(&again).unwrap();
    let once = tracker.memory();
    tracker.add(&again).unwrap();
    assert_eq!(tracker.memory(), once);
}
