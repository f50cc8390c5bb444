//! Machines that exist, as their kernels describe them: `fixtures/*.txt` hold the files that are looked at, without
//! first-level caches and the older names of lists.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

mod it {
    mod placement;
    mod topology;

    use plywood_node::Topology;

    /// Each fixture by name.
    pub(crate) const MACHINES: [(&str, &str); 8] = [
        ("xeon-2-sockets-snc", include_str!("fixtures/xeon-2-sockets-snc.txt")),
        ("xeon-1-socket", include_str!("fixtures/xeon-1-socket.txt")),
        ("epyc-8-cache-domains", include_str!("fixtures/epyc-8-cache-domains.txt")),
        ("graviton3", include_str!("fixtures/graviton3.txt")),
        ("hybrid-laptop", include_str!("fixtures/hybrid-laptop.txt")),
        ("vm-a-socket-a-cpu", include_str!("fixtures/vm-a-socket-a-cpu.txt")),
        ("emulated-2-sockets", include_str!("fixtures/emulated-2-sockets.txt")),
        ("vm-hides-all", include_str!("fixtures/vm-hides-all.txt")),
    ];

    pub(crate) fn machine(name: &str) -> Topology {
        let (_, text) = MACHINES.iter().find(|(found, _)| *found == name).unwrap();
        Topology::parse(&text.parse().unwrap())
    }
}
