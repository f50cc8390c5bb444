//! A state root on a file system that has hardly room for an image.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plywood_image::testing::{RawHeader, TarBuilder};
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_store::{Cancel, Event, FetchRequest, Source, Store, fetch_image};
use rustix::fs::{CWD, Mode, OFlags};

use super::import_images::{LayerBlob, Layout, assert_untouched, chain, fetch, import, run};

const MIB: usize = 1 << 20;

/// Runs `test` with a state root on a file system of 64 MiB of each kind.
fn on_small_disks(test: fn(&str, &Store)) {
    require_root();
    in_private_mount_ns(|| {
        for kind in ["tmpfs", "ext4"] {
            let scratch = tempfile::tempdir().unwrap();
            let disk = scratch.path().join("disk");
            std::fs::create_dir(&disk).unwrap();
            let at = disk.to_str().unwrap();
            if kind == "tmpfs" {
                run("mount", "mount", &["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", at]);
            } else {
                let file = scratch.path().join("ext4");
                let file = file.to_str().unwrap();
                run("truncate", "coreutils", &["-s", "64M", file]);
                run("mkfs.ext4", "e2fsprogs", &["-q", "-m", "0", file]);
                // The loop device goes with the mount.
                run("mount", "mount", &["-o", "loop", file, at]);
            }
            let store = Store::open(&disk.join("root")).unwrap();
            test(kind, &store);
            drop(store);
            run("umount", "mount", &[at]);
        }
    });
}

/// The kernel takes the nearest time that the file system has, and says nothing.
#[test]
fn root_times_that_a_file_system_does_not_have_are_told() {
    on_small_disks(|kind, store| {
        let pins = store.pins().unwrap();
        let tar = TarBuilder::new()
            .pax("mtime", "1099511627776")
            .file("file", "x")
            .pax("mtime", "-1099511627776")
            .symlink("link", "file")
            .pax("mtime", "1099511627776")
            .dir("dir", 0o755)
            .pax("mtime", "4294967296")
            .file("within", "x")
            .finish();
        let layout = Layout::of("a", &[LayerBlob::gzip(&tar)]);
        let told = std::sync::Mutex::new(Vec::new());
        let note = |event| {
            if let Event::LeftOut { what, .. } = event {
                told.lock().unwrap().push(what.to_string());
            }
        };
        let request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
        let fetched = fetch_image(store, &pins, &request, &note, &Cancel::new());
        let image = fetched.unwrap_or_else(|e| panic!("{kind}: {}", chain(&e))).image;
        let time = |name: &str| {
            let path = store.layer_path(image.layers[0].id).join(name);
            std::fs::symlink_metadata(path).unwrap().mtime()
        };
        let times = ["file", "link", "dir", "within"].map(time);
        let told = told.into_inner().unwrap();
        let far = 1 << 40;
        if kind == "tmpfs" {
            assert_eq!((times, told.len()), ([far, -far, far, 1 << 32], 0), "{told:?}");
        } else {
            assert_eq!(times[3], 1 << 32);
            assert!(times[..3].iter().all(|time| time.abs() < far), "{times:?}");
            assert_eq!(told, ["times beyond those of the file system of 3 entries"]);
        }
    });
}

/// Files were taken for the process's group's; on such a mount they are their directory's.
#[test]
fn root_groups_are_the_images_where_directories_give_theirs() {
    require_root();
    in_private_mount_ns(|| {
        let scratch = tempfile::tempdir().unwrap();
        let (disk, file) = (scratch.path().join("disk"), scratch.path().join("ext4"));
        std::fs::create_dir(&disk).unwrap();
        let (at, file) = (disk.to_str().unwrap(), file.to_str().unwrap());
        run("truncate", "coreutils", &["-s", "64M", file]);
        run("mkfs.ext4", "e2fsprogs", &["-q", "-m", "0", file]);
        run("mount", "mount", &["-o", "loop,grpid", file, at]);
        std::os::unix::fs::chown(&disk, None, Some(50)).unwrap();
        let store = Store::open(&disk.join("root")).unwrap();
        let pins = store.pins().unwrap();
        let tar = TarBuilder::new()
            .file("file", "x")
            .symlink("link", "file")
            .fifo("fifo")
            .dir("dir", 0o755)
            .file("dir/file", "x")
            .file("implied/file", "x");
        let image = import(&store, &pins, &Layout::of("a", &[LayerBlob::gzip(&tar.finish())]));
        let image = image.unwrap_or_else(|e| panic!("{}", chain(&e)));
        let root = store.layer_path(image.layers[0].id);
        for path in ["", "file", "link", "fifo", "dir", "dir/file", "implied", "implied/file"] {
            let found = std::fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!((found.uid(), found.gid()), (0, 0), "{path}");
        }
        drop((pins, store));
        run("umount", "mount", &[at]);
    });
}

fn zeros(name: &str, mebibytes: usize) -> LayerBlob {
    LayerBlob::zstd(&TarBuilder::new().file(name, vec![0; mebibytes * MIB]).finish())
}

