//! Limits of a container's cgroup.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder,
};

use super::BundleError;

/// The period over which a CPU quota counts, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

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

/// Reads a size in bytes: a number with an optional `k`, `m`, `g` or `t` (powers of 1,024), any case, `b` or `ib`
/// after it allowed.
pub fn parse_bytes(text: &str) -> Result<u64, BundleError> {
    let bad = |why| BundleError::BadLimit { what: "a size", value: text.to_owned(), why };
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

/// Reads a number of CPUs such as `0.5`.
pub fn parse_cpus(text: &str) -> Result<f64, BundleError> {
    let bad = |why| BundleError::BadLimit { what: "a CPU limit", value: text.to_owned(), why };
    let cpus: f64 = text.parse().map_err(|_| bad("write a number such as 0.5"))?;
    quota(cpus).map(|_| cpus)
}

pub(super) fn resources(limits: &Resources) -> Result<LinuxResources, BundleError> {
    // Everything is denied; runtimes then allow null, zero, full, random, urandom, tty, ptmx and terminals.
    let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    let mut resources = LinuxResourcesBuilder::default().devices([deny]);
    if let Some(bytes) = limits.memory_bytes {
        resources = resources.memory(LinuxMemoryBuilder::default().limit(memory(bytes)?).build()?);
    }
    if let Some(limit) = limits.pids {
        let bad = |why| BundleError::BadLimit { what: "a limit of processes", value: limit.to_string(), why };
        let limit = i64::try_from(limit).map_err(|_| bad("it is too large"))?;
        if limit == 0 {
            return Err(bad("the container itself needs one"));
        }
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    if let Some(cpu) = cpu(limits)? {
        resources = resources.cpu(cpu);
    }
    Ok(resources.build()?)
}

fn memory(bytes: u64) -> Result<i64, BundleError> {
    let bad = |why| BundleError::BadLimit { what: "a memory limit", value: bytes.to_string(), why };
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
        cpu = cpu.cpus(id_list("a list of CPUs", list)?);
    }
    if let Some(list) = &limits.cpuset_mems {
        cpu = cpu.mems(id_list("a list of NUMA nodes", list)?);
    }
    cpu.build().map(Some).map_err(|error: OciSpecError| error.into())
}

/// Microseconds of CPU time in each period. The kernel takes no less than 1,000.
#[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
#[allow(clippy::cast_precision_loss, reason = "the period is far below 2^52")]
fn quota(cpus: f64) -> Result<i64, BundleError> {
    let bad = |why| BundleError::BadLimit { what: "a CPU limit", value: cpus.to_string(), why };
    if !(0.01..=100_000.0).contains(&cpus) {
        return Err(bad("it goes from 0.01 to 100000"));
    }
    Ok((cpus * CPU_PERIOD_US as f64).round() as i64)
}

/// Checks the form `0-3,8` that the kernel's cpuset files take.
fn id_list(what: &'static str, list: &str) -> Result<String, BundleError> {
    let number = |text: &str| text.parse::<u16>().ok();
    let good = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
    };
    if list.split(',').all(good) {
        Ok(list.to_owned())
    } else {
        let why = "write numbers and ranges such as 0-3,8";
        Err(BundleError::BadLimit { what, value: list.to_owned(), why })
    }
}
