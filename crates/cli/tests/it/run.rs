//! `run` in the foreground: many containers, what they see, what they leave.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use super::bed::{Bed, in_bed};
use super::images::keys;
use super::layout::{TestImage, text};

/// Runs `sh -c script` in one container, which must succeed.
#[track_caller]
fn sh(bed: &Bed, flags: &[&str], script: &str) -> String {
    let output = bed.ok(&[&["run"], flags, &["app", "--", "sh", "-c", script]].concat());
    output.trim_end().to_owned()
}

#[test]
fn root_twenty_containers_have_ranges_of_their_own() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(30), "app");
        let done =
            bed.plywood(&["--json", "run", "-n", "20", "app", "--", "sh", "-c", "cat /proc/self/uid_map"]);
        let done = done.check(0);
        let report = done.json();
        for key in [
            "requested",
            "started",
            "failed",
            "wall_ms",
            "launch_ms",
            "mechanism",
            "lower",
            "host_mount_events",
            "containers",
        ] {
            assert!(!report[key].is_null(), "{key}: {report}");
        }
        assert_eq!(keys(&report["launch_ms"]), ["max", "p50", "p90", "p99"]);
        assert_eq!(
            [&report["requested"], &report["started"], &report["failed"]],
            [&json!(20), &json!(20), &json!(0)]
        );
        assert_eq!(report["host_mount_events"], 0);
        assert_eq!(report["lower"], "flat");
        let containers = report["containers"].as_array().unwrap();
        let from_report: BTreeSet<u64> = containers
            .iter()
            .map(|one| {
                assert_eq!(one["exit_code"], 0);
                assert_eq!(one["uid_range"]["length"], 65_536);
                assert_eq!(one["gid_range"]["length"], 65_536);
                one["uid_range"]["start"].as_u64().unwrap()
            })
            .collect();
        // With --json the containers write to standard error.
        let seen: BTreeSet<u64> = done
            .stderr
            .lines()
            .map(|line| {
                let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
                assert_eq!((words[0], words[2]), (0, 65_536), "{line}");
                words[1]
            })
            .collect();
        assert_eq!(seen.len(), 20);
        assert_eq!(seen, from_report);
        let starts: Vec<u64> = seen.into_iter().collect();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{starts:?}");
    });
}

