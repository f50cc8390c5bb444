//! `import`, `images`, `rmi`, `prune`, `explain`, `doctor`: the store seen from the command line.

use std::fs;
use std::process::{Command, Stdio};

use plywood_image::Digest;
use serde_json::{Value, json};

use super::bed::{in_bed, start};
use super::layout::{Layout, TestImage, gzip, text, tool};

/// The keys of an object, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn root_import_takes_layouts_and_both_kinds_of_archive() {
    in_bed(|bed| {
        let image = TestImage::new();
        let layout = image.write(&bed.path("app"), "app:1");
        let oci_archive = layout.archive();
        let docker_archive = bed.path("docker.tar");
        let to = format!("docker-archive:{}:app:docker", text(&docker_archive));
        let from = format!("oci:{}:app:1", text(layout.path()));
        tool("skopeo", "skopeo", &["copy", "--insecure-policy", "-q", &from, &to]);
        let cases: [(&str, &[&str], &str); 5] = [
            (text(layout.path()), &[], "docker.io/library/app:1"),
            (text(layout.path()), &["--name", "quay.io/team/other:2"], "quay.io/team/other:2"),
            (text(&oci_archive), &["--name", "from-archive"], "docker.io/library/from-archive:latest"),
            (text(&docker_archive), &[], "docker.io/library/app:docker"),
            (text(&docker_archive), &["--no-flat", "--name", "named"], "docker.io/library/named:latest"),
        ];
        for (path, more, name) in cases {
            let imported = bed.json(&[&["import", path], more].concat());
            assert_eq!(
                keys(&imported),
                [
                    "flat_entries",
                    "id",
                    "layers",
                    "manifest_digest",
                    "name",
                    "names",
                    "platform",
                    "size_bytes"
                ]
            );
            assert_eq!(imported["name"], name, "{path}");
            assert!(imported["names"].as_array().unwrap().contains(&json!(name)), "{path}: {imported}");
            assert_eq!(imported["layers"], 5);
            assert_eq!(bed.ok(&["run", "--quiet", name, "--", "cat", "/srv/data/added"]), "added", "{path}");
        }
        let images = bed.json(&["images"]);
        assert_eq!(keys(&images), ["images"]);
        let images = images["images"].as_array().unwrap();
        for image in images {
            assert_eq!(
                keys(image),
                ["flat", "id", "layers", "manifest_digest", "names", "platform", "recorded_ms", "size_bytes"]
            );
            assert_eq!(image["flat"], true);
        }
        // The same layers, whatever the packing: the two archives differ in their manifests alone.
        assert_eq!(images.len(), 2, "{images:?}");
        assert_eq!(bed.listed("layers").len(), 5);
        assert_eq!(bed.listed("flat").len(), 1);
        let table = bed.ok(&["images"]);
        assert!(table.starts_with("NAME ") && table.contains("docker.io/library/app:1"), "{table}");
    });
}

/// An image that had a name already was shown by the first of its names in the alphabet.
#[test]
fn root_import_shows_the_name_it_gave() {
    in_bed(|bed| {
        let layout = TestImage::new().write(&bed.path("app"), "app:1");
        for name in ["app:1", "zebra:2", "aardvark:3", "app:1"] {
            let shown = bed.ok(&["import", text(layout.path()), "--name", name]);
            assert_eq!(shown.lines().next().unwrap(), format!("docker.io/library/{name}"));
        }
        assert_eq!(
            bed.ok(&["import", text(layout.path())]).lines().next().unwrap(),
            "docker.io/library/app:1"
        );
    });
}

/// The first tag of a docker archive was taken, and the others forgotten.
#[test]
fn root_import_gives_all_names_an_archive_has() {
    in_bed(|bed| {
        let layout = TestImage::new().write(&bed.path("app"), "app:1");
        let archive = bed.path("docker.tar");
        let from = format!("oci:{}:app:1", text(layout.path()));
        let to = format!("docker-archive:{}:app:1", text(&archive));
        tool(
            "skopeo",
            "skopeo",
            &[
                "copy",
                "--insecure-policy",
                "-q",
                "--additional-tag",
                "zebra:2",
                "--additional-tag",
                "quay.io/team/app:3",
                &from,
                &to,
            ],
        );
        let names = ["docker.io/library/app:1", "docker.io/library/zebra:2", "quay.io/team/app:3"];
        let shown = bed.ok(&["import", text(&archive)]);
        for name in names {
            assert!(shown.lines().any(|line| line == name), "{shown}");
            assert_eq!(bed.ok(&["run", "--quiet", name, "--", "cat", "/srv/data/added"]), "added", "{name}");
        }
        assert_eq!(bed.json(&["images"])["images"][0]["names"], json!(names));
        // A name given is the only one.
        bed.ok(&["rmi", "--force", names[0]]);
        bed.ok(&["import", text(&archive), "--name", "zebra:2"]);
        assert_eq!(bed.json(&["images"])["images"][0]["names"], json!([names[1]]));
    });
}

