//! `plywood storm` of a real containerd and of its CRI.

use std::time::{Duration, Instant};

use plywood_xtask::containerd::{SUITES, Server, Settings, Suite, Tree};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::bed::{eventually, in_bed};

const QUICK: [&str; 6] = ["--containers", "4", "--repeat", "1", "--generate", "layers=3,files=20,size=10"];

#[test]
fn root_containers_and_pods_of_a_containerd_storm() {
    in_bed(|bed| {
        let settings = Settings { pods: true, ..Settings::default() };
        let server = Server::start(Tree::open(Suite::Sid).unwrap(), &settings).unwrap();
        let socket = server.socket().display().to_string();
        let storm = ["--json", "storm", "--launcher", "containerd,cri", "--address", &socket];
        let done = bed.plywood(&[&storm[..], &QUICK].concat()).check(0);
        let arms: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(arms.len(), 2);
        for (arm, launcher) in arms.iter().zip(["containerd", "cri"]) {
            assert_eq!(arm["launcher"], launcher);
            assert_eq!((&arm["failed"], &arm["launches"]), (&0.into(), &4.into()), "{arm}");
            // At least one overlay a container, seen where containerd mounts.
            assert!(arm["mount_ops"]["host_attach"].as_u64().unwrap() >= 4, "{arm}");
        }
        assert_eq!(server.processes().unwrap(), [server.pid()]);
    });
}

#[test]
fn root_a_containerd_that_is_not_there_is_named() {
    in_bed(|bed| {
        let storm = ["storm", "--launcher", "containerd", "--address", "/no/such.sock"];
        let done = bed.plywood(&[&storm[..], &QUICK].concat()).check(1);
        assert!(done.stderr.contains("there is no socket /no/such.sock"), "{}", done.stderr);
    });
}

/// Host ids, which every containerd can: what is mounted is the overlay alone.
#[test]
fn root_every_containerd_storms_with_the_hosts_ids() {
    in_bed(|bed| {
        for suite in SUITES {
            let settings = Settings { pods: true, ..Settings::default() };
            let server = Server::start(Tree::open(suite).unwrap(), &settings).unwrap();
            let before = server.mounts().unwrap();
            let socket = server.socket().display().to_string();
            let storm = |args: &[&str]| -> Vec<Value> {
                let done = bed
                    .plywood(&[&["--json", "storm", "--address", &socket], args, &QUICK].concat())
                    .check(0);
                bed.expect_empty();
                done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            };
            let ops = |arm: &Value| {
                assert_eq!((&arm["failed"], &arm["launches"]), (&0.into(), &4.into()), "{suite}: {arm}");
                let of = |name: &str| arm["mount_ops"][name].as_u64().unwrap();
                (of("host_attach"), of("host_detach"))
            };

            let arms = storm(&["--launcher", "containerd,cri", "--userns", "host"]);
            let names: Vec<_> = arms.iter().map(|arm| (&arm["launcher"], &arm["userns"])).collect();
            assert_eq!(names, [(&"containerd".into(), &"host".into()), (&"cri".into(), &"host".into())]);
            // The shim's overlay, and with it runc 1.1.5 binds its own program for a moment. A pod has two overlays, and
            // what its sandbox is made of.
            let each = if suite == Suite::Bookworm { 2 } else { 1 };
            assert_eq!(ops(&arms[0]), (4 * each, 4 * each), "{suite}");
            assert!(ops(&arms[1]).0 >= 4 * 2, "{suite}: {}", arms[1]);

            // A look at the image, and the overlay that stays.
            let arms =
                storm(&["--launcher", "containerd", "--rootfs-only", "--passes", "2", "--userns", "host"]);
            assert_eq!((arms.len(), ops(&arms[0])), (1, (4 * 2, 4 * 2)), "{suite}");

            assert_eq!(server.processes().unwrap(), [server.pid()], "{suite}");
            assert_eq!(server.mounts().unwrap().len(), before.len(), "{suite}");
        }
    });
}

#[test]
fn root_an_old_containerd_is_refused_mappings_and_told_what_measures_it_without() {
    in_bed(|bed| {
        for (suite, version) in [(Suite::Bookworm, "containerd 1.6."), (Suite::Trixie, "containerd 1.7.")] {
            let settings = Settings { pods: true, ..Settings::default() };
            let server = Server::start(Tree::open(suite).unwrap(), &settings).unwrap();
            let socket = server.socket().display().to_string();
            for launcher in ["containerd", "cri"] {
                for userns in [&[][..], &["--userns", "host,private"]] {
                    let storm = ["storm", "--launcher", launcher, "--address", &socket];
                    let done = bed.plywood(&[&storm[..], userns, &QUICK].concat()).check(1);
                    for what in [version, "2.0 and newer", "`--userns host`"] {
                        assert!(done.stderr.contains(what), "{suite} {launcher}: {}", done.stderr);
                    }
                    bed.expect_empty();
                }
            }
            assert_eq!(server.processes().unwrap(), [server.pid()], "{suite}");
        }
    });
}

