//! Launches and machines that cannot work: exit code 1, a message that names the thing and the remedy, nothing left.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use plywood_image::testing::TarBuilder;
use serde_json::{Value, json};

use super::bed::{in_bed, start};
use super::layout::{TestImage, text, tool};

/// Each of `parts` is in `message`.
#[track_caller]
pub(crate) fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn root_launches_that_cannot_work() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let file = bed.path("file");
        fs::write(&file, "not a runtime").unwrap();
        let script = bed.path("script");
        fs::write(&script, "#!/bin/sh\necho I am no runtime >&2; exit 3\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let missing = bed.path("missing");
        let volume = format!("{}:/mnt", text(&missing));
        let onto_file = format!("{}:/etc/passwd", text(&bed.path("")));
        let onto_directory = format!("{}:/srv", text(&file));
        let cases: [(&[&str], &[&str], &[&str]); 15] = [
            (&[], &["nosuch"], &["no command `nosuch` in the image", "/bin", "`plywood run app -- ls /bin`"]),
            (&[], &["/no/such"], &["no command `/no/such` in the image", "`plywood run app -- ls /`"]),
            (
                &["--env", "PATH=/sbin:/srv"],
                &["ls"],
                &["no command `ls`", "/sbin:/srv", "whole path", "-- ls /srv`"],
            ),
            (&[], &["/etc/passwd"], &["`/etc/passwd` in the image is not an executable file", "execute bit"]),
            (&[], &["/srv"], &["/srv"]),
            (&["--user", "nobody-here"], &["true"], &["nobody-here"]),
            (&["--user", "app:nogroup-here"], &["true"], &["nogroup-here"]),
            (
                &["--runtime", "nosuch"],
                &["true"],
                &["OCI runtime `nosuch`", "not installed", "apt-get install crun", "--runtime PATH"],
            ),
            (&["--runtime", text(&file)], &["true"], &["OCI runtime", text(&file), "leave --runtime out"]),
            (&["--runtime", text(&script)], &["true"], &["OCI runtime", "I am no runtime"]),
            (&["--id-range-length", "4294967295"], &["true"], &["free ranges", "/etc/subuid"]),
            (&["-v", &volume], &["true"], &[text(&missing), "what to do: ", "mkdir -p"]),
            (
                &["-v", &onto_file],
                &["true"],
                &["is a directory, /etc/passwd in the image is a file", "what to do: "],
            ),
            (&["-v", &onto_directory], &["true"], &["is a file, /srv in the image is a directory"]),
            (&["--ulimit", "nofile=10"], &["true"], &["nofile=10 is too small", "ulimit -n 10; exec"]),
        ];
        for (flags, command, expected) in &cases {
            let args = [&["run", "-n", "3"], *flags, &["app", "--"], *command].concat();
            says(&bed.fails(1, &args), expected);
            bed.expect_empty();
        }
        // More ranges than there are, each of ordinary length.
        says(
            &bed.fails(1, &["run", "-n", "300", "--id-range-length", "10000000", "app", "--", "true"]),
            &["300 free ranges of 10000000", "plywood"],
        );
        let mut command = bed.command(["run", "app", "--", "true"]);
        command.env("PATH", "/nonexistent");
        says(&start(command).finish().check(1).stderr, &["no OCI runtime", "apt-get install runc"]);
    });
}

