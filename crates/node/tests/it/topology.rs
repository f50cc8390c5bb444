//! The text people read, and the few facts about each machine that everything else depends on.

use plywood_node::topology::Virtualised;

use super::{MACHINES, machine};

#[test]
fn every_machine_as_people_read_it() {
    for (name, _) in MACHINES {
        insta::assert_snapshot!(name, machine(name).to_string());
    }
}

#[test]
fn shapes_of_real_machines() {
    let shape = |name: &str| {
        let found = machine(name);
        let sizes = [
            found.sockets.len(),
            found.nodes.len(),
            found.caches.len(),
            found.cores.len(),
            found.online.len(),
        ];
        (sizes, found.threads_per_core())
    };
    assert_eq!(shape("xeon-2-sockets-snc"), ([2, 4, 2, 40, 80], Some(2)));
    assert_eq!(shape("xeon-1-socket"), ([1, 1, 1, 48, 96], Some(2)));
    assert_eq!(shape("epyc-8-cache-domains"), ([1, 1, 8, 64, 128], Some(2)));
    assert_eq!(shape("graviton3"), ([1, 1, 1, 64, 64], Some(1)));
    assert_eq!(shape("hybrid-laptop"), ([1, 1, 1, 12, 16], Some(2)));
    assert_eq!(shape("vm-a-socket-a-cpu"), ([4, 1, 4, 4, 4], Some(1)));
    assert_eq!(shape("emulated-2-sockets"), ([2, 2, 2, 8, 16], Some(2)));
    assert_eq!(shape("vm-hides-all"), ([0, 0, 0, 0, 8], None));
}

#[test]
fn who_is_virtual_and_how_that_is_known() {
    let virtualised = |name: &str| machine(name).virtualised;
    for name in ["xeon-2-sockets-snc", "xeon-1-socket", "epyc-8-cache-domains", "graviton3", "hybrid-laptop"]
    {
        assert!(matches!(virtualised(name), Virtualised::No { .. }), "{name}");
    }
    assert!(
        matches!(virtualised("vm-a-socket-a-cpu"), Virtualised::Yes { by: Some(by), .. } if by == "QEMU")
    );
    assert!(matches!(virtualised("vm-hides-all"), Virtualised::Yes { by: None, .. }));
}

#[test]
fn a_pods_quota_is_found() {
    let pod = machine("xeon-1-socket").limits;
    assert_eq!((pod.quota_cpus, pod.memory_bytes), (Some(48.0), Some(64 << 30)));
}