#[test]
fn root_what_a_container_sees() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let shared = bed.path("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("file"), "from the host").unwrap();
        fs::set_permissions(shared.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        let volume = format!("{}:/mnt/shared", text(&shared));
        let read_only = format!("{volume}:ro");
        let cases: [(&[&str], &str, &str); 24] = [
            (&[], "id -u; id -g; pwd; echo $FROM_IMAGE $HOME", "0\n0\n/\nyes /root"),
            (
                &[],
                "cat /srv/data/*; ls /srv/data /srv/opaque",
                "addedkept/srv/data:\nadded\nkept\n\n/srv/opaque:\nshown",
            ),
            (&[], "stat -c %u:%g:%a /srv/data/kept /tmp", "1000:1000:600\n0:0:1777"),
            (
                &["--user", "app"],
                "id -u; id -g; id -G; echo $HOME; cat /srv/data/kept",
                "1000\n1000\n1000 6\n/srv\nkept",
            ),
            (&["--user", "7:9"], "id -u; id -g; cat /srv/data/kept || echo refused", "7\n9\nrefused"),
            (&["--user", "app:disk"], "id -u; id -g", "1000\n6"),
            (&["--env", "A=b c", "-e", "FROM_IMAGE=no"], "echo $A $FROM_IMAGE", "b c no"),
            (&["--workdir", "/srv/data"], "pwd; cat added", "/srv/data\nadded"),
            (&["--hostname", "plank"], "hostname", "plank"),
            (&[], "hostname | wc -c", "13"),
            (&["--read-only"], "touch /srv/x || echo refused", "refused"),
            (&[], "touch /srv/x && stat -c %u /srv/x", "0"),
            (&["-v", &volume], "cat /mnt/shared/file; stat -c %u:%g /mnt/shared/file", "from the host0:0"),
            (
                &["-v", &volume],
                "echo new > /mnt/shared/new; chown 5:6 /mnt/shared/new; cat /mnt/shared/new",
                "new",
            ),
            (&["-v", &read_only], "touch /mnt/shared/y || echo refused", "refused"),
            (&["--net", "none"], "ls /sys/class/net", "lo"),
            (&[], "ls /sys/class/net", "lo"),
            (&["--ulimit", "nofile=333:444"], "ulimit -n; ulimit -Hn", "333\n444"),
            (&["--cap-drop", "CHOWN"], "chown 5 /srv/data/added || echo refused", "refused"),
            (&["--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
            (&[], "chown 5 /srv/data/added && stat -c %u /srv/data/added", "5"),
            (
                &["--cap-drop", "ALL", "--cap-add", "CHOWN"],
                "grep CapEff /proc/self/status",
                "CapEff:\t0000000000000001",
            ),
            (&[], "mount -t tmpfs none /mnt/x || mkdir /proc/sys/x || echo refused", "refused"),
            (&[], "test -c /dev/null && echo x > /dev/null && ls /dev/fd/0", "/dev/fd/0"),
        ];
        for (flags, script, expected) in cases {
            let seen = sh(bed, flags, &format!("{{ {script}; }} 2>/dev/null"));
            assert_eq!(seen, expected, "{flags:?} {script}");
        }
        // What a container made in a volume belongs on the host to whom it belongs inside.
        let made = fs::metadata(shared.join("new")).unwrap();
        assert_eq!((made.uid(), made.gid()), (5, 6));
        let host: BTreeSet<String> = fs::read_dir("/sys/class/net")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let inside: BTreeSet<String> = sh(bed, &["--net", "host"], "ls /proc/sys/net/ipv4/conf")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert!(inside.is_superset(&host), "{inside:?}, on the host {host:?}");
    });
}

#[test]
fn root_commands_come_from_the_image_or_the_caller() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        bed.import(&TestImage::new().with("Entrypoint", json!(["echo", "entry"])), "entry");
        let fixed = TestImage::new().with("User", json!("app")).with("WorkingDir", json!("/srv/made"));
        bed.import(&fixed, "fixed");
        let cases: [(&[&str], &str); 9] = [
            (&["app"], "from the image\n"),
            (&["app", "echo", "--flag", "-n"], "--flag -n\n"),
            (&["app", "--", "echo", "a  b"], "a  b\n"),
            (&["entry"], "entry sh -c echo from the image\n"),
            (&["entry", "--", "more"], "entry more\n"),
            (&["--entrypoint", "cat", "entry", "--", "/srv/data/added"], "added"),
            // As in Docker: none at all, and not the image's command either.
            (&["--entrypoint", "", "entry", "--", "cat", "/srv/data/added"], "added"),
            (&["fixed", "--", "sh", "-c", "id -u; pwd"], "1000\n/srv/made\n"),
            (&["--user", "root", "fixed", "--", "id", "-u"], "0\n"),
        ];
        for (args, expected) in cases {
            assert_eq!(bed.ok(&[&["run"], args].concat()), expected, "{args:?}");
        }
        // One container in the foreground reads what the caller writes.
        let mut command = bed.command(["run", "app", "--", "cat"]);
        command.stdin(fs::File::open("/etc/hostname").unwrap());
        assert_eq!(super::bed::start(command).finish().ok(), fs::read_to_string("/etc/hostname").unwrap());
    });
}

#[test]
fn root_exit_codes_are_told() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let cases: [(&str, i64, i32); 5] = [
            ("exit 0", 0, 0),
            ("exit 7", 7, 1),
            ("exit 255", 255, 1),
            // The first process of a pid namespace gets no signal from inside that it does not handle.
            ("kill -KILL $$; exit 8", 8, 1),
            ("trap 'exit 9' TERM; kill -TERM $$", 9, 1),
        ];
        for (script, inside, ours) in cases {
            let report = bed.plywood(&["--json", "run", "app", "--", "sh", "-c", script]).check(ours).json();
            assert_eq!(report["containers"][0]["exit_code"], inside, "{script}: {report}");
            assert_eq!((&report["started"], &report["failed"]), (&json!(1), &json!(0)), "{script}");
        }
        let done = bed.plywood(&["run", "-n", "3", "app", "--", "sh", "-c", "exit 4"]).check(1);
        assert!(done.stderr.contains("exit codes         4 x 3"), "{}", done.stderr);
        assert!(done.stderr.contains("host mount table   0 changes by anybody ("), "{}", done.stderr);
    });
}

