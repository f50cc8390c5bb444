//! What the kernel exports about a machine: paths and the contents of those files that are looked at.
//!
//! As text, for fixtures and reports, a line a file; CPUs whose files say the same share a line:
//!
//! ```text
//! /sys/devices/system/cpu/cpu{0-19,40-59}/topology/physical_package_id=0
//! /proc/thread-self/cgroup=4:cpu:/\n0::/
//! # a comment
//! ```
//!
//! Newlines and backslashes inside a value are written `\n` and `\\`. Blanks at a value's end are not kept.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use super::limits;
use crate::CpuSet;

/// All files but the mount table are smaller, or what is wanted of them is at their start.
const ENOUGH: u64 = 64 * 1024;

/// Files by pattern; `*` stands for a number.
const FILES: [&str; 34] = [
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/cpufreq/boost",
    "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "/sys/devices/system/cpu/cpu*/topology/physical_package_id",
    "/sys/devices/system/cpu/cpu*/topology/package_cpus_list",
    "/sys/devices/system/cpu/cpu*/topology/core_siblings_list",
    "/sys/devices/system/cpu/cpu*/topology/die_id",
    "/sys/devices/system/cpu/cpu*/topology/die_cpus_list",
    "/sys/devices/system/cpu/cpu*/topology/cluster_id",
    "/sys/devices/system/cpu/cpu*/topology/cluster_cpus_list",
    "/sys/devices/system/cpu/cpu*/topology/core_id",
    "/sys/devices/system/cpu/cpu*/topology/core_cpus_list",
    "/sys/devices/system/cpu/cpu*/topology/thread_siblings_list",
    "/sys/devices/system/cpu/cpu*/cache/index*/level",
    "/sys/devices/system/cpu/cpu*/cache/index*/type",
    "/sys/devices/system/cpu/cpu*/cache/index*/size",
    "/sys/devices/system/cpu/cpu*/cache/index*/shared_cpu_list",
    "/sys/devices/system/cpu/cpu*/cpufreq/base_frequency",
    "/sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq",
    "/sys/devices/system/cpu/cpu*/acpi_cppc/nominal_freq",
    "/sys/devices/system/cpu/cpu*/cpu_capacity",
    "/sys/devices/system/node/online",
    "/sys/devices/system/node/node*/cpulist",
    "/sys/devices/system/node/node*/distance",
    "/sys/devices/system/node/node*/meminfo",
    "/sys/devices/cpu_core/cpus",
    "/sys/devices/cpu_atom/cpus",
    "/sys/devices/cpu_lowpower/cpus",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/sys/hypervisor/type",
    "/proc/thread-self/cgroup",
    "/proc/thread-self/status",
];

const CPUINFO: &str = "/proc/cpuinfo";
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// Lines of `/proc/cpuinfo` that are kept, of its first processor.
const CPUINFO_KEYS: [&str; 5] = ["vendor_id", "model name", "flags", "CPU implementer", "CPU part"];

/// Paths and contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysTree(BTreeMap<String, String>);

/// A line of a tree's text that is not `path=value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not /path=value: {reason}")]
pub struct TreeError {
    line: usize,
    reason: &'static str,
}

impl SysTree {
    /// What this machine's kernel tells the calling thread. Files that are not there or cannot be read are left out.
    pub fn read() -> Self {
        let mut tree = Self::default();
        for pattern in FILES {
            expand(pattern, &mut |path| tree.take(path, ENOUGH, |text| text));
        }
        tree.take(CPUINFO, ENOUGH, |text| first_processor(&text));
        tree.take(MOUNTINFO, u64::MAX, |text| keep_lines(&text, |line| line.contains(" - cgroup")));
        tree.edit("/proc/thread-self/status", |text| {
            keep_lines(text, |line| line.starts_with("Cpus_allowed_list:"))
        });
        for path in limits::files(&tree) {
            tree.take(&path, ENOUGH, |text| text);
        }
        let meminfo = tree.0.iter_mut().filter(|(path, _)| path.ends_with("/meminfo"));
        meminfo.for_each(|(_, text)| *text = keep_lines(text, |line| line.contains(" MemTotal:")));
        tree
    }

