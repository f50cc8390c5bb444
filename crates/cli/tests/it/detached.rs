//! `run -d` and what follows: `ps`, `logs`, `exec`, `stop`, `rm`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plywood_image::testing::TarBuilder;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::bed::{Bed, eventually, in_bed, start};
use super::images::keys;
use super::layout::{TestImage, text};

/// Starts one container that runs `sh -c script`; answers its id.
#[track_caller]
fn detach(bed: &Bed, flags: &[&str], script: &str) -> String {
    let id = bed.ok(&[&["run", "-d"], flags, &["app", "--", "sh", "-c", script]].concat()).trim().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?}");
    id
}

fn state(bed: &Bed, id: &str) -> Value {
    let containers = bed.containers();
    containers.into_iter().find(|one| one["id"] == id).map_or(Value::Null, |one| one["state"].clone())
}

#[test]
fn root_the_life_of_a_detached_container() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let script =
            "trap 'echo got TERM; exit 9' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";
        let id = detach(bed, &["--name", "lively"], script);

        let listed = bed.json(&["ps"]);
        let container = &listed["containers"][0];
        assert_eq!(
            keys(container),
            [
                "command",
                "created_ms",
                "exit_code",
                "finished_ms",
                "gid_range",
                "id",
                "image",
                "image_digest",
                "launch_ms",
                "lower",
                "mechanism",
                "name",
                "pid",
                "runtime",
                "started_ms",
                "state",
                "uid_range"
            ]
        );
        assert_eq!((&container["id"], &container["state"]), (&json!(id), &json!("running")));
        assert_eq!(container["name"], "lively");
        let table = bed.ok(&["ps"]);
        assert!(
            table.contains("lively") && table.contains("running") && table.contains(&id[..12]),
            "{table}"
        );
        // Its own ids, as the host sees them.
        let pid = container["pid"].as_u64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let uid: u64 = uid.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(json!(uid), container["uid_range"]["start"]);

        eventually("both lines are logged", || (bed.ok(&["logs", "lively"]) == "out\nerr\n").then_some(()));
        for (args, code, expected) in [
            (&["exec", "lively", "cat", "/srv/data/added"][..], 0, "added"),
            (&["exec", &id[..6], "sh", "-c", "exit 42"], 42, ""),
            (&["exec", "--user", "1000:6", "lively", "--", "sh", "-c", "id -u; id -g"], 0, "1000\n6\n"),
            // Names are the image's own, as for `run --user`.
            (
                &["exec", "-u", "app", "lively", "sh", "-c", "id -u; id -g; id -G; echo $HOME"],
                0,
                "1000\n1000\n1000 6\n/srv\n",
            ),
            (&["exec", "-u", "1000", "lively", "id", "-g"], 0, "1000\n"),
            (&["exec", "-u", "app:disk", "lively", "id", "-g"], 0, "6\n"),
            (&["exec", "-u", "app", "-e", "HOME=/x", "lively", "sh", "-c", "echo $HOME"], 0, "/x\n"),
            (&["exec", "-u", "nobody-here", "lively", "id"], 1, ""),
            (&["exec", "-u", "65536", "lively", "id"], 1, ""),
            (&["exec", "-u", "a:b:c", "lively", "id"], 2, ""),
            // As a shell says it; and a command's own codes are its own.
            (&["exec", "lively", "nosuch"], 127, ""),
            (&["exec", "lively", "/no/such"], 127, ""),
            (&["exec", "lively", "/etc/passwd"], 126, ""),
            (&["exec", "lively", "sh", "-c", "exit 255"], 255, ""),
            (&["exec", "-e", "X=y", "-w", "/srv", "lively", "sh", "-c", "echo $X; pwd"], 0, "y\n/srv\n"),
            (
                &["exec", "lively", "sh", "-c", "cat /proc/self/uid_map | wc -l; hostname"],
                0,
                &format!("1\n{}\n", &id[..12]),
            ),
        ] {
            assert_eq!(bed.plywood(args).check(code).stdout, expected, "{args:?}");
        }
        let error = bed.fails(127, &["exec", "lively", "nosuch"]);
        assert_eq!(error.matches("\"nosuch\": executable file not found").count(), 1, "{error}");
        assert!(bed.fails(1, &["exec", "-u", "nobody-here", "lively", "id"]).contains("`nobody-here`"));
        // The bundle is as it was.
        assert!(!bed.listed(&format!("run/bundles/{id}")).iter().any(|name| name.starts_with("exec-")));

        let error = bed.fails(1, &["rm", "lively"]);
        assert!(error.contains("is running") && error.contains("plywood stop"), "{error}");
        assert_eq!(bed.json(&["stop", "lively"]), json!({ "stopped": [id] }));
        assert!(bed.ok(&["logs", "lively"]).ends_with("got TERM\n"));
        assert_eq!(bed.json(&["ps"]), json!({ "containers": [] }));
        let container = bed.containers().remove(0);
        assert_eq!((&container["state"], &container["exit_code"]), (&json!("exited"), &json!(9)));
        assert!(bed.ok(&["ps", "-a"]).contains("exited (9)"));
        let error = bed.fails(1, &["exec", "lively", "true"]);
        assert!(error.contains("is exited, not running"), "{error}");
        assert_eq!(bed.json(&["stop", "lively"]), json!({ "stopped": [] }));
        assert_eq!(bed.json(&["rm", "lively"]), json!({ "removed": [id] }));
        assert_eq!(bed.containers(), Vec::<Value>::new());
    });
}

