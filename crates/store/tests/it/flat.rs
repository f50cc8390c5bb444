//! Flat trees and the merged view against the kernel's own overlay of the same layers.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plywood_image::ChainId;
use plywood_kernel::{FsContext, MountAttrs, MountFd};
use plywood_store::{BuildFlat, Flat, FlatError, FlatOptions, Layer, LayerId, Pins, Store};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps};

use crate::import_images::run;
use crate::support::{describe, digest, flat_path, layer, listed, names, opaque, store, whiteout, xattr};

fn chain(name: &str) -> ChainId {
    ChainId(digest(name))
}

fn ids(layers: &[Layer]) -> Vec<LayerId> {
    layers.iter().map(|layer| layer.id).collect()
}

fn build(store: &Store, pins: &Pins, name: &str, layers: &[Layer]) -> Flat {
    match store.build_flat(pins, &chain(name), &ids(layers), FlatOptions::default()).unwrap() {
        BuildFlat::Built(flat) => flat,
        other => panic!("{other:?}"),
    }
}

/// A detached overlay of the layers; its path goes through the descriptor.
fn overlay(store: &Store, layers: &[Layer]) -> (MountFd, PathBuf) {
    let context = FsContext::open("overlay").unwrap();
    let empty = store.root().path().join("empty");
    fs::create_dir_all(&empty).unwrap();
    for layer in layers.iter().rev() {
        context.set_string("lowerdir+", store.layer_path(layer.id)).unwrap();
    }
    // Overlayfs wants two layers at least.
    context.set_string("lowerdir+", &empty).unwrap();
    context.create().unwrap();
    let mount = context.mount(MountAttrs::RDONLY).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    (mount, path)
}

fn age(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Gives every entry a time of its own, deepest first.
fn age_all(dir: &Path, seconds: i64) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            age_all(&entry.path(), seconds + 7);
        } else {
            age(&entry.path(), seconds + 3);
        }
    }
    age(dir, seconds);
}