/// `-` was taken for a file of that name.
#[test]
fn root_import_reads_standard_input() {
    in_bed(|bed| {
        let archive = TestImage::new().write(&bed.path("app"), "app:1").archive();
        for script in ["\"$@\" < \"$ARCHIVE\"", "cat \"$ARCHIVE\" | \"$@\"", "gzip -c \"$ARCHIVE\" | \"$@\""]
        {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_plywood"), "--root"]).arg(bed.root());
            command.args(["import", "-"]).env("ARCHIVE", &archive);
            let shown = start(command).finish().check(0).stdout;
            assert_eq!(shown.lines().next().unwrap(), "docker.io/library/app:1", "{script}");
            bed.ok(&["rmi", "app:1"]);
        }
        let mut command = bed.command(["import", "-"]);
        command.stdin(Stdio::null());
        let error = start(command).finish().check(1).stderr;
        assert!(error.contains("standard input is no archive of an image"), "{error}");
    });
}

#[test]
fn root_layouts_of_several_images_want_a_name() {
    in_bed(|bed| {
        let layout = Layout::new(&bed.path("both"));
        let layout = layout.image(&TestImage::new(), "one:1").image(&TestImage::of_layers(6), "two:2");
        let error = bed.fails(1, &["import", text(layout.path())]);
        assert!(error.contains("--name") && error.contains("one:1") && error.contains("two:2"), "{error}");
        bed.ok(&["import", text(layout.path()), "--name", "two:2"]);
        assert_eq!(bed.json(&["images"])["images"][0]["layers"], 6);
    });
}

/// Nothing but a configuration: it is kept, and whoever would run it is told the same.
#[test]
fn root_an_image_without_layers_has_nothing_to_run() {
    in_bed(|bed| {
        let mut image = TestImage::new();
        image.layers.clear();
        let layout = image.write(&bed.path("bare"), "bare");
        assert!(bed.ok(&["import", text(layout.path())]).contains("0 layers, 0 B, nothing to run"));
        for args in [
            &["run", "bare"][..],
            &["run", "-d", "bare", "--", "true"],
            &["run", "--lower", "flat", "bare"],
            &["explain", "bare"],
            &["explain", "--lower", "flat", "bare"],
        ] {
            let error = bed.fails(1, args);
            assert!(error.contains("image bare has no layers: there is nothing in it to run"), "{error}");
        }
        assert_eq!(bed.json(&["images"])["images"][0]["layers"], 0);
        bed.ok(&["rmi", "bare"]);
    });
}

#[test]
fn root_rmi_and_prune_take_away_what_nothing_uses() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "five");
        bed.import(&TestImage::of_layers(7), "seven");
        assert_eq!((bed.listed("layers").len(), bed.listed("flat").len()), (7, 2));
        assert_eq!(keys(&bed.json(&["prune"])), ["freed_bytes", "removed"]);

        let id = bed.ok(&["run", "-d", "--name", "keeper", "seven", "--", "sleep", "1000"]);
        let error = bed.fails(1, &["rmi", "seven"]);
        assert!(error.contains("is used by") && error.contains(&id[..12]), "{error}");
        let removed = bed.json(&["rmi", "five"]);
        assert_eq!(keys(&removed), ["freed_bytes", "removed", "untagged"]);
        assert_eq!(removed["untagged"], json!(["docker.io/library/five:latest"]));
        // Its flat tree goes; its layers are also those of the other image.
        assert_eq!((bed.listed("layers").len(), bed.listed("flat").len()), (7, 1));
        assert_eq!(bed.ok(&["exec", "keeper", "cat", "/srv/of-layer-6"]), "6");

        bed.ok(&["rm", "--force", "keeper"]);
        bed.ok(&["rmi", "seven"]);
        for place in ["layers", "flat", "blobs/sha256"] {
            assert_eq!(bed.listed(place), Vec::<String>::new(), "{place}");
        }
        assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
        let error = bed.fails(1, &["rmi", "seven"]);
        assert!(error.contains("no image \"seven\""), "{error}");
    });
}