/// `run -d` failed without a word when its supervisor was killed.
#[test]
fn root_a_supervisor_that_dies_before_it_reports_is_told_of() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let limited = |limit: &str| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("{limit} && exec \"$@\"")).arg("sh");
            command.arg(env!("CARGO_BIN_EXE_plywood")).arg("--root").arg(bed.root());
            command.args(["run", "-d", "app", "--", "sleep", "1000"]).stdin(Stdio::null());
            // Pipes: the caller must be able to say it.
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let error = limited("ulimit -f 0");
        assert!(error.contains("ended by signal 25 before it reported"), "{error}");
        assert!(error.contains("what to do: ") && error.contains("ulimit -f unlimited"), "{error}");
        assert_eq!(bed.json(&["ps", "--all"]), json!({ "containers": [] }));

        // Killed while its runtime takes its time.
        let script = bed.path("slow");
        std::fs::write(&script, "#!/bin/sh\ncase \"$*\" in *' run '*) sleep 3;; esac; exec runc \"$@\"\n")
            .unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let args = ["run", "-d", "--runtime", text(&script), "app", "--", "sleep", "1000"];
        let run = bed.start(&args);
        eventually("it is recorded", || (bed.containers().len() == 1).then_some(()));
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
        let supervisor = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(supervisor, Signal::KILL).unwrap();
        let error = run.finish().check(1).stderr;
        assert!(error.contains("ended by signal 9 before it reported"), "{error}");
        assert!(error.contains("plywood ps --all"), "{error}");
        assert_eq!(bed.json(&["ps", "--all"]), json!({ "containers": [] }));
    });
}

/// It looked twenty times a second whether somebody had asked it to stop, for as long as its containers lived.
#[test]
fn root_an_idle_supervisor_does_not_wake() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        bed.ok(&["run", "-d", "-n", "3", "app", "--", "sleep", "1000"]);
        let pid = bed.containers()[0]["pid"].clone();
        let supervisor = super::open_files::parent(&pid.to_string());
        let switches = || -> u64 {
            let tasks = std::fs::read_dir(format!("/proc/{supervisor}/task")).unwrap();
            let of = |task: std::fs::DirEntry| {
                let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                line.map_or(0, |number| number.trim().parse::<u64>().unwrap())
            };
            tasks.map(|task| of(task.unwrap())).sum()
        };
        // Once what was left of the launch is done.
        eventually("it sleeps", || {
            let before = switches();
            std::thread::sleep(Duration::from_secs(2));
            (switches() == before).then_some(())
        });
        // And wakes when there is something.
        bed.ok(&["stop", "--all", "--time", "0"]);
        bed.ok(&["rm", "--all"]);
    });
}

