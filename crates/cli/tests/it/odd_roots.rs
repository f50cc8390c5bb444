//! State roots with names that mount options, configuration files or databases could stumble over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::bed::{Done, in_bed, start};
use super::layout::{TestImage, text};

fn plywood(root: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.arg("--root").arg(root).args(args).stdin(Stdio::null());
    start(command).finish()
}

/// They work with the default mechanism, which passes descriptors; the others say why they do not.
#[test]
fn root_separators_and_blanks_in_a_state_root() {
    in_bed(|bed| {
        let layout = TestImage::of_layers(7).write(&bed.path("layout"), "app");
        for name in ["a,b", "c:d", r"e\f", "g h", "i=j%k", "\"l\"", "m\u{fc}n", "o\np", "run"] {
            let root = bed.path("roots").join(name);
            std::fs::create_dir_all(root.parent().unwrap()).unwrap();
            let ok = |args: &[&str]| plywood(&root, args).ok();
            ok(&["import", "--no-flat", text(layout.path())]);
            for lower in ["layers", "flat"] {
                let args = ["run", "--quiet", "--lower", lower, "app", "--", "cat", "/srv/of-layer-6"];
                assert_eq!(ok(&args), "6", "{name:?} over {lower}");
            }
            let id =
                ok(&["run", "-d", "--net", "host", "app", "--", "sh", "-c", "echo out; exec sleep 1000"]);
            assert_eq!(ok(&["exec", id.trim(), "echo", "hi"]), "hi\n");
            assert_eq!(ok(&["logs", id.trim()]), "out\n");
            assert!(ok(&["explain", "app"]).contains("7 layers"));
            let report = plywood(&root, &["--json", "doctor"]).check(0).json();
            assert_eq!(report["root"].as_str(), root.to_str());
            if name.contains([',', ':', '\\', '\u{fc}']) && report["mechanism"] == "detached" {
                let args = ["run", "--mechanism", "per-layer", "app", "--", "true"];
                let error = plywood(&root, &args).check(1).stderr;
                assert!(
                    error.contains("outside ASCII") && error.contains("leave --mechanism out"),
                    "{error}"
                );
            }
            ok(&["rm", "--force", "--all"]);
        }
    });
}

/// Runtimes read their paths as JSON.
#[test]
fn root_a_state_root_that_is_no_text_is_refused() {
    in_bed(|bed| {
        let root = bed.path("").join(OsStr::from_bytes(b"no\xfftext"));
        for args in [&["images"][..], &["run", "app"], &["--json", "doctor"]] {
            let error = plywood(&root, args).check(1).stderr;
            assert!(error.contains("is not UTF-8") && error.contains("--root"), "{error}");
        }
        assert!(!root.exists());
    });
}
