//! Unpacked trees against `umoci unpack`, and everything a layer may not do.

#[path = "unpack/hostile.rs"]
mod hostile;
#[path = "unpack/lower.rs"]
mod lower;
#[path = "unpack/memory.rs"]
mod memory;
#[path = "unpack/tree.rs"]
mod tree;

use plywood_image::testing::{RawHeader, TarBuilder};
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_store::{Image, Store};

use super::import_images::{LayerBlob, Layout, chain, import, run};
use super::support::store;
use tree::Tree;

/// What an overlay of the image's layers shows, mounted in a namespace of its own.
fn overlay(store: &Store, image: &Image) -> Tree {
    in_private_mount_ns(|| {
        let scratch = tempfile::tempdir().unwrap();
        let root = store.root().path().join("layers");
        let mut layers: Vec<String> = image.layer_ids().iter().rev().map(|id| format!("{id}/fs")).collect();
        if layers.len() == 1 {
            // overlayfs wants two.
            let empty = scratch.path().join("empty");
            std::fs::create_dir(&empty).unwrap();
            layers.push(empty.to_str().unwrap().to_owned());
        }
        let at = scratch.path().join("merged");
        std::fs::create_dir(&at).unwrap();
        let options = format!("ro,lowerdir={}", layers.join(":"));
        let script =
            format!("cd '{}' && mount -t overlay -o '{options}' overlay '{}'", root.display(), at.display());
        run("sh", "dash", &["-c", &script]);
        let tree = Tree::read(&at);
        run("umount", "mount", &[at.to_str().unwrap()]);
        tree
    })
}

