//! Where threads are put on real machines.

use plywood_node::placement;

use super::{MACHINES, machine};

#[test]
fn placements_of_every_machine() {
    for (name, _) in MACHINES {
        let lines = placement::all(&machine(name)).into_iter().map(|one| {
            let aliases = if one.aliases.is_empty() {
                String::new()
            } else {
                format!(" = {}", one.aliases.join(" = "))
            };
            let first: Vec<String> = one.cpus.iter().take(12).map(u32::to_string).collect();
            let more = if one.cpus.len() > 12 { " ..." } else { "" };
            format!(
                "{}{aliases}: {}, {} CPUs: {}{more}\n",
                one.name,
                one.what,
                one.cpus.len(),
                first.join(" ")
            )
        });
        insta::assert_snapshot!(name, lines.collect::<String>());
    }
}

/// What the comparison of one socket with two is about: at the same number of threads, both halves of a pair.
#[test]
fn one_socket_against_two() {
    let xeon = machine("xeon-2-sockets-snc");
    let [one, two] = ["one-per-core-socket", "two-sockets"].map(|name| placement::find(&xeon, name).unwrap());
    let on_first = |cpus: &[u32]| cpus.iter().filter(|cpu| xeon.sockets[0].cpus.contains(**cpu)).count();
    assert_eq!(on_first(&one.cpus[..20]), 20);
    assert_eq!(on_first(&two.cpus[..20]), 10);
}