#[test]
fn root_stop_signals_and_their_patience() {
    in_bed(|bed| {
        bed.import(&TestImage::new().with("StopSignal", json!("SIGUSR1")), "app");
        let loop_on = |trap: &str| format!("{trap}; echo ready; while :; do sleep 0.05; done");
        let ready =
            |id: &str| eventually("it traps", || bed.ok(&["logs", id]).contains("ready").then_some(()));

        let polite = detach(bed, &[], &loop_on("trap 'exit 5' USR1; trap 'exit 6' TERM"));
        ready(&polite);
        bed.ok(&["stop", &polite]);
        let stubborn = detach(bed, &[], &loop_on("trap '' USR1 TERM"));
        ready(&stubborn);
        let start = Instant::now();
        bed.ok(&["stop", "--time", "1", &stubborn]);
        assert!((1..8).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let code = |id: &str| {
            bed.containers().into_iter().find(|one| one["id"] == id).map(|one| one["exit_code"].clone())
        };
        assert_eq!((code(&polite), code(&stubborn)), (Some(json!(5)), Some(json!(137))));

        // By a name that runtimes do not know.
        bed.import(&TestImage::new().with("StopSignal", json!("SIGRTMIN+3")), "realtime");
        let script = loop_on("trap 'exit 7' 37");
        let realtime = bed.ok(&["run", "-d", "realtime", "--", "sh", "-c", &script]);
        ready(realtime.trim());
        bed.ok(&["stop", realtime.trim()]);
        assert_eq!(code(realtime.trim()), Some(json!(7)));
        bed.import(&TestImage::new().with("StopSignal", json!("SIGNOSUCH")), "odd");
        let error = bed.fails(1, &["run", "-d", "odd", "--", "sleep", "1000"]);
        assert!(error.contains("StopSignal `SIGNOSUCH`") && error.contains("STOPSIGNAL SIGTERM"), "{error}");

        // Many at once wait together, not one after the other.
        let many = bed.ok(&["run", "-d", "-n", "6", "app", "--", "sh", "-c", &loop_on("trap '' USR1")]);
        for id in many.lines() {
            ready(id);
        }
        let start = Instant::now();
        bed.ok(&["stop", "--all", "--time", "1"]);
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        bed.ok(&["rm", "--all"]);
    });
}

/// What `stop` had read of a container that was being launched it never read again: the container was killed without its
/// stop signal when it had run for some seconds, and its exit code lost.
#[test]
fn root_a_container_being_launched_is_stopped_as_any_other() {
    in_bed(|bed| {
        bed.import(&TestImage::new().with("StopSignal", json!("SIGUSR1")), "app");
        // It traps by the time the signal comes: the first process of a namespace is not signalled otherwise.
        let slow = bed.path("slow");
        let script =
            "#!/bin/sh\ncase \" $* \" in *' run '*) sleep 3;; *' kill '*) sleep 1;; esac\nexec runc \"$@\"\n";
        std::fs::write(&slow, script).unwrap();
        std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
        let launch = || {
            let script = "trap 'exit 5' USR1; while :; do sleep 0.05; done";
            let run =
                bed.start(&["run", "-d", "--runtime", text(&slow), "app", "--", "sh", "-c", script]).ready();
            let id = eventually("it is recorded", || Some(bed.containers().first()?["id"].clone()));
            (run, id.as_str().unwrap().to_owned())
        };
        let (run, id) = launch();
        assert_eq!(state(bed, &id), "created");
        assert_eq!(bed.json(&["stop", "--time", "60", &id]), json!({ "stopped": [id] }));
        let container = bed.containers().remove(0);
        assert_eq!((&container["state"], &container["exit_code"]), (&json!("exited"), &json!(5)));
        assert_eq!(run.finish().ok().trim(), id);
        bed.ok(&["rm", &id]);

        // Whoever does not want to wait says which are left.
        let (run, id) = launch();
        let stop = bed.start(&["--json", "stop", &id]).ready();
        std::thread::sleep(Duration::from_millis(300));
        let done = stop.interrupt(Signal::INT).check(130);
        assert!(
            done.stderr.contains(&format!("1 container still running: {}", &id[..12])),
            "{}",
            done.stderr
        );
        assert_eq!(bed.json(&["rm", "--force", &id]), json!({ "removed": [id] }));
        run.finish();
        bed.expect_empty();
    });
}

#[test]
fn root_logs_are_followed_to_the_end() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let id = detach(bed, &[], "for i in 1 2 3 4; do echo line $i; sleep 1; done");
        let mut following = bed.start(&["logs", "--follow", &id]);
        eventually("the first line", || following.stdout().contains("line 1").then_some(()));
        assert!(following.is_running());
        // One that is stopped says so, and has printed what there was.
        let stopped = bed.start(&["logs", "--follow", &id]).ready();
        eventually("its first line", || stopped.stdout().contains("line 1").then_some(()));
        stopped.signal(Signal::INT);
        assert!(stopped.finish().check(130).stdout.starts_with("line 1\n"));
        assert_eq!(following.finish().ok(), "line 1\nline 2\nline 3\nline 4\n");
        eventually("it has ended", || (state(bed, &id) == "exited").then_some(()));
        assert_eq!(bed.ok(&["logs", "-f", &id]), "line 1\nline 2\nline 3\nline 4\n");
        bed.ok(&["rm", &id]);
        let error = bed.fails(1, &["logs", &id]);
        assert!(error.contains("no container"), "{error}");
    });
}

