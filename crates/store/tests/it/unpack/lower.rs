//! What a layer takes from the layers below it.

use plywood_image::testing::TarBuilder;
use plywood_kernel::testing::require_root;
use plywood_store::{Basis, FlatOptions, Image, Store};

use super::super::import_images::{LayerBlob, Layout, assert_untouched, chain, import};
use super::super::support::{flat_path, store};
use super::tree::Tree;
use super::{compare, header, overlay};

fn tars(layers: [TarBuilder; 2]) -> Vec<Vec<u8>> {
    layers.into_iter().map(TarBuilder::finish).collect()
}

fn blobs(tars: &[Vec<u8>]) -> Vec<LayerBlob> {
    tars.iter().map(|tar| LayerBlob::gzip(tar)).collect()
}

fn unpack(tars: &[Vec<u8>]) -> (tempfile::TempDir, Store, Image) {
    let (scratch, store) = store();
    let pins = store.pins().unwrap();
    let image =
        import(&store, &pins, &Layout::of("a", &blobs(tars))).unwrap_or_else(|e| panic!("{}", chain(&e)));
    (scratch, store, image)
}

fn layer_tree(store: &Store, image: &Image, index: usize) -> Tree {
    Tree::read(&store.layer_path(image.layers[index].id))
}

/// A directory that the layer does not list is the one below, attributes and all, and the layer is not shared with
/// images that have another.
#[test]
fn root_implied_directories_are_those_below() {
    require_root();
    let below = TarBuilder::new()
        .entry(&header(b'5', "./", 0o711, (3, 4), 77), b"")
        .xattr("user.note", "kept")
        .entry(&header(b'5', "srv", 0o2770, (5, 6), 1000), b"")
        .entry(&header(b'5', "srv/www", 0o700, (7, 8), 2000), b"");
    let above = TarBuilder::new().file("srv/www/index", "hello").file("new/deep/file", "x");
    let layers = tars([below, above]);
    let (_scratch, _store, image) = unpack(&layers);
    let ours = compare(&layers);
    assert_eq!(ours.get("new/deep").unwrap().mtime, (0, 0));
    assert_eq!(ours.get("").unwrap().mtime, (77, 0));
    assert_eq!(image.layers[0].info.basis, Basis::Nothing);
    assert_eq!(image.layers[1].info.basis, Basis::Chain);
    assert_eq!((image.layers[1].info.max_uid, image.layers[1].info.max_gid), (7, 8));
}

#[test]
fn root_layers_that_list_all_they_have_are_shared() {
    require_root();
    let shared = LayerBlob::gzip(&TarBuilder::new().dir("opt", 0o755).file("opt/x", "x").finish());
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let on = |base: &str| {
        let base = LayerBlob::gzip(&TarBuilder::new().file(base, "").finish());
        import(&store, &pins, &Layout::of("on", &[base, shared.clone()])).unwrap()
    };
    let (a, b) = (on("a"), on("b"));
    assert_eq!(a.layers[1].id, b.layers[1].id);
    assert_ne!(a.layers[0].id, b.layers[0].id);
}

/// A layer that does not list its root took that of the layers it was first unpacked on to all others.
#[test]
fn root_the_root_directory_is_that_of_the_layers_below_in_any_order() {
    require_root();
    let shared = LayerBlob::gzip(&TarBuilder::new().dir("opt", 0o755).file("opt/x", "x").finish());
    let top = LayerBlob::gzip(&TarBuilder::new().dir("top", 0o755).finish());
    let roots = [
        Some(header(b'5', "./", 0o755, (0, 0), 5)),
        Some(header(b'5', "./", 0o700, (1000, 0), 5)),
        Some(header(b'5', "./", 0o755, (0, 0), 6)),
        None,
    ];
    let expected = [
        (0o755, (0, 0), (5, 0)),
        (0o700, (1000, 0), (5, 0)),
        (0o755, (0, 0), (6, 0)),
        (0o755, (0, 0), (0, 0)),
    ];
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]];
    for order in orders {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        for n in order {
            let base = match &roots[n] {
                Some(root) => TarBuilder::new().entry(root, b""),
                None => TarBuilder::new(),
            };
            let base = LayerBlob::gzip(&base.dir("base", 0o755).finish());
            let layers = [base, shared.clone(), top.clone()];
            // Once with all layers missing but those of other images, once with all here.
            for name in ["first", "again"] {
                let image = import(&store, &pins, &Layout::of(name, &layers))
                    .unwrap_or_else(|e| panic!("{}", chain(&e)));
                let root =
                    overlay(&store, &image).get("").map(|e| (e.mode & 0o7777, e.owner, e.mtime)).unwrap();
                assert_eq!(root, expected[n], "{n} in {order:?}, {name}");
            }
        }
        assert_eq!(super::super::support::listed(&store, "layers").len(), 12, "one of each a root");
    }
}

