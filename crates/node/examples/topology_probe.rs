//! Describes the machine it runs on, and runs on each of its CPUs; one JSON object a line.
//!
//! The guest's half of `cargo xtask vm --topology`, which links it statically and boots machines of known shapes to it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;

use plywood_kernel::affinity;
use plywood_node::topology::{SysTree, Topology};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let tree = SysTree::read();
    let machine = Topology::parse(&tree);
    println!("{}", json!({"check": "tree", "text": tree.to_string()}));
    println!("{}", json!({"check": "topology", "machine": machine}));
    for cpu in machine.allowed.iter() {
        let ran_on = std::thread::spawn(move || {
            affinity::confine_current_thread(&[cpu])?;
            Ok::<u32, plywood_kernel::SyscallError>(affinity::current_cpu())
        });
        let ran_on = ran_on.join().map_err(|_| "the thread panicked")??;
        println!("{}", json!({"check": "cpu", "wanted": cpu, "ran_on": ran_on}));
    }
    println!("{}", json!({"check": "end"}));
    Ok(())
}