#[test]
fn root_names_and_prefixes() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let ids = bed.ok(&["run", "-d", "-n", "17", "--name", "web", "app", "--", "sleep", "1000"]);
        let ids: Vec<&str> = ids.lines().collect();
        assert_eq!(ids.len(), 17);
        for index in [0, 16] {
            assert_eq!(bed.ok(&["exec", &format!("web-{index}"), "echo", "hi"]), "hi\n");
        }
        // Seventeen ids start with at most sixteen digits: some digit is shared.
        let shared = ids.iter().enumerate().find_map(|(index, id)| {
            ids[..index].iter().any(|other| other[..1] == id[..1]).then_some(&id[..1])
        });
        let error = bed.fails(1, &["exec", shared.unwrap(), "true"]);
        assert!(error.contains("could be any of") && error.contains("give more digits"), "{error}");
        let error = bed.fails(1, &["stop", "nosuch"]);
        assert!(error.contains("no container \"nosuch\"") && error.contains("ps --all"), "{error}");

        // A name that is taken: nothing is launched, what there is stays.
        let error = bed.fails(1, &["run", "-d", "--name", "web-3", "app", "--", "sleep", "1000"]);
        assert!(error.contains("named \"web-3\" already"), "{error}");
        let error = bed.fails(1, &["run", "-n", "2", "--name", "web", "app", "--", "sleep", "1000"]);
        assert!(error.contains("web-0"), "{error}");
        assert_eq!(bed.containers().len(), 17);
        assert_eq!(bed.listed("snapshots").len(), 17);
        assert_eq!(bed.json(&["rm", "--force", "--all"])["removed"].as_array().unwrap().len(), 17);
        detach(bed, &["--name", "web-3"], "sleep 1000");
        bed.ok(&["rm", "-f", "web-3"]);
    });
}

/// The caller's pipe is let go of once the containers run: `id=$(plywood run -d ...)` returns.
#[test]
fn root_detached_containers_let_go_of_the_callers_pipe() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let start = Instant::now();
        // Reads both pipes to their ends.
        let output = bed.command(["run", "-d", "app", "--", "sleep", "1000"]).output().unwrap();
        assert!(output.status.success() && start.elapsed() < Duration::from_secs(30), "{output:?}");
        let output =
            bed.command(["--json", "run", "-d", "-n", "2", "app", "--", "sleep", "1000"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["started"], &report["containers"][0]["exit_code"]), (&json!(2), &Value::Null));
        assert_eq!(bed.containers().len(), 3);
        bed.ok(&["rm", "-f", "--all"]);
    });
}