/// The runtime speaks on the containers' standard error: what it said is not said again.
#[test]
fn root_what_the_runtime_said_is_said_once() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let empty = bed.path("empty");
        fs::create_dir(&empty).unwrap();
        // It hides the command, which only the runtime can find out.
        let volume = format!("{}:/bin", text(&empty));
        let done = bed.plywood(&["run", "-n", "2", "-v", &volume, "app", "--", "/bin/sh"]).check(1);
        assert_eq!(done.stderr.matches("no such file").count(), 2, "{}", done.stderr);
        assert_eq!(done.stderr.matches(": the runtime's message is above\n").count(), 2, "{}", done.stderr);
        let json = bed.plywood(&["--json", "run", "-v", &volume, "app", "--", "/bin/sh"]).check(1).json();
        assert!(json["containers"][0]["error"].as_str().unwrap().contains("no such file"), "{json}");
        // One that says nothing is spoken for.
        let script = bed.path("runtime");
        fs::write(&script, "#!/bin/sh\ncase \"$*\" in *' run '*) exit 3; esac; exec runc \"$@\"\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let error = bed.fails(1, &["run", "--runtime", text(&script), "app", "--", "true"]);
        assert!(error.contains(": runtime exited with code 3 and left no message"), "{error}");
    });
}

/// A build of the flat tree in the background serves the next launch.
#[test]
fn root_layers_are_used_until_the_flat_tree_is_ready() {
    in_bed(|bed| {
        let layout = TestImage::of_layers(12).write(&bed.path("layout"), "app");
        bed.ok(&["import", "--no-flat", text(layout.path())]);
        let lower = |flags: &[&str]| {
            let report =
                bed.json(&[&["run"], flags, &["app", "--", "test", "-f", "/srv/of-layer-11"]].concat());
            assert_eq!(report["host_mount_events"], 0);
            (report["lower"].clone(), report["flat_tree_built"].clone())
        };
        assert_eq!(lower(&["--no-flat"]), (json!("layers"), json!(false)));
        assert_eq!(lower(&[]), (json!("layers"), json!(true)));
        assert_eq!(lower(&[]), (json!("flat"), json!(false)));
        assert_eq!(lower(&["--lower", "layers"]), (json!("layers"), json!(false)));
    });
}

/// The tree may take longer than the containers: the command finishes it, and does not call that their time.
#[test]
fn root_the_time_of_a_run_is_without_its_flat_tree() {
    in_bed(|bed| {
        let mut many = plywood_image::testing::TarBuilder::new();
        for number in 0..20_000 {
            many = many.file(format!("srv/many/{number}"), b"");
        }
        let layout = TestImage::new().layer(many).write(&bed.path("layout"), "app");
        bed.ok(&["import", "--no-flat", text(layout.path())]);
        let mut command = bed.command(["--json", "run", "app", "--", "true"]);
        command.env("PLYWOOD_LOG", "plywood=debug").env("NO_COLOR", "1");
        let begun = std::time::Instant::now();
        let done = super::bed::start(command).finish().check(0);
        let elapsed_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let report = done.json();
        assert_eq!((&report["lower"], &report["flat_tree_built"]), (&json!("layers"), &json!(true)));
        let step = done.stderr.lines().find(|line| line.contains("flat tree built")).unwrap();
        let (_, tree_ms) = step.rsplit_once("ms=").unwrap();
        let tree_ms: f64 = tree_ms.trim().parse().unwrap();
        assert!(tree_ms > 100.0, "built before the container had ended: {step}");
        let wall_ms = report["wall_ms"].as_f64().unwrap();
        assert!(wall_ms + tree_ms <= elapsed_ms, "{wall_ms} + {tree_ms} > {elapsed_ms}");
        assert_eq!(bed.json(&["run", "app", "--", "true"])["lower"], "flat");
    });
}