/// Both in one storm, on a containerd that can: what mapping ids costs.
#[test]
fn root_a_new_containerd_storms_with_ids_of_both_kinds() {
    in_bed(|bed| {
        let server = Server::start(Tree::open(Suite::Sid).unwrap(), &Settings::default()).unwrap();
        let socket = server.socket().display().to_string();
        let storm = ["storm", "--launcher", "containerd", "--userns", "private,host", "--address", &socket];
        let raw = bed.path("raw.jsonl");
        let raw = ["--raw", raw.to_str().unwrap()];
        let done = bed.plywood(&[&storm[..], &raw, &["--json"], &QUICK].concat()).check(0);
        let arms: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let attached = |arm: &Value| arm["mount_ops"]["host_attach"].as_u64().unwrap();
        let told: Vec<_> = arms.iter().map(|arm| (arm["userns"].as_str().unwrap(), attached(arm))).collect();
        // The layers' parent directory, mapped, and the overlay; the overlay alone.
        assert_eq!(told, [("private", 4 * 2), ("host", 4)]);
        let shown = bed.ok(&["storm", "--show", raw[1]]);
        for arm in ["\ncontainerd overlayfs  ", "\ncontainerd overlayfs with host users  "] {
            assert!(shown.contains(arm), "{arm}: {shown}");
        }
        assert!(shown.contains("apping ids") || shown.contains("ids are mapped"), "{shown}");
        assert!(shown.contains("changes the host's mount table 4 times with the one and 2 times"), "{shown}");
    });
}

/// A stopped containerd answers nobody, and Ctrl-C ends the storm all the same, with a word on what may be left: the next
/// storm takes that back.
#[test]
fn root_ctrl_c_ends_a_storm_of_a_containerd_that_does_not_answer() {
    in_bed(|bed| {
        let settings = Settings { pods: true, ..Settings::default() };
        let server = Server::start(Tree::open(Suite::Sid).unwrap(), &settings).unwrap();
        let socket = server.socket().display().to_string();
        let pid = Pid::from_raw(server.pid().cast_signed()).unwrap();
        let storm = |launcher| {
            let args = ["storm", "--userns", "host", "--address", &socket, "--launcher", launcher];
            [&args[..], &QUICK].concat()
        };
        // Of each of four containers the shim and its process, of pods the sandbox's, too. Were it stopped while it makes
        // one, containerd would forget a shim that it has started and not yet asked for anything.
        for (launcher, all) in [("containerd", 4 * 2), ("cri", 4 * 3)] {
            // While it opens, and with containers there.
            for started in [false, true] {
                if !started {
                    kill_process(pid, Signal::STOP).unwrap();
                }
                let run = bed.start(&[&storm(launcher)[..], &["--hold", "1000s"]].concat()).ready();
                if started {
                    eventually("containers run", || (server.processes().unwrap().len() > all).then_some(()));
                    kill_process(pid, Signal::STOP).unwrap();
                } else {
                    std::thread::sleep(Duration::from_millis(1500));
                }
                let asked = Instant::now();
                run.signal(Signal::INT);
                let done = run.finish().check(130);
                assert!(asked.elapsed() < Duration::from_secs(30), "{launcher}: {:?}", asked.elapsed());
                kill_process(pid, Signal::CONT).unwrap();
                assert_eq!(done.stderr.contains("may be left"), started, "{launcher}: {}", done.stderr);
                bed.expect_empty();
            }
            bed.plywood(&storm(launcher)).check(0);
            let alone = || (server.processes().unwrap() == [server.pid()]).then_some(());
            eventually("nothing of the storm that was given up runs", alone);
        }
    });
}

/// Each container is one that cannot be removed then, and all of them are one message.
#[test]
fn root_a_containerd_that_is_killed_is_told_of_once() {
    in_bed(|bed| {
        for (launcher, more) in [("containerd", &[][..]), ("containerd", &["--rootfs-only"]), ("cri", &[])] {
            let settings = Settings { pods: true, ..Settings::default() };
            let server = Server::start(Tree::open(Suite::Sid).unwrap(), &settings).unwrap();
            let socket = server.socket().display().to_string();
            let before = server.mounts().unwrap().len();
            let pid = Pid::from_raw(server.pid().cast_signed()).unwrap();
            let args = ["storm", "--userns", "host", "--address", &socket, "--launcher", launcher];
            let storm = bed.start(&[&args[..], &["--hold", "3s"], &QUICK, more].concat()).ready();
            eventually("containers", || (server.mounts().unwrap().len() >= before + 4).then_some(()));
            kill_process(pid, Signal::KILL).unwrap();
            let done = storm.finish().check(1);
            assert!(!done.stderr.contains('\x1b'), "{}", done.stderr);
            assert!(done.stderr.matches("WARN").count() <= 1, "{}", done.stderr);
            let told = done.stderr.matches("the next storm removes").count();
            assert!((1..=2).contains(&told), "{}", done.stderr);
            bed.expect_empty();
        }
    });
}
