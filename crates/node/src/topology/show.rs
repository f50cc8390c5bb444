//! A machine as people read it.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{Group, Topology, Virtualised};
use crate::CpuSet;

/// A level of which there are more than these is only counted.
const LISTED: usize = 16;

impl Display for Topology {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unknown = "unknown processor".to_owned();
        writeln!(
            f,
            "{}",
            self.processor.model.as_ref().or(self.processor.vendor.as_ref()).unwrap_or(&unknown)
        )?;
        row(f, "machine", &self.virtualised)?;
        row(f, "frequency", frequency(self))?;
        row(f, "shape", shape(self))?;
        row(f, "CPUs", cpus(self))?;
        row(f, "limits", limits(self))?;
        groups(f, "socket", &self.sockets)?;
        // A level that repeats the one above tells nothing.
        if !same(&self.dies, &self.sockets) {
            groups(f, "die", &self.dies)?;
        }
        if !same(&self.clusters, &self.cores) {
            groups(f, "cluster", &self.clusters)?;
        }
        for (index, cache) in self.caches.iter().enumerate().filter(|_| self.caches.len() <= LISTED) {
            let size = cache.size_bytes.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
            row(f, &format!("L{} cache {index}", cache.level), format!("{}{size}", cache.cpus))?;
        }
        for kind in &self.core_types {
            row(f, &format!("{} cores", kind.name), &kind.cpus)?;
        }
        for node in self.nodes.iter().filter(|_| self.nodes.len() <= LISTED) {
            let mut text = if node.cpus.is_empty() { "no CPUs".to_owned() } else { node.cpus.to_string() };
            if let Some(memory) = node.memory_bytes {
                write!(text, ", {}", bytes(memory))?;
            }
            if self.nodes.len() > 1 && !node.distances.is_empty() {
                let distances: Vec<String> = node.distances.iter().map(u32::to_string).collect();
                write!(text, ", distances {}", distances.join(" "))?;
            }
            row(f, &format!("node {}", node.id), text)?;
        }
        Ok(())
    }
}

impl Display for Virtualised {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { by: Some(by), how } => write!(f, "virtual, {by} ({how})"),
            Self::Yes { by: None, how } => write!(f, "virtual ({how})"),
            Self::No { how } => write!(f, "bare metal, or a hypervisor that hides ({how})"),
            Self::Unknown => f.write_str("virtual or not: unknown"),
        }
    }
}

fn row(f: &mut Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "  {name:<18}  {value}")
}

fn groups(f: &mut Formatter<'_>, name: &str, groups: &[Group]) -> fmt::Result {
    for (index, group) in groups.iter().enumerate().filter(|_| groups.len() <= LISTED) {
        // Ids of dies repeat from socket to socket.
        let number = if name == "socket" { group.id.unwrap_or(index as u32) } else { index as u32 };
        row(f, &format!("{name} {number}"), &group.cpus)?;
    }
    Ok(())
}

fn same(inner: &[Group], outer: &[Group]) -> bool {
    inner.len() == outer.len() && inner.iter().zip(outer).all(|(a, b)| a.cpus == b.cpus)
}

fn frequency(machine: &Topology) -> String {
    let processor = &machine.processor;
    let mut parts = Vec::new();
    parts.extend(processor.base_mhz.map(|mhz| format!("base {mhz} MHz")));
    parts.extend(processor.max_mhz.map(|mhz| format!("at most {mhz} MHz")));
    parts.extend(processor.boost.map(|on| format!("boost {}", if on { "on" } else { "off" })));
    if parts.is_empty() { "unknown".to_owned() } else { parts.join(", ") }
}

fn shape(machine: &Topology) -> String {
    let levels = [
        ("socket", machine.sockets.len()),
        ("NUMA node", machine.nodes.len()),
        ("die", machine.dies.len()),
        ("last-level cache", machine.caches.len()),
        ("core", machine.cores.len()),
        ("CPU", machine.online.len()),
    ];
    let known = levels.iter().filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> =
        known.map(|(name, count)| format!("{count} {name}{}", if *count == 1 { "" } else { "s" })).collect();
    match machine.threads_per_core() {
        Some(1) => parts.push("no SMT".to_owned()),
        Some(threads) => parts.push(format!("SMT {threads}")),
        None => {}
    }
    let unknown: Vec<&str> = levels.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect();
    if !unknown.is_empty() {
        parts.push(format!("unknown: {}", unknown.join(", ")));
    }
    parts.join(", ")
}

fn cpus(machine: &Topology) -> String {
    let mut text = format!("{} online", machine.online);
    if !machine.offline.is_empty() {
        text += &format!(", {} offline", machine.offline);
    }
    let denied = machine.online.without(&machine.allowed);
    if !denied.is_empty() {
        let allowed =
            if machine.allowed == CpuSet::EMPTY { "none".to_owned() } else { machine.allowed.to_string() };
        text += &format!(", {allowed} allowed");
    }
    text
}

fn limits(machine: &Topology) -> String {
    let limits = &machine.limits;
    let mut parts = Vec::new();
    parts.extend(limits.quota_cpus.map(|cpus| format!("{cpus} CPUs by quota")));
    parts.extend(limits.memory_bytes.map(|size| format!("{} of memory", bytes(size))));
    if parts.is_empty() { "none by quota".to_owned() } else { parts.join(", ") }
}

/// Caches and memory come in powers of 1024.
fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (size as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.trim_end_matches(".0"), UNITS[unit])
}