/// Values that can be read and cannot be: refused by us, with the flag, before a container is recorded or started.
#[test]
fn root_values_that_cannot_be_are_refused_before_anything_starts() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        bed.import(&TestImage::new().with("User", json!("70000")), "far");
        // Would say that it was asked to start something.
        let script = bed.path("runtime");
        let log = bed.path("asked");
        fs::write(&script, format!("#!/bin/sh\necho $* >> {}; exec runc \"$@\"\n", text(&log))).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let volume = |destination: &str| format!("{}:{destination}", text(&bed.path("")));
        let (here, again) = (volume("/mnt/x"), volume("/mnt//x/"));
        let (proc, dev) = (volume("/proc/x"), volume("/dev"));
        let many: Vec<String> = (0..33).map(|index| volume(&format!("/mnt/{index}"))).collect();
        let many: Vec<&str> = many.iter().flat_map(|volume| ["-v", volume]).collect();
        let cases: [(&[&str], &[&str]); 19] = [
            (&["--memory", "1k"], &["--memory: ", "`1024`", "6 MiB"]),
            (&["--memory", "0"], &["--memory: ", "6 MiB"]),
            (&["--cpus", "0"], &["--cpus: ", "`0`", "0.01"]),
            (&["--cpus", "-1"], &["--cpus: ", "`-1`"]),
            (&["--cpus", "inf"], &["--cpus: ", "`inf`"]),
            (&["--pids-limit", "0"], &["--pids-limit: "]),
            (&["--pids-limit", "-7"], &["--pids-limit: "]),
            (&["--pids-limit", "5"], &["--pids-limit: ", "6 is the least", "threads"]),
            (&["--ulimit", "nofile=2147483584"], &["--ulimit: nofile=2147483584", "fs.nr_open"]),
            (&["--cpuset-cpus", "4000"], &["--cpuset-cpus: ", "`4000`", "this host has 0"]),
            (&["--cpuset-cpus", "0,4000-4001"], &["--cpuset-cpus: "]),
            (&["--cpuset-mems", "1000"], &["--cpuset-mems: ", "`1000`", "this host has 0"]),
            (&["-v", &here, "-v", &again], &["--volume: ", "/mnt/x", "already"]),
            (&["-v", &proc], &["--volume: ", "/proc/x"]),
            (&["-v", &dev], &["--volume: ", "/dev"]),
            (&many, &["--volume: ", "33 volumes", "32"]),
            (&["--user", "65536"], &["--user: ", "user 65536", "--id-range-length 131072"]),
            (&["--user", "7:200000"], &["--user: ", "group 200000", "--id-range-length 262144"]),
            (&["--user", "10", "--id-range-length", "10"], &["--user: ", "--id-range-length 65536"]),
        ];
        for (flags, expected) in cases {
            for more in [&[][..], &["-d", "-n", "2"]] {
                let args =
                    [&["run", "--runtime", text(&script)], more, flags, &["app", "--", "true"]].concat();
                says(&bed.fails(1, &args), expected);
            }
        }
        let error = bed.fails(1, &["run", "--runtime", text(&script), "far", "--", "true"]);
        says(&error, &["the image's user: ", "70000", "--id-range-length 131072"]);
        let asked = fs::read_to_string(&log).unwrap_or_default();
        assert!(!asked.contains(" run "), "{asked}");
        bed.ok(&["run", "--runtime", text(&script), "app", "--", "true"]);
        assert!(fs::read_to_string(&log).unwrap().contains(" run "));
    });
}

#[test]
fn root_only_root_may() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        // A copy within everybody's reach: the build directory may not be.
        let program = bed.path("plywood");
        fs::copy(env!("CARGO_BIN_EXE_plywood"), &program).unwrap();
        fs::set_permissions(bed.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        for args in [&["run", "app", "--", "true"][..], &["images"], &["ps"], &["doctor"], &["prune"]] {
            let mut command = Command::new(&program);
            command.arg("--root").arg(bed.root()).args(args).uid(65_534).gid(65_534);
            says(&start(command).finish().check(1).stderr, &["needs root", "sudo"]);
        }
    });
}

/// Root in name only, as in an ordinary container: neither promised nor begun.
#[test]
fn root_without_the_capability_to_mount() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let without = |args: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
            command.arg(env!("CARGO_BIN_EXE_plywood")).arg("--root").arg(bed.root()).args(args);
            start(command).finish().check(1)
        };
        for args in [&["run", "app"][..], &["run", "-d", "app"], &["explain", "app"]] {
            says(&without(args).stderr, &["CAP_SYS_ADMIN", "what to do: ", "privileged"]);
        }
        let report = without(&["--json", "doctor"]).json();
        let finding = report["findings"].as_array().unwrap().iter().find(|one| one["id"] == "privileges");
        assert_eq!(finding.unwrap()["severity"], "error", "{report}");
        assert_eq!(report["mechanism"], Value::Null);
        says(&without(&["doctor"]).stdout, &["CAP_SYS_ADMIN", "containers cannot be launched here"]);
    });
}