/// Some that cannot start among those that do: the others run, the exit code says it.
#[test]
fn root_a_detached_container_that_cannot_start_leaves_nothing() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let error = bed.fails(1, &["run", "-d", "app", "--", "nosuch"]);
        assert!(error.contains("no command `nosuch` in the image"), "{error}");
        let error = bed.fails(1, &["run", "-d", "--entrypoint", "/etc/passwd", "app"]);
        assert!(error.contains("is not an executable file"), "{error}");
        // The runtime alone can find this out: a volume hides the command that the image has.
        let empty = bed.path("empty");
        std::fs::create_dir(&empty).unwrap();
        let volume = format!("{}:/bin", text(&empty));
        let done = bed.plywood(&["run", "-d", "-n", "2", "-v", &volume, "app", "--", "/bin/sh"]).check(1);
        assert_eq!(done.stdout, "");
        assert_eq!(done.stderr.matches("no such file").count(), 2, "{}", done.stderr);
        bed.expect_empty();
        let report =
            bed.plywood(&["--json", "run", "-d", "-v", &volume, "app", "--", "/bin/sh"]).check(1).json();
        assert_eq!((&report["failed"], &report["containers"][0]["exit_code"]), (&json!(1), &json!(127)));

        // Executable, and no program: it ran, if not for long, and its log says so.
        let bad = super::layout::owned(TarBuilder::new(), "bin/bad", (0, 0), 0o755, b"\x7fELFnonsense");
        bed.import(&TestImage::new().layer(bad), "bad");
        let id = bed.ok(&["run", "-d", "bad", "--", "/bin/bad"]).trim().to_owned();
        eventually("it has ended", || (state(bed, &id) == "exited").then_some(()));
        assert!(bed.ok(&["logs", &id]).contains("format error"));
        assert_ne!(bed.containers()[0]["exit_code"], 0);
        bed.ok(&["rm", &id]);
    });
}

/// One of several is taken away by somebody else: the others, and whoever looks after them, go on.
#[test]
fn root_one_of_many_is_removed() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let ids = bed.ok(&["run", "-d", "-n", "3", "app", "--", "sleep", "1000"]);
        let first = ids.lines().next().unwrap();
        bed.ok(&["rm", "--force", first]);
        assert_eq!(bed.json(&["ps"])["containers"].as_array().unwrap().len(), 2);
        bed.ok(&["rm", "--force", "--all"]);

        // In the foreground, too: stopped ones leave at once, the run goes on with the others.
        let mut run = bed.start(&["--json", "run", "-n", "3", "--name", "x", "app", "--", "sleep", "1000"]);
        let running = || bed.containers().iter().filter(|one| one["state"] == "running").count();
        eventually("all run", || (running() == 3).then_some(()));
        let start = Instant::now();
        bed.ok(&["stop", "--time", "0", "x-0"]);
        bed.ok(&["rm", "--force", "x-1"]);
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        eventually("one is left", || (bed.containers().len() == 1).then_some(()));
        assert!(run.is_running());
        bed.ok(&["stop", "--time", "0", "x-2"]);
        let report = run.finish().check(1).json();
        let codes = report["containers"].as_array().unwrap().iter().map(|one| one["exit_code"].clone());
        assert_eq!(codes.collect::<Vec<_>>(), [json!(137), json!(137), json!(137)]);
    });
}

/// The supervisor is started with the caller's words: none of them may be taken for another.
#[test]
fn root_the_supervisor_has_the_callers_root() {
    in_bed(|bed| {
        let script = b"#!/bin/sh\necho ran $*; exec sleep 1000\n";
        let run = super::layout::owned(TarBuilder::new(), "bin/run", (0, 0), 0o755, script);
        let layout = TestImage::new().layer(run).write(&bed.path("layout"), "run");
        let plywood = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
            command.args(args).current_dir(bed.path("")).env("PLYWOOD_ROOT", bed.path("other"));
            start(command).finish().ok()
        };
        plywood(&["--root", "run", "import", text(layout.path())]);
        for args in [
            &["--root", "run", "run", "-d", "--name", "run", "run", "run", "-d", "--root", "x"][..],
            &["run", "--root=run", "-d", "--name=run", "run", "--", "run", "-d", "--root", "x"],
        ] {
            let id = plywood(args);
            eventually("it runs", || {
                (plywood(&["--root", "run", "logs", "run"]) == "ran -d --root x\n").then_some(())
            });
            assert!(bed.path("run/run/bundles").join(id.trim()).exists());
            plywood(&["rm", "--force", "run", "--root", "run"]);
        }
        assert!(!bed.path("other").exists() && !bed.path("x").exists());
    });
}

