//! `exec`: as whom, where, and how it ends.

use std::time::{Duration, Instant};

use plywood_image::testing::TarBuilder;
use rustix::process::Signal;

use super::bad_input::says;
use super::bed::{Bed, Running, eventually, in_bed};
use super::layout::TestImage;

/// `sleep 1000` as `user`, in an image in which joe has groups; named `box`.
#[track_caller]
fn sleeper(bed: &Bed, user: &str) {
    let accounts = TarBuilder::new()
        .file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/srv:/bin/sh\nann:x:7:7::/:/bin/sh\n",
        )
        .file("etc/group", "root:x:0:\nwheel:x:10:joe,root\nextra:x:20:joe\nstaff:x:30:ann\n");
    bed.import(&TestImage::new().layer(accounts), "app");
    bed.ok(&["run", "-d", "--name", "box", "-u", user, "-e", "FOO=1", "app", "--", "sleep", "1000"]);
}

/// Whoever was named got the groups of the container's own user as well.
#[test]
fn root_exec_has_the_groups_of_its_user_and_no_others() {
    in_bed(|bed| {
        sleeper(bed, "joe");
        let who = "echo $(id -u) $(id -g) $(id -G) $HOME $FOO; grep CapEff /proc/self/status";
        let (all, none) = ("CapEff:\t00000000a80425fb\n", "CapEff:\t0000000000000000\n");
        for (user, expected, capabilities) in [
            (&[][..], "1000 1000 1000 10 20 /srv 1", none),
            (&["-u", "root"], "0 0 0 10 /root 1", all),
            (&["-u", "0:0"], "0 0 0 /root 1", all),
            (&["-u", "ann"], "7 7 7 30 / 1", none),
            (&["-u", "1234"], "1234 0 0 / 1", none),
            (&["-u", "1234:55"], "1234 55 55 / 1", none),
            (&["-u", "joe:55"], "1000 55 55 /srv 1", none),
            (&["-u", "ann", "-e", "FOO=2", "-e", "HOME=/x"], "7 7 7 30 /x 2", none),
        ] {
            let done = bed.ok(&[&["exec"], user, &["box", "sh", "-c", who]].concat());
            assert_eq!(done, format!("{expected}\n{capabilities}"), "{user:?}");
        }
        bed.ok(&["rm", "--force", "box"]);

        // The groups and capabilities of root, for somebody who has neither.
        sleeper(bed, "root");
        let done = bed.ok(&["exec", "-u", "1000:1000", "box", "sh", "-c", who]);
        assert_eq!(done, format!("1000 1000 1000 /srv 1\n{none}"));
        bed.ok(&["rm", "--force", "box"]);
    });
}

/// Commands of the container that contain `text`.
fn commands(bed: &Bed, text: &str) -> usize {
    let id = bed.containers().remove(0)["id"].as_str().unwrap().to_owned();
    let processes = plywood_engine::cgroup::Cgroups::detect().unwrap().processes(&id).unwrap();
    let command = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    processes.iter().map(command).filter(|command| command.contains(text)).count()
}

fn exec(bed: &Bed, script: &str) -> Running {
    let exec = bed.start(&["exec", "box", "sh", "-c", script]);
    eventually("it runs", || exec.stdout().starts_with("up\n").then_some(()));
    exec
}

/// A signal to `exec` alone did nothing, and KILL left the command in the container.
#[test]
fn root_what_ends_exec_ends_its_command() {
    in_bed(|bed| {
        sleeper(bed, "root");
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let start = Instant::now();
            let one = exec(bed, "echo up; exec sleep 4321");
            one.signal(signal);
            let done = one.finish().check(130);
            assert!(done.stderr.contains("plywood: interrupted"), "{}", done.stderr);
            assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
            assert_eq!(commands(bed, "4321"), 0, "{signal:?}");
        }
        // It may end as it likes.
        let one = exec(bed, "trap 'echo got TERM; exit 3' TERM; echo up; while :; do sleep 0.05; done");
        one.signal(Signal::TERM);
        assert_eq!(one.finish().check(130).stdout, "up\ngot TERM\n");
        // One that does not want to, at the second request; sent twice at once, a request is one.
        let stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done; echo 4321";
        let mut one = exec(bed, stubborn);
        let start = Instant::now();
        one.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(200));
        one.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(1300));
        assert!(one.is_running());
        assert_eq!(commands(bed, "4321"), 1);
        one.signal(Signal::TERM);
        one.finish().check(130);
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
        assert_eq!(commands(bed, "4321"), 0);
        // Or when its time is over.
        let one = exec(bed, stubborn);
        one.signal(Signal::TERM);
        one.finish().check(130);
        assert_eq!(commands(bed, "4321"), 0);
        let id = bed.containers().remove(0)["id"].as_str().unwrap().to_owned();
        assert!(!bed.listed(&format!("run/bundles/{id}")).iter().any(|name| name.starts_with("exec-")));
        bed.ok(&["rm", "--force", "box"]);
    });
}

/// The runtime's own words, exit code 125, and no advice.
#[test]
fn root_exec_where_there_is_no_directory() {
    in_bed(|bed| {
        sleeper(bed, "root");
        for (path, expected) in [
            ("/nodir", "--workdir: there is no /nodir in container "),
            ("/etc/passwd", "--workdir: not a directory: /etc/passwd in container "),
        ] {
            let error = bed.fails(1, &["exec", "-w", path, "box", "true"]);
            says(&error, &[expected, "what to do: ", "mkdir -p"]);
        }
        says(&bed.fails(2, &["exec", "-w", "srv", "box", "true"]), &["`srv` is not an absolute path"]);
        says(&bed.fails(2, &["exec", "-e", "", "box", "true"]), &["`` is not of the form NAME=VALUE"]);
        // As the container sees it, not the host.
        bed.ok(&["exec", "box", "sh", "-c", "mkdir /made; ln -s /made /link"]);
        assert_eq!(bed.ok(&["exec", "-w", "/link", "box", "pwd"]), "/made\n");
        bed.ok(&["rm", "--force", "box"]);
    });
}
