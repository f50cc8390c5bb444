//! Limits of a container's cgroup.

use std::ops::RangeInclusive;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder,
};

use super::{BundleError, Limit};
use crate::cgroup::Cpusets;

/// The period over which a CPU quota counts, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Of fewer, runc's threads that set the container up are refused some: with 4, two launches of three failed by a dump of
/// their stacks; with 5, none of 120.
const FEWEST_PIDS: i64 = 6;

/// Limits; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Memory, in bytes; swap is not counted.
    pub memory_bytes: Option<u64>,
    /// CPUs' worth of time, such as 1.5.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// CPUs it may run on, as a list: `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// NUMA nodes it may take memory from, as a list.
    pub cpuset_mems: Option<String>,
}

impl Resources {
    /// Whether each limit is one that the kernel and runtimes take.
    ///
    /// # Errors
    /// [`BundleError::BadLimit`], with what would be possible.
    pub fn check(&self) -> Result<(), BundleError> {
        resources(self).map(drop)
    }

    /// Whether the CPUs and NUMA nodes asked for are among those containers can have here. What the host does not tell
    /// is left to the runtime.
    ///
    /// # Errors
    /// [`BundleError::BadLimit`], with what there is.
    pub fn within(&self, sets: &Cpusets) -> Result<(), BundleError> {
        let wanted = [
            (Limit::CpusetCpus, &self.cpuset_cpus, &sets.cpus),
            (Limit::CpusetMems, &self.cpuset_mems, &sets.mems),
        ];
        for (limit, list, there) in wanted {
            let (Some(list), Some(there)) = (list, there) else { continue };
            let (Some(asked), Some(has)) = (id_ranges(list), id_ranges(there)) else { continue };
            let inside = |id| has.iter().any(|range: &RangeInclusive<u16>| range.contains(&id));
            if !asked.into_iter().flatten().all(inside) {
                return Err(limit.refuse(list, format!("this host has {there} for containers")));
            }
        }
        Ok(())
    }
}

/// Reads a size in bytes: a number with an optional `k`, `m`, `g` or `t` (powers of 1,024), any case, `b` or `ib`
/// after it allowed.
pub fn parse_bytes(text: &str) -> Result<u64, BundleError> {
    let bad = |why: &str| Limit::Size.refuse(text, why);
    let form = "write a number with k, m or g after it";
    let lower = text.to_ascii_lowercase();
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = lower.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad(form))?;
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad(form)),
    };
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| bad("it is too large"))
}

pub(super) fn resources(limits: &Resources) -> Result<LinuxResources, BundleError> {
    // Everything is denied; runtimes then allow null, zero, full, random, urandom, tty, ptmx and terminals.
    let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    let mut resources = LinuxResourcesBuilder::default().devices([deny]);
    if let Some(bytes) = limits.memory_bytes {
        resources = resources.memory(LinuxMemoryBuilder::default().limit(memory(bytes)?).build()?);
    }
    if let Some(limit) = limits.pids {
        let bad = |why: &str| Limit::Pids.refuse(limit, why);
        let limit = i64::try_from(limit).map_err(|_| bad("it is too large"))?;
        if limit < FEWEST_PIDS {
            return Err(bad(
                "6 is the least: the runtime starts the container under it, with several threads",
            ));
        }
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    if let Some(cpu) = cpu(limits)? {
        resources = resources.cpu(cpu);
    }
    Ok(resources.build()?)
}

fn memory(bytes: u64) -> Result<i64, BundleError> {
    let bad = |why: &str| Limit::Memory.refuse(bytes, why);
    // Below this the runtime itself is killed while it sets the container up.
    if bytes < 6 << 20 {
        return Err(bad("6 MiB is the least"));
    }
    i64::try_from(bytes).map_err(|_| bad("it is too large"))
}

fn cpu(limits: &Resources) -> Result<Option<LinuxCpu>, BundleError> {
    if limits.cpus.is_none() && limits.cpuset_cpus.is_none() && limits.cpuset_mems.is_none() {
        return Ok(None);
    }
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(cpus) = limits.cpus {
        cpu = cpu.quota(quota(cpus)?).period(CPU_PERIOD_US);
    }
    if let Some(list) = &limits.cpuset_cpus {
        cpu = cpu.cpus(id_list(Limit::CpusetCpus, list)?);
    }
    if let Some(list) = &limits.cpuset_mems {
        cpu = cpu.mems(id_list(Limit::CpusetMems, list)?);
    }
    cpu.build().map(Some).map_err(|error: OciSpecError| error.into())
}

/// Microseconds of CPU time in each period. The kernel takes no less than 1,000.
#[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
#[allow(clippy::cast_precision_loss, reason = "the period is far below 2^52")]
fn quota(cpus: f64) -> Result<i64, BundleError> {
    if !(0.01..=100_000.0).contains(&cpus) {
        return Err(Limit::Cpus.refuse(cpus, "it goes from 0.01 to 100000"));
    }
    Ok((cpus * CPU_PERIOD_US as f64).round() as i64)
}

/// Checks the form `0-3,8` that the kernel's cpuset files take.
pub fn check_id_list(limit: Limit, list: &str) -> Result<(), BundleError> {
    match id_ranges(list) {
        Some(_) => Ok(()),
        None => Err(limit.refuse(list, "write numbers and ranges such as 0-3,8")),
    }
}

fn id_list(limit: Limit, list: &str) -> Result<String, BundleError> {
    check_id_list(limit, list).map(|()| list.to_owned())
}

fn id_ranges(list: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..=last)
    };
    list.split(',').map(range).collect()
}