/// Three layers with everything a layer can have.
fn everything(store: &Store, pins: &Pins) -> Vec<Layer> {
    let low = layer(store, pins, "low", |dir| {
        for path in
            ["etc/conf.d", "gone/deep", "opaque/below", "file-over-dir/x", "bin", "re/created", "mode"]
        {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::write(dir.join("etc/passwd"), "root").unwrap();
        fs::write(dir.join("etc/conf.d/a"), "a").unwrap();
        fs::write(dir.join("opaque/below/x"), "x").unwrap();
        fs::write(dir.join("re/created/old"), "old").unwrap();
        fs::write(dir.join("dir-over-file"), "file").unwrap();
        fs::write(dir.join("removed"), "removed").unwrap();
        fs::hard_link(dir.join("etc/passwd"), dir.join("bin/passwd")).unwrap();
        symlink("/etc/passwd", dir.join("link")).unwrap();
        symlink("bin", dir.join("link-to-dir")).unwrap();
        fs::write(dir.join("bin/su"), "su").unwrap();
        chown(dir.join("bin/su"), Some(5), Some(6)).unwrap();
        fs::set_permissions(dir.join("bin/su"), fs::Permissions::from_mode(0o4751)).unwrap();
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        xattr(&dir.join("bin/su"), "security.capability", &capability);
        xattr(&dir.join("bin/su"), "user.note", b"\0binary\xff");
        rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        rustix::fs::mknodat(
            CWD,
            dir.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        let sparse = fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        age_all(dir, 1_000_000_000);
    });
    let middle = layer(store, pins, "middle", |dir| {
        for path in ["etc/conf.d", "opaque", "dir-over-file", "mode", "link-to-dir"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        whiteout(&dir.join("gone"));
        whiteout(&dir.join("removed"));
        whiteout(&dir.join("re"));
        whiteout(&dir.join("etc/conf.d/a"));
        whiteout(&dir.join("never-there"));
        opaque(&dir.join("opaque"));
        fs::write(dir.join("opaque/new"), "new").unwrap();
        fs::write(dir.join("file-over-dir"), "file").unwrap();
        fs::write(dir.join("dir-over-file/inside"), "inside").unwrap();
        fs::write(dir.join("link-to-dir/inside"), "a directory now").unwrap();
        chown(dir.join("mode"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(dir.join("mode"), fs::Permissions::from_mode(0o2770)).unwrap();
        xattr(&dir.join("mode"), "user.dir", b"value");
        xattr(&dir.join("mode"), "trusted.theirs", b"kept");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        age_all(dir, 1_100_000_000);
    });
    let high = layer(store, pins, "high", |dir| {
        for path in ["re/created", "etc", "opaque"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::write(dir.join("re/created/new"), "new").unwrap();
        fs::write(dir.join("etc/passwd"), "root and more").unwrap();
        fs::write(dir.join("opaque/higher"), "higher").unwrap();
        fs::write(dir.join(OsStr::from_bytes(b"\xff\n\x01")), "").unwrap();
        age_all(dir, 1_200_000_000);
    });
    vec![low, middle, high]
}

#[test]
fn root_a_flat_tree_is_what_the_overlay_shows() {
    plywood_kernel::testing::require_root();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let layers = everything(&store, &pins);
    for depth in 1..=layers.len() {
        let layers = &layers[..depth];
        let flat = build(&store, &pins, &format!("{depth}"), layers);
        let (_mount, path) = overlay(&store, layers);
        let expected = describe(&path);
        assert_eq!(describe(&flat_path(&store, flat.id)), expected, "{depth} layers");
        assert_eq!(flat.entries as usize, expected.len() - 1);
        assert_eq!(flat.copied_bytes, 0);
    }
    // Links, not copies.
    let low = fs::metadata(store.layer_path(layers[0].id).join("bin/su")).unwrap();
    let flat = store.find_flat(&chain("3")).unwrap().unwrap();
    assert_eq!(fs::metadata(flat_path(&store, flat.id).join("bin/su")).unwrap().ino(), low.ino());
}

/// Each layer is a mount of its own, so that every link is refused, as quotas by project refuse them; and the file system
/// shares no contents.
#[test]
fn root_what_cannot_be_linked_is_copied_whole() {
    plywood_kernel::testing::require_root();
    plywood_kernel::testing::in_private_mount_ns(|| {
        let scratch = tempfile::tempdir().unwrap();
        let context = FsContext::open("tmpfs").unwrap();
        context.create().unwrap();
        context.mount(MountAttrs::NONE).unwrap().attach(CWD, scratch.path()).unwrap();
        let store = Store::open(&scratch.path().join("root")).unwrap();
        let pins = store.pins().unwrap();
        let layers = everything(&store, &pins);
        for layer in &layers {
            let path = store.layer_path(layer.id);
            let path = path.to_str().unwrap();
            run("mount", "mount", &["--bind", path, path]);
        }
        let flat = build(&store, &pins, "copied", &layers);
        let (_mount, path) = overlay(&store, &layers);
        assert_eq!(describe(&flat_path(&store, flat.id)), describe(&path));
        assert!(flat.copied_bytes > 0);
        let tree = flat_path(&store, flat.id);
        assert_eq!(fs::metadata(tree.join("sparse")).unwrap().blocks(), 0, "holes stay holes");
        let one = layers[..1].to_vec();
        let flat = build(&store, &pins, "linked", &one);
        let tree = flat_path(&store, flat.id);
        let ino = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
        assert_eq!(ino("etc/passwd"), ino("bin/passwd"), "hard links stay hard links");
    });
}

#[test]
fn root_a_file_with_no_link_left_is_copied() {
    plywood_kernel::testing::require_root();
    let (scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = layer(&store, &pins, "a", |dir| {
        fs::write(dir.join("full"), "full").unwrap();
        fs::write(dir.join("other"), "other").unwrap();
    });
    let links = scratch.path().join("links");
    fs::create_dir(&links).unwrap();
    let original = store.layer_path(made.id).join("full");
    let mut refused = None;
    for n in 0..70_000 {
        if let Err(error) = fs::hard_link(&original, links.join(n.to_string())) {
            refused = Some(error);
            break;
        }
    }
    assert!(refused.is_some(), "this file system allows more links than ext4's 65,000");
    let flat = build(&store, &pins, "a", &[made]);
    assert_eq!(flat.copied_bytes, 4);
    let copy = flat_path(&store, flat.id).join("full");
    assert_eq!(fs::read(&copy).unwrap(), b"full");
    assert_eq!(fs::metadata(copy).unwrap().nlink(), 1);
}

#[test]
fn a_tree_is_built_once_and_found() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let layers = [layer(&store, &pins, "a", |dir| fs::write(dir.join("x"), "x").unwrap())];
    assert_eq!(store.find_flat(&chain("a")).unwrap(), None);
    let made = build(&store, &pins, "a", &layers);
    assert_eq!(store.find_flat(&chain("a")).unwrap().as_ref(), Some(&made));
    assert_eq!(pins.find_flat(&chain("a")).unwrap().as_ref(), Some(&made));
    let again = store.build_flat(&pins, &chain("a"), &ids(&layers), FlatOptions::default()).unwrap();
    assert_eq!(again, BuildFlat::Found(made.clone()));
    assert_eq!(listed(&store, "flat"), [made.id.to_string()]);
}

#[test]
fn of_many_builders_one_builds_and_the_others_wait_or_leave() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let layers = [layer(&store, &pins, "a", |dir| {
        for n in 0..2_000 {
            fs::write(dir.join(n.to_string()), "").unwrap();
        }
    })];
    let ids = ids(&layers);
    let outcomes: Vec<BuildFlat> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let (store, pins, ids) = (&store, &pins, &ids);
                let options = FlatOptions { wait: n % 2 == 0, background: true, ..FlatOptions::default() };
                scope.spawn(move || store.build_flat(pins, &chain("a"), ids, options).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let built = outcomes.iter().filter(|outcome| matches!(outcome, BuildFlat::Built(_))).count();
    assert_eq!(built, 1, "{outcomes:?}");
    assert!(outcomes.iter().step_by(2).all(|outcome| *outcome != BuildFlat::Busy), "{outcomes:?}");
    assert_eq!(listed(&store, "flat").len(), 1);
}

#[test]
fn a_cancelled_build_leaves_nothing_and_can_be_repeated() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let layers = [layer(&store, &pins, "a", |dir| {
        for n in 0..3_000 {
            fs::write(dir.join(n.to_string()), "").unwrap();
        }
    })];
    let cancel = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    let progress = |entries: u64| {
        seen.fetch_max(entries, Ordering::Relaxed);
        cancel.store(true, Ordering::Relaxed);
    };
    let options = FlatOptions { progress: Some(&progress), cancel: Some(&cancel), ..FlatOptions::default() };
    let error = store.build_flat(&pins, &chain("a"), &ids(&layers), options).unwrap_err();
    assert!(matches!(error, FlatError::Cancelled), "{error:?}");
    assert!((1..3_000).contains(&seen.load(Ordering::Relaxed)));
    assert!(listed(&store, "flat").is_empty());
    assert!(listed(&store, "trash").is_empty());
    assert_eq!(build(&store, &pins, "a", &layers).entries, 3_000);
}

/// A layer of a random image: names and what happens to them, in order.
type Change = (Vec<u8>, u8);

fn change() -> impl Strategy<Value = Change> {
    (proptest::collection::vec(0u8..3, 1..4), 0u8..6)
}

fn apply(dir: &Path, changes: &[Change]) {
    for (names, kind) in changes {
        let names: Vec<String> = names.iter().map(|name| char::from(b'a' + name).to_string()).collect();
        let (last, parents) = names.split_last().unwrap();
        let parent = parents.iter().fold(dir.to_owned(), |path, name| path.join(name));
        // Where an earlier change put something else, this one does not apply.
        let _ = fs::create_dir_all(&parent);
        let plain = fs::symlink_metadata(&parent).is_ok_and(|meta| meta.is_dir());
        let path = parent.join(last);
        if !plain || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match kind {
            0 => fs::write(&path, format!("{path:?}")).unwrap(),
            1 => fs::create_dir(&path).unwrap(),
            2 => {
                fs::create_dir(&path).unwrap();
                opaque(&path);
            }
            3 => symlink("a/b", &path).unwrap(),
            _ => whiteout(&path),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn root_random_layers_merge_as_the_overlay_merges_them(
        layers in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..6)
    ) {
        plywood_kernel::testing::require_root();
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let layers: Vec<Layer> = layers
            .iter()
            .enumerate()
            .map(|(n, changes)| layer(&store, &pins, &n.to_string(), |dir| apply(dir, changes)))
            .collect();
        let (_mount, path) = overlay(&store, &layers);
        let expected = describe(&path);
        let flat = build(&store, &pins, "random", &layers);
        prop_assert_eq!(describe(&flat_path(&store, flat.id)), &expected[..]);

        let tree = store.merged(&ids(&layers)).unwrap();
        let mut seen = 0;
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            let real = names(&path.join(&dir).join("."));
            let entries = tree.read_dir(&dir).unwrap().unwrap();
            let ours: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            prop_assert_eq!(ours, real, "{:?}", dir);
            for entry in entries {
                seen += 1;
                let below = dir.join(&entry.name);
                let found = tree.lookup_no_follow(&below).unwrap().unwrap();
                prop_assert_eq!(found.file_type(), entry.file_type);
                if entry.file_type == FileType::Directory {
                    pending.push(below);
                }
            }
        }
        prop_assert_eq!(seen + 1, expected.len());
    }
}