    /// The contents of a file, without blanks at its end.
    pub(super) fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// A file's contents as something else.
    pub(super) fn parse<T: FromStr>(&self, path: &str) -> Option<T> {
        self.get(path)?.trim().parse().ok()
    }

    /// The numbers `n` for which there is something below `prefix` + n + `/`, ascending.
    pub(super) fn numbers(&self, prefix: &str) -> Vec<u32> {
        let below = self.0.range(prefix.to_owned()..).map_while(|(path, _)| path.strip_prefix(prefix));
        let mut numbers: Vec<u32> = below.filter_map(|rest| rest.split_once('/')?.0.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn take(&mut self, path: &str, limit: u64, change: impl FnOnce(String) -> String) {
        let mut bytes = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        // A CPU or a group that went away meanwhile, a file the driver refuses to answer: not told is unknown.
        if read.is_ok() {
            self.insert(path.to_owned(), &change(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }

    fn edit(&mut self, path: &str, change: impl FnOnce(&str) -> String) {
        if let Some(text) = self.0.get_mut(path) {
            *text = change(text);
        }
    }

    fn insert(&mut self, path: String, value: &str) {
        self.0.insert(path, value.trim_end().to_owned());
    }
}

/// Calls `found` with every path the pattern stands for.
fn expand(pattern: &str, found: &mut impl FnMut(&str)) {
    let Some((before, after)) = pattern.split_once('*') else { return found(pattern) };
    let (dir, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = fs::read_dir(Path::new(dir)) else { return };
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        expand(&format!("{before}{number}{after}"), found);
    }
}

fn first_processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    keep_lines(first, |line| line.split(':').next().is_some_and(|key| CPUINFO_KEYS.contains(&key.trim())))
}

fn keep_lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).collect::<Vec<_>>().join("\n")
}

impl FromStr for SysTree {
    type Err = TreeError;

    fn from_str(text: &str) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |reason| TreeError { line: index + 1, reason };
            let (path, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
            if !path.starts_with('/') {
                return Err(wrong("the path is not absolute"));
            }
            let value = unescape(value);
            match path.split_once('{') {
                None => tree.insert(path.to_owned(), &value),
                Some((before, rest)) => {
                    let (list, after) = rest.split_once('}').ok_or_else(|| wrong("a { without a }"))?;
                    let cpus: CpuSet = list.parse().map_err(|_| wrong("no list of CPUs in {}"))?;
                    cpus.iter().for_each(|cpu| tree.insert(format!("{before}{cpu}{after}"), &value));
                }
            }
        }
        Ok(tree)
    }
}

fn unescape(value: &str) -> String {
    let mut text = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

impl fmt::Display for SysTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CPU: &str = "/sys/devices/system/cpu/cpu";
        let mut shared: BTreeMap<(&str, &str), CpuSet> = BTreeMap::new();
        for (path, value) in &self.0 {
            let escaped = || value.replace('\\', "\\\\").replace('\n', "\\n");
            let of_cpu = path.strip_prefix(CPU).and_then(|rest| {
                let slash = rest.find('/')?;
                let cpu: u32 = rest[..slash].parse().ok()?;
                // Only a number that would be written the same way again.
                (cpu.to_string() == rest[..slash]).then_some((cpu, &rest[slash..]))
            });
            match of_cpu {
                Some((cpu, file)) => shared.entry((file, value)).or_default().insert(cpu),
                None => writeln!(f, "{path}={}", escaped())?,
            }
        }
        for ((file, value), cpus) in shared {
            let value = value.replace('\\', "\\\\").replace('\n', "\\n");
            writeln!(f, "{CPU}{{{cpus}}}{file}={value}")?;
        }
        Ok(())
    }
}
