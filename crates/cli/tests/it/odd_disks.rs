//! State roots that cannot be written to, and those without inodes.

use std::fs;

use plywood_image::testing::TarBuilder;

use super::bad_input::says;
use super::bed::in_bed;
use super::layout::{TestImage, text, tool};

/// The kernel was blamed, or too few open files; `rmi` had no advice at all.
#[test]
fn root_a_read_only_state_root_is_named() {
    in_bed(|bed| {
        fs::create_dir(bed.root()).unwrap();
        tool("mount", "mount", &["-t", "tmpfs", "-o", "mode=0700", "root", text(&bed.root())]);
        let layout = TestImage::new().write(&bed.path("layout"), "app");
        bed.ok(&["import", text(layout.path())]);
        tool("mount", "mount", &["-o", "remount,ro", text(&bed.root())]);
        assert_eq!(bed.json(&["images"])["images"].as_array().unwrap().len(), 1);
        for args in [
            &["run", "app"][..],
            &["explain", "app"],
            &["rmi", "app"],
            &["prune"],
            &["import", text(layout.path())],
        ] {
            let error = bed.fails(1, args);
            says(&error, &["what to do: ", "make its file system writable", "--root"]);
            assert!(!error.contains("ulimit") && !error.contains("free"), "{args:?}: {error}");
        }
        let report = bed.plywood(&["--json", "doctor"]).check(1).json();
        let errors: Vec<_> =
            report["findings"].as_array().unwrap().iter().filter(|one| one["severity"] == "error").collect();
        assert_eq!(errors.len(), 1, "{report}");
        assert_eq!(errors[0]["id"], "state-root");
        says(errors[0]["message"].as_str().unwrap(), &["is read-only"]);
        tool("mount", "mount", &["-o", "remount,rw", text(&bed.root())]);
        bed.ok(&["rmi", "app"]);
        tool("umount", "mount", &[text(&bed.root())]);
    });
}

#[test]
fn root_missing_inodes_are_told_from_missing_space() {
    in_bed(|bed| {
        fs::create_dir(bed.root()).unwrap();
        let options = "mode=0700,size=100m,nr_inodes=60";
        tool("mount", "mount", &["-t", "tmpfs", "-o", options, "root", text(&bed.root())]);
        let mut many = TarBuilder::new();
        for file in 0..100 {
            many = many.file(format!("srv/{file}"), "");
        }
        let layout = TestImage::new().layer(many).write(&bed.path("layout"), "app");
        says(
            &bed.fails(1, &["import", text(layout.path())]),
            &["what to do: ", "`df -i` shows no inodes left"],
        );
        says(&bed.ok(&["doctor"]), &["WARNING  state-root", "inodes free (`df -i`)"]);
        tool("umount", "mount", &[text(&bed.root())]);
    });
}

/// Both were errors without advice.
#[test]
fn root_accounts_that_cannot_be_read() {
    in_bed(|bed| {
        let large = TarBuilder::new().file("etc/passwd", "x".repeat((4 << 20) + 1));
        let circle = TarBuilder::new().symlink("etc/group", "group");
        for (name, layer, expected) in [
            ("large", large, "/etc/passwd in the image has 4194305 bytes, more than the 4194304"),
            ("circle", circle, "/etc/group in the image leads through too many symbolic links"),
        ] {
            bed.import(&TestImage::new().layer(layer), name);
            let error = bed.fails(1, &["run", name]);
            says(&error, &[expected, "what to do: ", "build the image with an ordinary /etc/"]);
        }
    });
}