/// Files of owners beyond the usual 65,536 ids need a longer range.
#[test]
fn root_owners_beyond_the_range_are_refused() {
    in_bed(|bed| {
        let tar = super::layout::owned(
            plywood_image::testing::TarBuilder::new(),
            "srv/far",
            (100_000, 70_000),
            0o644,
            b"far",
        );
        bed.import(&TestImage::new().layer(tar), "app");
        let error = bed.fails(1, &["run", "app", "--", "true"]);
        assert!(error.contains("100000") && error.contains("--id-range-length 131072"), "{error}");
        let seen =
            bed.ok(&["run", "--id-range-length", "131072", "app", "--", "stat", "-c", "%u:%g", "/srv/far"]);
        assert_eq!(seen, "100000:70000\n");
    });
}

/// `--pull never` and a name the store does not have.
#[test]
fn root_an_image_that_is_not_here() {
    in_bed(|bed| {
        let error = bed.fails(1, &["run", "--pull", "never", "nosuch", "--", "true"]);
        assert!(error.contains("no image \"nosuch\"") && error.contains("plywood pull"), "{error}");
        let json = bed.plywood(&["--json", "run", "--pull", "never", "nosuch"]).check(1).json();
        assert!(json["error"]["message"].as_str().unwrap().contains("nosuch"), "{json}");
        assert_eq!(keys(&json["error"]), ["message", "remedy"]);
    });
}

/// overlayfs refuses the same directory twice. The topmost one counts: what it has, nothing below can change.
#[test]
fn root_a_layer_that_occurs_twice() {
    in_bed(|bed| {
        let mut image = TestImage::new();
        // Brings back what the two layers above it took away.
        image.layers.push(image.layers[2].clone());
        bed.import(&image, "app");
        assert_eq!(bed.json(&["images"])["images"][0]["layers"], 6);
        for lower in ["layers", "flat"] {
            let seen = sh(bed, &["--quiet", "--lower", lower], "cat /srv/data/removed; ls /srv/opaque");
            assert_eq!(seen, "removedhidden\nshown", "{lower}");
            bed.ok(&["explain", "--lower", lower, "app"]);
        }
    });
}

/// Sources of volumes: directories and files, behind symbolic links, too. What is not there is found out first.
#[test]
fn root_sources_of_volumes() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let (dir, file) = (bed.path("dir"), bed.path("file"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("inside"), "of the directory").unwrap();
        fs::write(&file, "of the file").unwrap();
        let link = |name: &str, to: &str| {
            std::os::unix::fs::symlink(to, bed.path(name)).unwrap();
            bed.path(name)
        };
        let (to_dir, to_file) = (link("to-dir", "dir"), link("to-file", text(&file)));
        for (source, seen, expected) in [
            (&dir, "/mnt/x/inside", "of the directory"),
            (&file, "/mnt/x", "of the file"),
            (&to_dir, "/mnt/x/inside", "of the directory"),
            (&to_file, "/mnt/x", "of the file"),
        ] {
            let volume = format!("{}:/mnt/x", text(source));
            assert_eq!(sh(bed, &["-v", &volume], &format!("cat {seen}")), expected, "{volume}");
            // Over a file that the image has.
            if source.is_file() {
                let over = format!("{}:/srv/data/added:ro", text(source));
                assert_eq!(sh(bed, &["-v", &over], "cat /srv/data/added"), expected);
            }
        }
        for gone in [bed.path("gone"), link("dangling", "nowhere"), dir.join("inside/below")] {
            let volume = format!("{}:/mnt/x", text(&gone));
            let error = bed.fails(1, &["run", "-n", "2", "-v", &volume, "app", "--", "true"]);
            assert!(error.contains("volume source") && error.contains(text(&gone)), "{error}");
            // Before anything was started: there is no summary.
            assert!(!error.contains("of 2 started"), "{error}");
        }
    });
}
