//! How the machines and the questions of two runs differ, as far as it was recorded.

use crate::record::Run;
use crate::summary::show;

/// A load average that differs by this share of the CPUs is a difference.
const LOAD: f64 = 0.5;
/// Mount tables that differ by this factor are different tables.
const MOUNTS: f64 = 1.5;

/// One sentence each.
pub(super) fn of(before: &Run, after: &Run) -> Vec<String> {
    let (one, other) = (&before.host, &after.host);
    let mut found = Vec::new();
    let mut differ = |what: &str, before: String, after: String| {
        if before != after {
            found.push(format!("{what} differs: {before} before, {after} after"));
        }
    };
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "none known".to_owned());
    let number = |value: Option<usize>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    differ("the kernel", one.kernel.clone(), other.kernel.clone());
    differ("the CPU", one.cpu_model.clone(), other.cpu_model.clone());
    differ("the number of CPUs", one.cpus.to_string(), other.cpus.to_string());
    differ("the number of sockets", number(one.sockets), number(other.sockets));
    differ("the number of threads of a core", number(one.threads_per_core), number(other.threads_per_core));
    differ("virtualisation", known(&one.virtualised), known(&other.virtualised));
    differ("the file system", one.filesystem.clone(), other.filesystem.clone());
    differ("where launching threads run", known(&one.pinned), known(&other.pinned));
    differ("how long containers were held", show::ms(before.hold_ms), show::ms(after.hold_ms));
    differ("what containers ran", before.program.join(" "), after.program.join(" "));
    differ("plywood", before.plywood.clone(), after.plywood.clone());
    differ("the image", before.image.clone(), after.image.clone());
    differ("the time a launch may take", show::ms(before.timeout_ms), show::ms(after.timeout_ms));
    for name in
        one.versions.keys().chain(other.versions.keys().filter(|name| !one.versions.contains_key(*name)))
    {
        let version = |run: &Run| run.host.versions.get(name).cloned().unwrap_or_else(|| "none".to_owned());
        differ(name, version(before), version(after));
    }
    #[expect(clippy::cast_precision_loss, reason = "CPUs and mounts are few")]
    {
        let cpus = one.cpus.min(other.cpus).max(1) as f64;
        if (one.load - other.load).abs() > LOAD * cpus {
            differ("the load average", format!("{:.2}", one.load), format!("{:.2}", other.load));
        }
        let mounts = (one.mounts.max(1) as f64) / (other.mounts.max(1) as f64);
        if !(1.0 / MOUNTS..=MOUNTS).contains(&mounts) {
            differ("the host's mount table", one.mounts.to_string(), other.mounts.to_string());
        }
    }
    found
}