fn free_mib(dir: &Path) -> usize {
    let dir: OwnedFd = rustix::fs::openat(CWD, dir, OFlags::PATH, Mode::empty()).unwrap();
    let stat = rustix::fs::fstatvfs(dir.as_fd()).unwrap();
    usize::try_from(stat.f_bavail * stat.f_frsize).unwrap() / MIB
}

/// 256 MiB were kept free of any file system, so nothing at all fitted a small one.
#[test]
fn root_a_small_file_system_takes_what_fits_it() {
    on_small_disks(|kind, store| {
        let pins = store.pins().unwrap();
        let before = free_mib(store.root().path());
        // One layer too large, and four that are too large together.
        let four: Vec<LayerBlob> = (0..4).map(|n| zeros(&n.to_string(), 20)).collect();
        for (name, layers) in [("large", vec![zeros("large", 80)]), ("many", four)] {
            let layout = Layout::of(name, &layers);
            let error = chain(&import(store, &pins, &layout).unwrap_err());
            assert!(error.contains("cannot be unpacked: the layer is too large"), "{kind}: {error}");
            // A twentieth of it, less what ext4 needs for itself.
            assert!(error.contains("bytes free, and ") && error.contains("are kept free"), "{kind}: {error}");
            assert_untouched(store);
        }
        assert!(free_mib(store.root().path()) + 1 >= before, "{kind}");
        let image = import(store, &pins, &Layout::of("small", &[zeros("a", 15), zeros("b", 15)]));
        let image = image.unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
        assert_eq!(image.size_bytes(), 30 * MIB as u64);
        // What is kept free can be said, and is kept.
        let layout = Layout::of("more", &[zeros("c", 5)]);
        let mut request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
        request.limits.keep_free_bytes = Some(30 * MIB as u64);
        let error = chain(&fetch(store, &pins, &request).unwrap_err());
        assert!(error.contains("and 31457280 are kept free"), "{kind}: {error}");
        request.limits.keep_free_bytes = Some(0);
        fetch(store, &pins, &request).unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
    });
}

/// A hard link to a file of a lower layer makes a copy of it in its own, and the copy was made with holes written out and
/// without looking at what was left: an image of a few kilobytes filled the disk.
#[test]
fn root_hard_links_into_lower_layers_take_no_more_than_there_is() {
    on_small_disks(|kind, store| {
        let pins = store.pins().unwrap();
        let links = |n: usize, to: &str| -> Vec<LayerBlob> {
            (0..n)
                .map(|n| LayerBlob::zstd(&TarBuilder::new().hard_link(format!("{to}-{n}"), to).finish()))
                .collect()
        };
        let layout = |name: &str, base: LayerBlob, links: Vec<LayerBlob>| {
            Layout::of(name, &[vec![base], links].concat())
        };
        let full = layout("full", zeros("zeros", 10), links(8, "zeros"));
        let error = chain(&import(store, &pins, &full).unwrap_err());
        assert!(error.contains("cannot be unpacked: the layer is too large"), "{kind}: {error}");
        assert!(error.contains("bytes free, and ") && error.contains("are kept free"), "{kind}: {error}");
        assert_untouched(store);

        let mut header = RawHeader::new(b'S');
        // One byte at the start and one at the end of a gigabyte.
        header.name("sparse").gnu().size(2).octal(483, 12, 1 << 30);
        header.octal(386, 12, 0).octal(398, 12, 1).octal(410, 12, (1 << 30) - 1).octal(422, 12, 1);
        let sparse = LayerBlob::zstd(&TarBuilder::new().entry(&header, b"xy").finish());
        let image = import(store, &pins, &layout("holes", sparse, links(4, "sparse")));
        let image = image.unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
        let copy = std::fs::metadata(store.layer_path(image.layers[4].id).join("sparse-3")).unwrap();
        assert_eq!((copy.len(), copy.nlink()), (1 << 30, 2), "{kind}");
        assert!(copy.blocks() * 512 <= 16 << 10, "{kind}: {} blocks", copy.blocks());
    });
}

/// The kernel answers ENOSPC to an attribute that ext4 cannot hold, and it was reported as a full disk.
#[test]
fn root_an_attribute_too_large_for_ext4_is_no_full_disk() {
    on_small_disks(|kind, store| {
        if kind != "ext4" {
            return;
        }
        let pins = store.pins().unwrap();
        let large = |tar: TarBuilder| tar.xattr("user.large", vec![b'x'; 9000]);
        let tars = [
            ("etc/file", large(TarBuilder::new()).file("etc/file", "x")),
            ("etc", large(TarBuilder::new()).dir("etc", 0o755)),
        ];
        for (named, tar) in tars {
            let layout = Layout::of("large", &[LayerBlob::gzip(&tar.finish())]);
            let error = chain(&import(store, &pins, &layout).unwrap_err());
            let expected = format!(
                "layer entry \"{named}\": fsetxattr(fd, \"user.large\", 9000 bytes): the state root's file system \
                 cannot hold the attribute: No space left"
            );
            assert!(error.contains(&expected), "{error}");
            assert_untouched(store);
        }
    });
}