#[test]
fn root_explain_says_what_a_launch_costs() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(20), "twenty");
        let plan = bed.json(&["explain", "twenty"]);
        assert_eq!(
            keys(&plan),
            [
                "calls",
                "image",
                "image_layers",
                "lock_work",
                "lower",
                "mechanism",
                "mount_ops",
                "overlay_layers",
                "passed_over",
                "platform",
                "predictions"
            ]
        );
        assert_eq!((&plan["image_layers"], &plan["overlay_layers"]), (&json!(20), &json!(1)));
        assert_eq!(plan["lower"], "flat");
        assert_eq!(plan["mount_ops"]["host_attach"], 0);
        let layers = bed.json(&["explain", "--lower", "layers", "--mechanism", "per-layer", "twenty"]);
        assert_eq!(layers["overlay_layers"], 20);
        assert!(layers["mount_ops"]["host_attach"].as_u64().unwrap() >= 20, "{layers}");
        let text = bed.ok(&["explain", "twenty"]);
        let platform = format!("linux/{}", TestImage::new().architecture);
        let first = format!("docker.io/library/twenty:latest ({platform}): 20 layers\n");
        assert!(text.contains("containerd") && text.starts_with(&first), "{text}");
        assert_eq!(plan["platform"], platform);
        let error = bed.fails(1, &["explain", "nosuch"]);
        assert!(error.contains("nosuch"), "{error}");
        // Nothing was made for it.
        assert_eq!(bed.listed("snapshots"), Vec::<String>::new());
    });
}

#[test]
fn root_doctor_finds_this_machine_able() {
    in_bed(|bed| {
        let report = bed.json(&["doctor"]);
        for key in ["kernel", "root", "mechanism", "capabilities", "runtime", "free_id_ranges", "host_mounts"]
        {
            assert!(!report[key].is_null(), "{key}: {report}");
        }
        for finding in report["findings"].as_array().unwrap() {
            assert_eq!(keys(finding), ["id", "message", "remedy", "severity"]);
            assert_ne!(finding["severity"], "error", "{finding}");
        }
        assert!(bed.ok(&["doctor"]).contains("ready to launch"));
    });
}

/// A machine without a free range was said to be ready to launch.
#[test]
fn root_doctor_finds_that_all_ids_are_taken() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let entries = bed.path("entries");
        fs::write(&entries, "plywood:900000000:65536\nada:900000000:131072\n").unwrap();
        for file in ["/etc/subuid", "/etc/subgid"] {
            tool("mount", "mount", &["--bind", text(&entries), file]);
        }
        let named = "ada 900000000+131072 in /etc/subuid";
        let report = bed.plywood(&["--json", "doctor"]).check(1).json();
        assert_eq!(report["free_id_ranges"], 0);
        let finding =
            report["findings"].as_array().unwrap().iter().find(|one| one["id"] == "id-ranges").unwrap();
        assert_eq!(finding["severity"], "error");
        assert!(finding["remedy"].as_str().unwrap().contains(named), "{finding}");
        let error = bed.fails(1, &["run", "app"]);
        assert!(error.contains(named), "{error}");
        for file in ["/etc/subuid", "/etc/subgid"] {
            tool("umount", "mount", &[file]);
        }
    });
}

/// Without a runtime nothing can be launched, and the doctor says so with the remedy.
#[test]
fn root_doctor_misses_a_runtime() {
    in_bed(|bed| {
        let mut command = bed.command(["--json", "doctor"]);
        command.env("PATH", "/nonexistent");
        let done = start(command).finish().check(1);
        let findings = done.json()["findings"].clone();
        let finding = findings.as_array().unwrap().iter().find(|one| one["severity"] == "error");
        let message = finding.unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("no OCI runtime"), "{message}");
    });
}

/// By force all names go, however many of them are given; without, the image stays while it has one.
#[test]
fn root_rmi_of_an_image_with_two_names() {
    in_bed(|bed| {
        let both = || {
            let layout = bed.import(&TestImage::new(), "one");
            bed.ok(&["import", text(layout.path()), "--name", "two"]);
            let id = bed.json(&["images"])["images"][0]["id"].as_str().unwrap().to_owned();
            assert_eq!(bed.json(&["images"])["images"].as_array().unwrap().len(), 1);
            id.trim_start_matches("sha256:")[..12].to_owned()
        };
        let names = json!(["docker.io/library/one:latest", "docker.io/library/two:latest"]);
        for given in [&["one"][..], &["two"], &["one", "two"], &["two", "one", "one"], &["ID"]] {
            let id = both();
            let given: Vec<&str> = given.iter().map(|name| if *name == "ID" { &id } else { *name }).collect();
            let removed = bed.json(&[&["rmi", "--force"], &given[..]].concat());
            assert_eq!(removed["untagged"], names, "{given:?}");
            assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
            assert_eq!(bed.listed("layers"), Vec::<String>::new());
        }
        // A digest stands for all of them.
        assert_eq!(bed.json(&["rmi", &both()])["untagged"], names);
        both();
        assert_eq!(bed.json(&["rmi", "one"])["untagged"], json!(["docker.io/library/one:latest"]));
        assert_eq!(bed.ok(&["run", "two"]), "from the image\n");
        bed.ok(&["rmi", "two"]);
        assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
    });
}