/// What umoci makes of the same layers, except for times that it invents.
fn umoci(tars: &[Vec<u8>], ours: &Tree) -> Tree {
    // All gzip: Debian's umoci knows no zstd.
    let layers: Vec<LayerBlob> = tars.iter().map(|tar| LayerBlob::gzip(tar)).collect();
    let layout = Layout::of("theirs", &layers);
    let scratch = tempfile::tempdir().unwrap();
    let bundle = scratch.path().join("bundle");
    let image = format!("{}:theirs", layout.path().display());
    run("umoci", "umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let mut tree = Tree::read(&bundle.join("rootfs"));
    tree.overlook_undated(ours);
    tree
}

/// Unpacks layers, compressed in turn by gzip, by zstd and not at all, and compares their overlay with umoci's tree.
fn compare(tars: &[Vec<u8>]) -> Tree {
    let compressions =
        [LayerBlob::gzip as fn(&[u8]) -> LayerBlob, LayerBlob::zstd, |tar| LayerBlob::plain(tar.to_vec())];
    let layers: Vec<LayerBlob> =
        tars.iter().zip(compressions.iter().cycle()).map(|(tar, by)| by(tar)).collect();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image =
        import(&store, &pins, &Layout::of("ours", &layers)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let ours = overlay(&store, &image);
    assert_eq!(ours.differences(&umoci(tars, &ours)), Vec::<String>::new());
    assert!(ours.len() > 1);
    ours
}

fn header(flag: u8, name: &str, mode: u64, owner: (u64, u64), mtime: i64) -> RawHeader {
    let mut header = RawHeader::new(flag);
    header.name(name).mode(mode).owner(owner.0, owner.1).mtime(mtime);
    header
}

/// A base with every kind of file and every kind of attribute.
fn base() -> TarBuilder {
    let long = format!("long/{}/{}", "d".repeat(120), "f".repeat(200));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let text = |n: usize| vec![b'a' + (n % 26) as u8; 5000 + n];
    let mut suid = header(b'0', "bin/suid", 0o4755, (0, 7), 1_000_000_001);
    let mut owned = header(b'0', "home/me/file", 0o600, (1000, 1001), 1_234_567_890);
    let mut beyond = header(b'0', "home/me/beyond", 0o640, (3_000_000_000, 4_000_000_000), -5);
    let mut device = header(b'3', "dev/null", 0o666, (0, 0), 5);
    let mut block = header(b'4', "dev/loop9", 0o660, (0, 6), 6);
    let fifo = header(b'6', "run/fifo", 0o622, (5, 5), 7);
    let mut symlink = header(b'2', "bin/link", 0o777, (12, 13), 8);
    TarBuilder::new()
        .entry(&header(b'5', "./", 0o755, (0, 0), 99), b"")
        .dir("bin", 0o755)
        .entry(suid.size(4), b"suid")
        .pax("mtime", "1500000000.123456789")
        .file("bin/tool", text(1))
        .hard_link("bin/tool2", "bin/tool")
        .entry(symlink.link("/bin/tool"), b"")
        .xattr("security.capability", capability)
        .file("bin/ping", text(2))
        .entry(&header(b'5', "home", 0o755, (0, 0), 11), b"")
        .entry(&header(b'5', "home/me", 0o2750, (1000, 1001), 12), b"")
        .entry(owned.size(2), b"me")
        .entry(beyond.size(1), b"b")
        .entry(&header(b'5', "tmp", 0o1777, (0, 0), 13), b"")
        .dir("dev", 0o755)
        .entry(device.device(1, 3), b"")
        .entry(block.device(7, 9), b"")
        .dir("run", 0o755)
        .entry(&fifo, b"")
        .xattr("user.note", "a directory's")
        .dir("noted", 0o711)
        .xattr("user.note", [0, 1, 2, 255])
        .file("noted/file", "x")
        .dir(format!("long/{}", "d".repeat(120)), 0o755)
        .file(long, "deep")
        .dir("etc", 0o755)
        .file("etc/one", "1")
        .file("etc/two", "2")
        .file("etc/empty", "")
        .dir("var", 0o755)
        .dir("var/cache", 0o755)
        .file("var/cache/a", "a")
        .file("var/cache/b", "b")
        .dir("var/old", 0o755)
        .file("var/old/x", "x")
}

#[test]
fn root_every_kind_of_file_as_umoci_unpacks_it() {
    require_root();
    let tree = compare(&[base().finish()]);
    assert_eq!(tree.get("").unwrap().mtime, (99, 0));
}

#[test]
fn root_changes_over_several_layers_as_umoci_unpacks_them() {
    require_root();
    let second = TarBuilder::new()
        // Removed, replaced by another kind, emptied, removed and made anew.
        .dir("etc", 0o750)
        .whiteout("etc", "one")
        .file("etc/two", "two, changed")
        .dir("var", 0o755)
        .dir("var/cache", 0o700)
        .opaque("var/cache")
        .file("var/cache/c", "c")
        .whiteout("var", "old")
        .dir("noted", 0o700)
        .dir("bin", 0o755)
        .whiteout("bin", "link")
        .dir("bin/link", 0o755)
        .file("bin/link/inside", "now a directory");
    let third = TarBuilder::new()
        .dir("var", 0o755)
        .dir("var/old", 0o700)
        .file("var/old/new", "again")
        .dir("etc", 0o755)
        .file("etc/one", "back")
        .hard_link("etc/uno", "etc/one")
        .file("bin/link", "a file again")
        // Nothing to remove: must not show.
        .whiteout("etc", "never-was")
        .dir("fresh", 0o755)
        .whiteout("fresh", "ghost");
    compare(&[base().finish(), second.finish(), third.finish()]);
}

#[test]
fn root_sparse_files_keep_their_holes() {
    require_root();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("sparse");
    run("truncate", "coreutils", &["-s", "64M", file.to_str().unwrap()]);
    let write = format!(
        "printf data | dd of={0} bs=1 seek=1M conv=notrunc; printf end | dd of={0} bs=1 seek=40M conv=notrunc",
        file.display()
    );
    run("sh", "dash", &["-c", &write]);
    for format in ["gnu", "posix"] {
        let tar = scratch.path().join("sparse.tar");
        let dir = scratch.path().to_str().unwrap();
        let archive = tar.to_str().unwrap();
        run(
            "tar",
            "tar",
            &["-C", dir, "--format", format, "--sparse", "--numeric-owner", "-cf", archive, "sparse"],
        );
        let bytes = std::fs::read(&tar).unwrap();
        assert!(bytes.len() < 1 << 20);
        let layout = Layout::of("sparse", &[LayerBlob::gzip(&bytes)]);
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let image = import(&store, &pins, &layout).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let unpacked = store.layer_path(image.layers[0].id).join("sparse");
        let (ours, original) = (Tree::read(unpacked.parent().unwrap()), std::fs::read(&file).unwrap());
        assert_eq!(std::fs::read(&unpacked).unwrap(), original, "{format}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&unpacked).unwrap());
        assert!(blocks * 512 < 1 << 20, "{format}: {blocks}");
        // Debian's umoci does not know GNU's own format.
        if format == "posix" {
            assert_eq!(ours.differences(&umoci(&[bytes], &ours)), Vec::<String>::new());
        }
    }
}

/// Real files of this machine, by GNU tar: whatever Debian has in these directories.
#[test]
fn root_real_directories_as_umoci_unpacks_them() {
    require_root();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("real.tar");
    let options = [
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "--format=posix",
        "--pax-option=delete=atime,delete=ctime",
    ];
    let args = ["-C", "/", "-cf", archive.to_str().unwrap(), "etc", "usr/share/perl5", "usr/lib/terminfo"];
    let output = std::process::Command::new("tar").args(options).args(args).output().unwrap();
    // Files of a living machine may change meanwhile (status 1); whatever was archived is what counts.
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    compare(&[std::fs::read(&archive).unwrap()]);
}