/// overlayfs lists a whiteout in a directory that no other layer has.
#[test]
fn root_whiteouts_stay_only_where_they_hide_something() {
    require_root();
    let below =
        TarBuilder::new().dir("a", 0o755).file("a/x", "x").dir("b", 0o755).file("b/y", "y").symlink("l", "b");
    let above = TarBuilder::new()
        .dir("a", 0o755)
        .whiteout("a", "x")
        .whiteout("a", "nothing")
        .dir("b", 0o755)
        .opaque("b")
        .whiteout("b", "y")
        .dir("l", 0o755)
        .whiteout("l", "y")
        .whiteout("", "gone");
    let layers = tars([below, above]);
    let (_scratch, store, image) = unpack(&layers);
    let tree = layer_tree(&store, &image, 1);
    assert!(tree.get("a/x").is_some_and(|e| e.mode & 0o170_000 == 0o020_000 && e.rdev == 0));
    for absent in ["a/nothing", "b/y", "l/y", "gone"] {
        assert!(tree.get(absent).is_none(), "{absent}");
    }
    assert_eq!(image.layers[1].info.basis, Basis::Chain);
    compare(&layers);
}

/// A layer that only empties /tmp made it root's, mode 0755, dated 1970.
#[test]
fn root_an_emptied_directory_keeps_its_owner_and_mode() {
    require_root();
    let below = TarBuilder::new()
        .entry(&header(b'5', "tmp", 0o1777, (3, 4), 1000), b"")
        .file("tmp/x", "x")
        .entry(&header(b'5', "tmp/in", 0o700, (5, 6), 1000), b"")
        .entry(&header(b'5', "srv", 0o2770, (7, 8), 2000), b"")
        .entry(&header(b'5', "srv/in", 0o711, (7, 8), 2000), b"");
    let above = TarBuilder::new().opaque("tmp").opaque("tmp/in").opaque("srv").file("srv/in/file", "f");
    let layers = tars([below, above]);
    let (_scratch, store, image) = unpack(&layers);
    let tree = overlay(&store, &image);
    let tmp = tree.get("tmp").unwrap();
    assert_eq!((tmp.mode & 0o7777, tmp.owner, tmp.mtime), (0o1777, (3, 4), (1000, 0)));
    let srv = tree.get("srv").unwrap();
    assert_eq!((srv.mode & 0o7777, srv.owner), (0o2770, (7, 8)));
    let within = tree.get("srv/in").unwrap();
    assert_eq!((within.mode & 0o7777, within.owner), (0o755, (0, 0)), "emptied with what it was in");
    assert!(tree.get("tmp/x").is_none());
    assert_eq!(image.layers[1].info.basis, Basis::Chain);
    // Without srv/in, which umoci would give the group of the directory it was removed from.
    let below = TarBuilder::new()
        .entry(&header(b'5', "tmp", 0o1777, (3, 4), 1000), b"")
        .file("tmp/x", "x")
        .entry(&header(b'5', "srv", 0o2770, (7, 8), 2000), b"");
    compare(&tars([below, TarBuilder::new().opaque("tmp").opaque("srv")]));
}

/// A directory that was removed and made anew has nothing of the old one, even if its new entry is missing.
#[test]
fn root_a_replaced_directory_keeps_nothing() {
    require_root();
    let below = TarBuilder::new().entry(&header(b'5', "tmp", 0o1777, (3, 4), 1000), b"").file("tmp/x", "x");
    let above = TarBuilder::new().whiteout("", "tmp").opaque("tmp").file("tmp/y", "y");
    let (_scratch, store, image) = unpack(&tars([below, above]));
    let tree = overlay(&store, &image);
    let tmp = tree.get("tmp").unwrap();
    assert_eq!((tmp.mode & 0o7777, tmp.owner, tmp.mtime), (0o755, (0, 0), (0, 0)));
    assert!(tree.get("tmp/x").is_none() && tree.get("tmp/y").is_some());
}