/// The same image packed otherwise has the same id, which then could not be used; and all names of an image were one cell
/// of the table.
#[test]
fn root_what_images_shows_can_be_used() {
    in_bed(|bed| {
        let image = TestImage::new();
        let diff_ids: Vec<_> = image.layers.iter().map(|tar| Digest::sha256(tar)).collect();
        let layout =
            Layout::new(&bed.path("both")).image_of(&image, "packed:1", &diff_ids, |_, tar| gzip(tar));
        let layout = layout.image_of(&image, "plain:1", &diff_ids, |_, tar| tar.to_owned());
        let both = || {
            let named = ["packed:1".to_owned(), "plain:1".to_owned()];
            for name in &named {
                bed.ok(&["import", "--no-flat", text(layout.path()), "--name", name]);
            }
            let digest = bed.json(&["images"])["images"][0]["manifest_digest"].as_str().unwrap().to_owned();
            let table = bed.ok(&["images"]);
            let rows: Vec<Vec<String>> = table
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .collect();
            let mut names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["docker.io/library/packed:1", "docker.io/library/plain:1"], "{table}");
            assert_eq!(rows[0][1], rows[1][1], "{table}");
            (rows[0][1].clone(), digest)
        };
        let (id, _) = both();
        assert_eq!(bed.ok(&["run", "--quiet", "--no-flat", &id]), "from the image\n");
        bed.ok(&["explain", &id]);
        for force in [&[][..], &["--force"]] {
            let (id, digest) = both();
            let removed = bed.json(&[&["rmi"], force, &[&id]].concat());
            assert_eq!(removed["untagged"].as_array().unwrap().len(), 2, "{removed}");
            assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
            both();
            assert_eq!(bed.json(&["rmi", &digest])["untagged"].as_array().unwrap().len(), 1);
            bed.ok(&["rmi", &id]);
        }
        both();
        let digest = format!("quay.io/team/app@sha256:{}", "0123456789abcdef".repeat(4));
        bed.ok(&["import", text(layout.path()), "--name", "plain:1"]);
        bed.ok(&["rmi", "packed:1"]);
        let renamed =
            Layout::new(&bed.path("digest")).image_of(&image, &digest, &diff_ids, |_, tar| tar.to_owned());
        bed.ok(&["import", text(renamed.path())]);
        let table = bed.ok(&["images"]);
        assert!(table.lines().all(|line| line.len() < 140), "{table}");
        let shown = "quay.io/team/app@sha256:0123456789ab";
        assert_eq!(table.lines().filter(|line| line.starts_with(shown)).count(), 1, "{table}");
        assert_eq!(bed.json(&["rmi", shown])["untagged"], json!([digest]));
    });
}

/// An image that is here is not taken for another platform's.
#[test]
fn root_the_platform_of_a_local_image() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let here = format!("linux/{}", TestImage::new().architecture);
        assert_eq!(bed.ok(&["run", "--platform", &here, "app"]), "from the image\n");
        let mut foreign = TestImage::new();
        foreign.architecture = "s390x".to_owned();
        let layout = foreign.write(&bed.path("foreign"), "foreign");
        bed.ok(&["import", "--platform", "linux/s390x", text(layout.path())]);
        for (wanted, image, found) in [("linux/s390x", "app", &*here), (&here, "foreign", "linux/s390x")] {
            let error = bed.fails(1, &["run", "--platform", wanted, image]);
            let says = format!("image {image} is for {found}, not for {wanted}");
            assert!(error.contains(&says) && error.contains("--pull always"), "{error}");
        }
        // Without a word about platforms it is run, with a warning: an emulator may be there.
        let done = bed.plywood(&["run", "foreign"]).check(0);
        let says = format!("image foreign is for linux/s390x, this machine is {here}");
        assert!(done.stderr.contains(&says), "{}", done.stderr);
        let done = bed.plywood(&["run", "app"]).check(0);
        assert!(!done.stderr.contains("this machine is"), "{}", done.stderr);
    });
}

/// The README says so: nothing is mounted, nothing made, and what is written there goes with the container.
#[test]
fn root_volumes_an_image_declares_are_ordinary_directories() {
    in_bed(|bed| {
        bed.import(&TestImage::new().with("Volumes", json!({"/srv/data": {}, "/srv/nowhere": {}})), "app");
        let script =
            "cat /srv/data/kept && echo x > /srv/data/written && ls /srv && ! grep -q /srv /proc/mounts";
        for _ in 0..2 {
            assert_eq!(bed.ok(&["run", "app", "--", "sh", "-c", script]), "keptdata\nopaque\n");
        }
    });
}
