//! Every mechanism over every lower source, through the whole command.

use std::fs;

use plywood_kernel::MountWatch;
use serde_json::Value;

use super::bed::{in_bed, in_shared_bed};
use super::layout::{TestImage, text};

const MECHANISMS: [&str; 6] =
    ["idmapped-overlay", "detached", "private", "common-parent", "per-layer", "copy"];

/// What the doctor says about the mechanisms: those that work by name, those that do not with the reason.
fn works(report: &Value, mechanism: &str) -> bool {
    let findings = report["findings"].as_array().unwrap();
    !findings.iter().any(|finding| {
        let message = finding["message"].as_str().unwrap();
        finding["id"] == "mechanism"
            && message.starts_with(mechanism)
            && message.contains("would be better, but")
    })
}

#[test]
fn root_every_mechanism_over_every_lower_source() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(9), "app");
        let doctor = bed.json(&["doctor"]);
        let shared = bed.path("shared");
        fs::create_dir(&shared).unwrap();
        let volume = format!("{}:/mnt", text(&shared));
        // Reads through whiteouts and opaque directories, owners, copy-up, rename, removal.
        let script = "set -e; cat /srv/data/kept /srv/opaque/shown; stat -c %u /srv/data/kept; \
                      test ! -e /srv/data/removed; test ! -e /srv/opaque/hidden; \
                      echo more >> /srv/data/added; cat /srv/data/added; chown 7:8 /srv/of-layer-8; \
                      stat -c %u:%g /srv/of-layer-8; touch /mnt/x";
        for mechanism in MECHANISMS {
            for lower in ["flat", "layers"] {
                let flags = ["--mechanism", mechanism, "--lower", lower, "-v", &volume];
                let args =
                    [&["--json", "run", "-n", "2"], &flags[..], &["app", "--", "sh", "-c", script]].concat();
                if !works(&doctor, mechanism) {
                    let error = bed.fails(1, &args);
                    assert!(error.contains(&format!("mechanism {mechanism} does not work here")), "{error}");
                    assert!(error.contains("plywood doctor"), "{error}");
                    continue;
                }
                let done = bed.plywood(&args).check(0);
                let report = done.json();
                assert_eq!((&report["mechanism"], &report["lower"]), (&mechanism.into(), &lower.into()));
                assert_eq!(report["started"], 2);
                let events = report["host_mount_events"].as_u64().unwrap();
                match mechanism {
                    // Up and down, for each of the two containers.
                    "common-parent" => assert_eq!(events, 4),
                    "per-layer" => assert_eq!(events, if lower == "flat" { 4 } else { 36 }),
                    _ => assert_eq!(events, 0, "{mechanism} {lower}"),
                }
                for line in ["kept", "shown", "1000\n", "addedmore", "7:8"] {
                    let count = done.stderr.matches(line).count();
                    assert!(count >= 2, "{mechanism} {lower}: {line:?} {count} times in {:?}", done.stderr);
                }
                bed.expect_empty();
            }
        }
        // At least the default and the comparisons run here, whatever the kernel.
        assert!(works(&doctor, "copy"), "{doctor}");
    });
}

/// On hosts whose `/` is shared, as nearly all are, a namespace that is not cut off mounts in the host's table. The beds of
/// all other tests are private.
#[test]
fn root_a_host_with_shared_mounts_sees_none() {
    in_shared_bed(|bed| {
        let mut host = MountWatch::start().unwrap();
        assert!(host.is_exact());
        bed.import(&TestImage::of_layers(8), "app");
        let volume = format!("{}:/volume", text(&bed.path("volume")));
        fs::create_dir(bed.path("volume")).unwrap();
        let run = ["run", "-n", "4", "-v", &volume, "--net", "host", "app", "--", "touch", "/volume/x"];
        let id = std::cell::OnceCell::new();
        let mut unseen = |what: &str, command: &mut dyn FnMut()| {
            command();
            let counts = host.counts().unwrap();
            assert_eq!(counts.total(), 0, "{what}: {counts:?}");
        };
        unseen("run", &mut || assert_eq!(bed.json(&run)["host_mount_events"], 0));
        for lower in ["layers", "flat"] {
            unseen(lower, &mut || drop(bed.ok(&["run", "--lower", lower, "app", "--", "true"])));
        }
        unseen("run -d", &mut || {
            id.set(bed.ok(&["run", "-d", "app", "--", "sleep", "1000"]).trim().to_owned()).unwrap();
        });
        let id = id.get().unwrap();
        for command in [&["exec", id, "true"][..], &["stop", "--time", "0", id], &["rm", id], &["doctor"]] {
            unseen(command[0], &mut || drop(bed.ok(command)));
        }
    });
}
