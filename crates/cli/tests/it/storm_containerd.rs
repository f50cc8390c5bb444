//! `plywood storm` of a real containerd and of its CRI.

use plywood_xtask::containerd::{Server, Settings, Suite, Tree};
use serde_json::Value;

use super::bed::in_bed;

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