/// The directory all containers are reached through, spoilt in every way.
#[test]
fn root_a_runtime_directory_that_cannot_be_used() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let run = Path::new("/run/plywood");
        let fails = |parts: &[&str]| says(&bed.fails(1, &["run", "app"]), parts);
        fs::write(run, "").unwrap();
        fails(&["/run/plywood is no directory", "remove it"]);
        fs::remove_file(run).unwrap();

        fs::set_permissions("/run", fs::Permissions::from_mode(0o700)).unwrap();
        fails(&["/run has mode 0700", "chmod o+x /run"]);
        fs::set_permissions("/run", fs::Permissions::from_mode(0o755)).unwrap();

        bed.ok(&["run", "app"]);
        fs::remove_file(run.join("ids.lock")).unwrap();
        symlink("/etc/passwd", run.join("ids.lock")).unwrap();
        fails(&["ids.lock", "what to do: ", "must be a regular file", "no container runs"]);
        fs::remove_file(run.join("ids.lock")).unwrap();

        tool("mount", "mount", &["-o", "remount,ro", "/run"]);
        let error = bed.fails(1, &["run", "app"]);
        says(&error, &["/run/plywood", "what to do: ", "make /run writable"]);
        assert!(!error.contains("--root"), "{error}");
        tool("mount", "mount", &["-o", "remount,rw", "/run"]);
        bed.ok(&["run", "app"]);
    });
}

/// Who cannot be told was said to need space in the state root.
#[test]
fn root_a_full_standard_output_is_named() {
    in_bed(|bed| {
        let mut command = bed.command(["images"]);
        command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        says(&error, &["standard output cannot be written", "what to do: send it"]);
    });
}

/// `ls /bin` was advised for images without either.
#[test]
fn root_an_image_without_a_shell_is_shown_as_it_is() {
    in_bed(|bed| {
        let mut image = TestImage::new();
        image.layers = vec![TarBuilder::new().dir("app", 0o755).file("app/program", "x").finish()];
        bed.import(&image, "bare");
        let error = bed.fails(1, &["run", "bare", "--", "program"]);
        says(&error, &["no command `program`", "the image has no `ls`; at its top are /app"]);
        assert!(!error.contains("ls /bin"), "{error}");
    });
}

/// A state root that another program, or a later plywood, has written.
#[test]
fn root_a_state_root_that_is_none() {
    in_bed(|bed| {
        fs::write(bed.root(), "a file").unwrap();
        says(&bed.fails(1, &["images"]), &["opening the state root", text(&bed.root())]);
        fs::remove_file(bed.root()).unwrap();
        fs::create_dir(bed.root()).unwrap();
        fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o755)).unwrap();
        says(&bed.fails(1, &["images"]), &["has mode 0755", "chmod 0700"]);
        // Advice to lock others out of what is theirs would be dangerous.
        fs::write(bed.root().join("theirs"), "").unwrap();
        for mode in [0o755, 0o700, 0o1777] {
            fs::set_permissions(bed.root(), fs::Permissions::from_mode(mode)).unwrap();
            let error = bed.fails(1, &["images"]);
            says(&error, &["holds other things (\"theirs\")", "choose another directory"]);
            assert!(!error.contains("chmod"), "{error}");
        }
        assert_eq!(bed.listed(""), ["theirs"]);
        fs::remove_file(bed.root().join("theirs")).unwrap();
        fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(
            bed.root().join("plywood.db"),
            "not a database, and long enough to be read as one".repeat(40),
        )
        .unwrap();
        says(&bed.fails(1, &["images"]), &["plywood.db"]);
        fs::remove_file(bed.root().join("plywood.db")).unwrap();
    });
}
