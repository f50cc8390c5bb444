//! The machine a storm runs on, as far as it bears on the figures.
//!
//! What is not known is left out, never guessed: a topology the kernel does not export is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plywood_kernel::{SyscallError, table};
use plywood_node::Topology;
use plywood_node::topology::Virtualised;
use rustix::io::Errno;

use crate::record::Host;

/// Looks at the machine; call it before anything is done. `state_root` need not exist yet. The caller knows the versions
/// of what it launches with (`runc`, `containerd`) and to which CPUs the user has pinned it.
///
/// # Errors
/// A `/proc` that is missing or not Linux's; a mount table that may not be read.
pub fn describe(
    state_root: &Path,
    versions: BTreeMap<String, String>,
    pinned: Option<String>,
) -> Result<Host, SyscallError> {
    let topology = Topology::read();
    let mounts = table::list()?;
    let known = |count: usize| Some(count).filter(|count| *count > 0);
    Ok(Host {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpu_model: topology.processor.model.clone().unwrap_or_else(|| "unknown".to_owned()),
        cpus: topology.allowed.len(),
        sockets: known(topology.sockets.len()),
        numa_nodes: known(topology.nodes.len()),
        threads_per_core: topology.threads_per_core(),
        llc_domains: known(topology.caches.len()),
        virtualised: virtualised(&topology.virtualised),
        filesystem: filesystem(&mounts, state_root)?,
        mounts: mounts.len(),
        load: number("/proc/loadavg", load)?,
        memory_bytes: number("/proc/meminfo", memory_bytes)?,
        versions,
        pinned,
    })
}

fn virtualised(answer: &Virtualised) -> Option<String> {
    match answer {
        Virtualised::Yes { by: Some(by), how } => Some(format!("{by}: {how}")),
        Virtualised::Yes { by: None, how } => Some(how.clone()),
        Virtualised::No { .. } | Virtualised::Unknown => None,
    }
}

/// The type of the file system `path` is or would be on; its number where the mount table does not show it.
fn filesystem(mounts: &[table::MountEntry], path: &Path) -> Result<String, SyscallError> {
    let existing = existing(path);
    if let Some(mount) = table::covering(mounts, &existing) {
        return Ok(mount.fs_type.clone());
    }
    rustix::fs::statfs(&existing)
        .map(|stat| format!("{:#x}", stat.f_type))
        .map_err(|errno| SyscallError::new(format!("statfs({existing:?})"), errno))
}

/// Without symbolic links, as far as it exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|ancestor| std::fs::canonicalize(ancestor).ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// The first of three averages.
fn load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// `MemTotal:       8054236 kB`
fn memory_bytes(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn number<T>(path: &str, parse: fn(&str) -> Option<T>) -> Result<T, SyscallError> {
    parse(&read(path)?).ok_or_else(|| SyscallError::new(format!("read({path:?})"), Errno::BADMSG))
}

fn read(path: &str) -> Result<String, SyscallError> {
    std::fs::read_to_string(path).map_err(|error| {
        SyscallError::new(format!("read({path:?})"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(load("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(load(""), None);
        assert_eq!(memory_bytes("MemTotal:        8054236 kB\nMemFree: 1 kB\n"), Some(8_054_236 * 1024));
        assert_eq!(memory_bytes("MemTotal: 8054236\n"), None);
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_virtual_machine_says_how_it_is_known() {
        let yes = |by: Option<&str>| Virtualised::Yes { by: by.map(str::to_owned), how: "a flag".into() };
        assert_eq!(virtualised(&yes(Some("KVM"))).as_deref(), Some("KVM: a flag"));
        assert_eq!(virtualised(&yes(None)).as_deref(), Some("a flag"));
        assert_eq!(virtualised(&Virtualised::No { how: "no flag".into() }), None);
        assert_eq!(virtualised(&Virtualised::Unknown), None);
    }

    #[test]
    fn this_machine_is_described() {
        let versions = BTreeMap::from([("runc".to_owned(), "1.3.6".to_owned())]);
        let host = describe(Path::new("/proc/no/such/path"), versions.clone(), Some("0".into())).unwrap();
        assert_eq!(host.filesystem, "proc");
        assert_eq!(host.kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
        assert!(host.cpus > 0 && host.mounts > 0 && host.memory_bytes > 1 << 20 && host.load >= 0.0);
        assert_eq!((host.versions, host.pinned.as_deref()), (versions, Some("0")));
    }
}