/// Whoever has the id can follow the log at once, of a container that has ended, too.
#[test]
fn root_logs_can_be_followed_as_soon_as_the_id_is_there() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        for script in ["echo one; echo two", "echo one; sleep 0.3; echo two"] {
            for _ in 0..4 {
                let id = detach(bed, &[], script);
                assert_eq!(bed.ok(&["logs", "--follow", &id]), "one\ntwo\n");
                bed.ok(&["rm", "--force", &id]);
            }
        }
    });
}

/// Containers are ended together: here each asks its runtime, which waits until all have been asked.
#[test]
fn root_twenty_are_ended_at_once() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let (runtime, asked) = (bed.path("runtime"), bed.path("asked"));
        let wait = format!(
            "#!/bin/sh\ncase \" $* \" in *' kill '*)\n\
             touch {asked}/$$; tries=0\n\
             while [ $(ls {asked} | wc -l) -lt 20 ]; do\n\
             tries=$((tries + 1)); [ $tries -gt 100 ] && exit 9; sleep 0.3; done;;\n\
             esac\nexec runc \"$@\"\n",
            asked = text(&asked)
        );
        std::fs::write(&runtime, wait).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
        let flags = ["run", "-d", "-n", "20", "--runtime", text(&runtime)];
        for ending in [&["stop", "--all", "--time", "0"][..], &["rm", "--all", "--force"]] {
            std::fs::create_dir(&asked).unwrap();
            bed.ok(&[&flags[..], &["app", "--", "sleep", "1000"]].concat());
            assert_eq!(bed.ok(ending).lines().count(), 20);
            assert_eq!(bed.json(&["ps"]), json!({ "containers": [] }));
            bed.json(&["rm", "--all"]);
            std::fs::rename(&asked, bed.path(ending[0])).unwrap();
        }
    });
}

/// A file system could not be unmounted while a container ran that somebody had started from there.
#[test]
fn root_the_supervisor_lets_go_of_the_callers_directory() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let here = bed.path("here");
        std::fs::create_dir(&here).unwrap();
        super::layout::tool("mount", "mount", &["-t", "tmpfs", "here", text(&here)]);
        let mut command = bed.command(["run", "-d", "--name", "box", "app", "--", "sleep", "1000"]);
        command.current_dir(&here);
        start(command).finish().ok();
        super::layout::tool("umount", "mount", &[text(&here)]);
        assert_eq!(bed.ok(&["exec", "box", "echo", "alive"]), "alive\n");
        bed.ok(&["rm", "--force", "box"]);
    });
}

/// What the runtime knew of them was gone, and with it the only way to end them.
#[test]
fn root_containers_whose_runtime_knows_nothing_of_them_can_be_ended() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
        for (args, supervised) in
            [(&["stop"][..], true), (&["rm", "--force"], true), (&["rm", "--force"], false)]
        {
            let id = detach(bed, &["--name", "box"], script);
            eventually("it traps", || (bed.ok(&["logs", &id]) == "ready\n").then_some(()));
            if !supervised {
                super::interrupt::kill_supervisor(bed);
            }
            let root = std::fs::File::open(bed.root()).unwrap();
            plywood_kernel::remove_tree(&root, "run").unwrap();
            let done = bed.plywood(&[args, &["box"]].concat()).check(0);
            assert_eq!(done.stdout, format!("{id}\n"));
            assert!(done.stderr.contains("signalled without its runtime"), "{}", done.stderr);
            if args == ["stop"] {
                assert_eq!(bed.containers()[0]["exit_code"], 5);
                bed.ok(&["rm", "box"]);
            }
            bed.expect_empty();
        }
    });
}
