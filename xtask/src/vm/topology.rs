//! Emulated machines of several sockets, dies and nodes, and what plywood reads of them.
//!
//! The machine at hand has one shape. QEMU gives a guest any other, with the kernel's real files to show it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::boot::{Machine, Said};
use super::guest;
use super::kernel::Kernel;
use crate::proc::{say, step};

/// A machine and what is true of it.
struct Shape {
    name: &'static str,
    hardware: &'static [&'static str],
    /// Sockets, dies, last-level caches, cores, nodes, CPUs: how many of each.
    counts: [usize; 6],
    /// The CPUs of the first of each: socket, die, last-level cache, core, node.
    first: [&'static str; 5],
    distances: &'static [[u64; 2]],
}

/// As `boot::CPU`, with the vendor and the leaves by which kernels find dies and siblings: emulated, AMD's are missing.
const INTEL: &str = "max,-cx16,vendor=GenuineIntel,level=0x1f";

const SHAPES: [Shape; 2] = [
    Shape {
        name: "2-sockets",
        hardware: &[
            "-cpu",
            INTEL,
            "-smp",
            "16,sockets=2,cores=4,threads=2",
            "-m",
            "768",
            "-object",
            "memory-backend-ram,id=m0,size=512M",
            "-object",
            "memory-backend-ram,id=m1,size=256M",
            "-numa",
            "node,nodeid=0,cpus=0-7,memdev=m0",
            "-numa",
            "node,nodeid=1,cpus=8-15,memdev=m1",
            "-numa",
            "dist,src=0,dst=1,val=21",
        ],
        counts: [2, 2, 2, 8, 2, 16],
        first: ["0-7", "0-7", "0-7", "0-1", "0-7"],
        distances: &[[10, 21], [21, 10]],
    },
    Shape {
        name: "2-dies-a-socket",
        hardware: &["-cpu", INTEL, "-smp", "16,sockets=2,dies=2,cores=2,threads=2", "-m", "512"],
        counts: [2, 4, 4, 8, 1, 16],
        first: ["0-7", "0-3", "0-3", "0-1", "0-15"],
        distances: &[[10, 10]],
    },
];

/// `cargo xtask vm --topology`.
pub(super) fn run(dir: &Path, kernels: &[Kernel]) -> Result<()> {
    let initramfs =
        step("Build the guest program, statically linked, and its initramfs", || guest::topology(dir))?;
    let mut complaints = Vec::new();
    for kernel in kernels {
        for shape in &SHAPES {
            let name = format!("{}-{}", kernel.version, shape.name);
            step(&format!("Boot {} on a machine of {}", kernel.release, shape.name), || {
                let machine = Machine {
                    name: &name,
                    kernel,
                    hardware: shape.hardware,
                    initramfs: &initramfs,
                    disk: None,
                    logs: &dir.join("logs"),
                };
                let found = machine.run(parse)?;
                let wrong = shape.complaints(&found);
                say(format!("{} checks failed, in {:.1} s", wrong.len(), found.seconds));
                complaints.extend(wrong.into_iter().map(|complaint| format!("{name}: {complaint}")));
                Ok(())
            })?;
        }
    }
    if !complaints.is_empty() {
        bail!("{}\nlogs are in {}", complaints.join("\n"), dir.join("logs").display());
    }
    Ok(())
}

/// What the guest found: the topology, and which CPU each thread ran on by the one it wanted.
struct Found {
    machine: Value,
    cpus: Vec<(u64, u64)>,
    seconds: f64,
}

/// None if the guest did not get to its end.
fn parse(said: &Said) -> Result<Option<Found>> {
    let values: Vec<Value> = said.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |check: &'static str| values.iter().filter(move |value| value["check"] == check);
    let Some(exit) = of("exit").next() else { return Ok(None) };
    if exit["status"] != 0 {
        bail!("the guest program ended with {}: {}", exit["status"], said.lines.join("\n"));
    }
    let found = of("topology").next().context("the guest describes no machine")?;
    let number = |value: &Value| value.as_u64().context("the guest names no CPU");
    let cpus = of("cpu").map(|cpu| Ok((number(&cpu["wanted"])?, number(&cpu["ran_on"])?)));
    Ok(Some(Found {
        machine: found["machine"].clone(),
        cpus: cpus.collect::<Result<_>>()?,
        seconds: said.seconds,
    }))
}

impl Shape {
    fn complaints(&self, found: &Found) -> Vec<String> {
        let (found, cpus) = (&found.machine, &found.cpus);
        let mut complaints = Vec::new();
        let mut expect = |what: &str, found: Value, expected: Value| {
            if found != expected {
                complaints.push(format!("{what} is {found}, not {expected}"));
            }
        };
        let levels = ["sockets", "dies", "caches", "cores", "nodes"];
        for (level, count) in levels.iter().zip(self.counts) {
            expect(&format!("number of {level}"), json!(found[level].as_array().map(Vec::len)), json!(count));
        }
        for (level, first) in levels.iter().zip(self.first) {
            expect(&format!("first of {level}"), found[level][0]["cpus"].clone(), json!(first));
        }
        for (node, row) in self.distances.iter().enumerate() {
            let row = &row[..self.distances.len()];
            expect(
                &format!("distances of node {node}"),
                found["nodes"][node]["distances"].clone(),
                json!(row),
            );
        }
        let last = self.counts[5] - 1;
        expect("online", found["online"].clone(), json!(format!("0-{last}")));
        expect("allowed", found["allowed"].clone(), json!(format!("0-{last}")));
        expect("virtualised", found["virtualised"]["answer"].clone(), json!("yes"));
        let pinned: Vec<(u64, u64)> = (0..=last as u64).map(|cpu| (cpu, cpu)).collect();
        expect("where pinned threads ran", json!(cpus), json!(pinned));
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        let lines = lines.iter().map(ToString::to_string).collect();
        Said { lines, console: String::new(), seconds: 0.0 }
    }

    #[test]
    fn a_guest_that_broke_off_is_booted_again_and_one_that_failed_is_not() {
        assert!(
            parse(&said(&[r#"{"check":"topology","machine":{}}"#, r#"{"check":"cp"#])).unwrap().is_none()
        );
        assert!(parse(&said(&[r#"{"check":"exit","status":101}"#])).is_err());
    }

    #[test]
    fn what_differs_is_named() {
        let machine = json!({
            "sockets": [{"cpus": "0-7"}, {"cpus": "8-15"}], "online": "0-15", "allowed": "0-14",
            "nodes": [{"cpus": "0-7", "distances": [10, 21]}, {"cpus": "8-15", "distances": [20, 10]}],
        });
        let cpus = (0..16).map(|cpu| (cpu, if cpu == 3 { 2 } else { cpu })).collect();
        let complaints = SHAPES[0].complaints(&Found { machine, cpus, seconds: 0.0 });
        for part in ["number of cores is null, not 8", "distances of node 1 is [20,10]", "allowed", "pinned"]
        {
            assert!(complaints.iter().any(|complaint| complaint.contains(part)), "{part}: {complaints:?}");
        }
        assert!(!complaints.iter().any(|complaint| complaint.contains("sockets")), "{complaints:?}");
    }
}