#[test]
fn root_hard_links_into_lower_layers() {
    require_root();
    let below = TarBuilder::new()
        .dir("a", 0o755)
        .xattr("user.note", "kept")
        .entry(header(b'0', "a/file", 0o4750, (9, 10), 1234).size(7), b"content")
        .symlink("a/link", "file");
    let above = TarBuilder::new()
        .dir("a", 0o755)
        .hard_link("a/second", "a/file")
        .hard_link("a/third", "a/second")
        .hard_link("b-link", "a/link");
    let layers = tars([below, above]);
    let (_scratch, store, image) = unpack(&layers);
    let tree = overlay(&store, &image);
    let [first, second, third] = ["a/file", "a/second", "a/third"].map(|path| tree.get(path).unwrap());
    assert_eq!((first, second), (second, third));
    assert_eq!((first.mode & 0o7777, first.owner), (0o4750, (9, 10)));
    assert_eq!(image.layers[1].info.basis, Basis::Chain);
    compare(&layers);
}

/// A layer that links to a file below and then removes it: the removal was forgotten, and the file came back.
#[test]
fn root_a_hard_link_outlives_its_removed_target() {
    require_root();
    let below = || {
        TarBuilder::new()
            .entry(&header(b'5', "d", 0o750, (3, 4), 1000), b"")
            .xattr("user.note", "kept")
            .entry(header(b'0', "d/a", 0o4750, (9, 10), 1234).size(7), b"content")
            .file("d/z", "z")
            .symlink("d/s", "z")
            .dir("usr", 0o755)
            .dir("usr/bin", 0o755)
            .file("usr/bin/tool", "tool")
            .symlink("bin", "usr/bin")
    };
    let link = || TarBuilder::new().hard_link("d/l", "d/a");
    let outside = || TarBuilder::new().hard_link("l", "d/a").hard_link("m", "d/a").hard_link("n", "l");
    for (what, above, stay, gone) in [
        ("whiteout", link().whiteout("d", "a"), &["d/l", "d/z"][..], &["d/a"][..]),
        ("opaque", link().opaque("d"), &["d/l"], &["d/a", "d/z"]),
        ("outside, whiteout", outside().whiteout("d", "a"), &["l", "m", "n", "d/z"], &["d/a"]),
        ("outside, opaque", outside().opaque("d"), &["l", "m", "n", "d"], &["d/a", "d/z"]),
        ("outside, directory", outside().whiteout("", "d"), &["l", "m", "n"], &["d"]),
        (
            "outside, replaced",
            outside().whiteout("", "d").dir("d", 0o711).file("d/new", "new"),
            &["l", "m", "n", "d/new"],
            &["d/a", "d/z"],
        ),
        ("outside, now a file", outside().whiteout("", "d").file("d", "d"), &["l", "m", "n", "d"], &[]),
        (
            "a symbolic link",
            TarBuilder::new().hard_link("l", "d/s").hard_link("m", "l").whiteout("d", "s"),
            &["l", "m"],
            &["d/s"],
        ),
        (
            "through a link",
            TarBuilder::new().hard_link("l", "bin/tool").whiteout("usr/bin", "tool"),
            &["l", "bin", "usr/bin"],
            &["usr/bin/tool"],
        ),
        (
            "through a removed link",
            TarBuilder::new().hard_link("l", "bin/tool").whiteout("", "bin"),
            &["l", "usr/bin/tool"],
            &["bin"],
        ),
    ] {
        let layers = tars([below(), above]);
        let tree = compare(&layers);
        for path in stay {
            assert!(tree.get(path).is_some(), "{what}: {path}");
        }
        for path in gone {
            assert!(tree.get(path).is_none(), "{what}: {path}");
        }
        if let (Some(l), Some(m)) = (tree.get("l"), tree.get("m")) {
            assert_eq!(l, m, "{what}");
        }
        let (_scratch, store, image) = unpack(&layers);
        let ids = image.layer_ids();
        let pins = store.pins().unwrap();
        store.build_flat(&pins, image.chain_id.as_ref().unwrap(), &ids, FlatOptions::default()).unwrap();
        let flat = store.find_flat(image.chain_id.as_ref().unwrap()).unwrap().unwrap();
        assert_eq!(
            Tree::read(&flat_path(&store, flat.id)).differences(&tree),
            Vec::<String>::new(),
            "{what}"
        );
    }
}

