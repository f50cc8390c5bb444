//! A state root on a disk that is full: what reads goes on, and what frees space can.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use plywood_image::testing::TarBuilder;
use rustix::process::Signal;

use super::bad_input::says;
use super::bed::{Bed, eventually, in_bed};
use super::layout::{TestImage, text, tool};

/// Writes into `file` until nothing more fits, not even a byte.
fn fill(file: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        loop {
            match file.write(&block).and_then(|written| file.sync_data().map(|()| written)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                    break;
                }
            }
        }
    }
}

/// Runs a test whose state root lies on a file system of 40 MB.
fn on_small_disk(test: impl FnOnce(&Bed, &Path) + Send) {
    in_bed(|bed| {
        let file = bed.path("disk");
        tool("truncate", "coreutils", &["-s", "40M", text(&file)]);
        tool("mkfs.ext4", "e2fsprogs", &["-q", "-m", "0", text(&file)]);
        fs::create_dir(bed.root()).unwrap();
        // The loop device goes with the mount.
        tool("mount", "mount", &["-o", "loop", text(&file), text(&bed.root())]);
        fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o700)).unwrap();
        test(bed, &bed.root().join("filler"));
        bed.expect_empty();
        tool("umount", "mount", &[text(&bed.root())]);
        fs::remove_dir(bed.root()).unwrap();
    });
}

/// Recovery could not write, so nothing could be looked at; and nothing could be removed either, for that writes first.
#[test]
fn root_a_full_disk_can_be_looked_at_and_emptied() {
    on_small_disk(|bed, filler| {
        bed.import(&TestImage::new(), "app");
        bed.import(&TestImage::of_layers(9), "more");
        let reserve = || fs::metadata(bed.root().join("ballast")).unwrap().len();
        let whole = reserve();
        assert!(whole >= 1 << 20, "{whole}");
        let id = bed.ok(&["run", "-d", "app", "--", "sh", "-c", "echo said; exec sleep 1000"]);
        let id = id.trim();
        eventually("it is logged", || (bed.ok(&["logs", id]) == "said\n").then_some(()));
        // Something to recover.
        let run = bed.start(&["run", "more", "--", "sleep", "1000"]);
        eventually("it runs", || (bed.containers().len() == 2).then_some(()));
        fill(filler);
        run.signal(Signal::KILL);
        run.finish();

        let done = bed.plywood(&["images"]).check(0);
        says(&done.stderr, &["the disk is full", "stays for now"]);
        says(&done.stdout, &["app", "more"]);
        assert_eq!(reserve(), whole, "a command that only reads leaves the reserve alone");
        assert_eq!(bed.ok(&["logs", id]), "said\n");
        says(&bed.ok(&["ps"]), &[&id[..12]]);
        fill(filler);
        says(&bed.ok(&["explain", "app"]), &["5 layers"]);
        // What takes space gets none of it.
        let left = reserve();
        assert!((1..whole).contains(&left));
        let large = TestImage::new().layer(TarBuilder::new().file("srv/large", vec![1; 4 << 20]));
        let large = large.write(&bed.path("large"), "large");
        fill(filler);
        says(&bed.fails(1, &["import", text(large.path())]), &["what to do: ", "plywood prune"]);
        assert_eq!(reserve(), left);

        bed.ok(&["stop", "--time", "0", id]);
        fill(filler);
        bed.ok(&["prune"]);
        fill(filler);
        bed.ok(&["rm", id]);
        says(&bed.ok(&["rmi", "app"]), &["untagged"]);
        assert_eq!(bed.ok(&["rmi", "more"]).matches("untagged").count(), 1);
        assert_eq!(bed.listed("layers"), Vec::<String>::new());
        // There is space again: for the reserve, too.
        fs::remove_file(filler).unwrap();
        bed.ok(&["images"]);
        assert_eq!(reserve(), whole);
    });
}
