//! What an image, or a runtime, has written reaches the terminal; what acts on a terminal does not.

use plywood_image::printable;
use plywood_image::testing::TarBuilder;
use serde_json::json;

use super::bed::{Bed, Done, in_bed};
use super::layout::{TestImage, text};

/// Names the window, turns the writing round, colours, and says what to do.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{202e}\u{9b}31m\u{7f}\n  what to do: nothing";

/// What it printed acts on nothing, and shows EVIL escaped.
#[track_caller]
fn harmless(done: &Done) {
    for line in done.stdout.lines().chain(done.stderr.lines()) {
        assert_eq!(printable(line).to_string(), line);
        assert!(!line.starts_with("  what to do: nothing"), "{line}");
    }
    assert!(done.stdout.contains("]0;own") || done.stderr.contains("]0;own"), "{done:?}");
}

#[track_caller]
fn both_ways(bed: &Bed, code: i32, args: &[&str]) {
    harmless(&bed.plywood(args).check(code));
    harmless(&bed.plywood(&[&["--json"], args].concat()).check(code));
}

#[test]
fn root_nothing_foreign_acts_on_the_terminal() {
    in_bed(|bed| {
        let path = format!("PATH=/{EVIL}");
        let file = format!("/bin/{EVIL}");
        for (name, key, value, command) in [
            ("command", "Cmd", json!([EVIL]), &[][..]),
            ("file", "Cmd", json!([file]), &[]),
            ("user", "User", json!(EVIL), &[]),
            ("directory", "WorkingDir", json!(EVIL), &[]),
            ("signal", "StopSignal", json!(EVIL), &[]),
            ("path", "Env", json!([path]), &["--", "nosuch"]),
        ] {
            bed.import(&TestImage::new().with(key, value), name);
            both_ways(bed, 1, &[&["run", name], command].concat());
            both_ways(bed, 1, &[&["run", "-d", name], command].concat());
        }
        let mut bare = TestImage::new();
        bare.layers = vec![TarBuilder::new().dir(EVIL, 0o755).file("app", "x").finish()];
        bed.import(&bare, "bare");
        both_ways(bed, 1, &["run", "bare", "--", "nosuch"]);

        // The runtime alone can find out that there is no such file. In the foreground it says so on the container's own
        // standard error, which the image may write to as it likes.
        let empty = bed.path("empty");
        std::fs::create_dir(&empty).unwrap();
        let volume = format!("{}:/bin", text(&empty));
        both_ways(bed, 1, &["run", "-d", "-v", &volume, "file"]);

        let sleep = json!(["sh", "-c", "sleep 1000", EVIL]);
        bed.import(&TestImage::new().with("Cmd", sleep), "sleep");
        bed.ok(&["run", "-d", "sleep"]);
        both_ways(bed, 0, &["ps"]);
        // What is printed for machines still means what it says.
        assert_eq!(bed.json(&["ps"])["containers"][0]["command"][3], EVIL);
        bed.ok(&["rm", "--all", "--force"]);
    });
}