/// A layer for a merged /usr may list what is below /bin and not /bin itself.
#[test]
fn root_paths_through_a_lower_symbolic_link() {
    require_root();
    let below = TarBuilder::new()
        .dir("usr", 0o755)
        .entry(&header(b'5', "usr/bin", 0o751, (0, 2), 55), b"")
        .file("usr/bin/old", "old")
        .symlink("bin", "usr/bin")
        .symlink("up", "../../../../usr")
        .dir("opt", 0o755)
        .symlink("opt/absolute", "/bin");
    let above = TarBuilder::new()
        .file("bin/tool", "tool")
        .hard_link("bin/tool2", "bin/tool")
        .hard_link("bin/older", "bin/old")
        .file("opt/absolute/two-links", "2")
        .file("up/file", "stays inside");
    let layers = tars([below, above]);
    let (_scratch, store, image) = unpack(&layers);
    let tree = overlay(&store, &image);
    assert_eq!(tree.get("bin").unwrap().content, "usr/bin");
    for path in ["usr/bin/tool", "usr/bin/tool2", "usr/bin/older", "usr/bin/two-links", "usr/file"] {
        assert!(tree.get(path).is_some(), "{path}");
    }
    assert_eq!(image.layers[1].info.basis, Basis::Chain);
    compare(&layers);
}

/// overlayfs merges the roots of all layers, marked or not.
#[test]
fn root_an_opaque_root_hides_everything_below() {
    require_root();
    let below = TarBuilder::new().dir("a", 0o755).file("a/x", "x").file("b", "b").dir("c", 0o755);
    let above = TarBuilder::new()
        .entry(&header(b'5', "./", 0o755, (0, 0), 9), b"")
        .opaque("")
        .dir("a", 0o755)
        .file("n", "n");
    let layers = tars([below, above]);
    let (_scratch, store, image) = unpack(&layers);
    let tree = overlay(&store, &image);
    assert!(tree.get("a").is_some() && tree.get("n").is_some());
    for hidden in ["a/x", "b", "c"] {
        assert!(tree.get(hidden).is_none(), "{hidden}");
    }
    assert_eq!(tree.get("").unwrap().mtime, (9, 0));
}

#[test]
fn root_what_does_not_fit_the_layers_below_is_refused() {
    require_root();
    let below = || TarBuilder::new().file("file", "f").symlink("loop", "loop").dir("dir", 0o755);
    for (above, expected) in [
        (TarBuilder::new().file("file/below", "x"), "the layers below have a file there"),
        (TarBuilder::new().hard_link("x", "absent"), "neither in this layer nor in those below"),
        (TarBuilder::new().hard_link("x", "dir"), "\"dir\" is a directory of the layers below"),
        (TarBuilder::new().hard_link("x", "dir").whiteout("", "dir"), "\"dir\" is a directory"),
        (TarBuilder::new().hard_link("x", "absent").whiteout("", "absent"), "neither in this layer"),
        (TarBuilder::new().file("loop/x", "x"), "too many symbolic links"),
        (
            TarBuilder::new().whiteout("", "file").hard_link("x", "file"),
            "\"x\": hard link target \"file\" is removed",
        ),
        (
            TarBuilder::new().opaque("dir").hard_link("x", "dir/in"),
            "\"x\": hard link target \"dir/in\" is removed",
        ),
        (
            TarBuilder::new().hard_link("x", "file").whiteout("", "file").hard_link("y", "file"),
            "\"y\": hard link target \"file\" is removed",
        ),
    ] {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let error =
            chain(&import(&store, &pins, &Layout::of("a", &blobs(&tars([below(), above])))).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.contains("layer 2"), "{error}");
        assert_untouched(&store);
    }
}

/// More implied directories than a process may have descriptors, and a depth beyond what is kept open.
#[test]
fn root_many_and_deep_implied_directories() {
    require_root();
    let deep = |n: usize| format!("{}/{n}", vec!["deep"; 60].join("/"));
    let below =
        (0..3000).fold(TarBuilder::new(), |tar, n| tar.dir(format!("many/{n}"), 0o711)).dir(deep(0), 0o700);
    let above = (0..3000).fold(TarBuilder::new(), |tar, n| tar.file(format!("many/{n}/x"), "x"));
    let above = above.file(format!("{}/x", deep(0)), "x").file(format!("{}/x", deep(1)), "x");
    let (_scratch, store, image) = unpack(&tars([below, above]));
    let tree = layer_tree(&store, &image, 1);
    assert!((0..3000).all(|n| tree.get(&format!("many/{n}")).unwrap().mode & 0o7777 == 0o711));
    assert_eq!(tree.get(&deep(0)).unwrap().mode & 0o7777, 0o700);
    assert_eq!(tree.get(&deep(1)).unwrap().mode & 0o7777, 0o755);
}
