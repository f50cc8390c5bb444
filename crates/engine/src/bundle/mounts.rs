//! The mounts of a container, and the paths hidden from it.
//!
//! Every line here is a mount per container, made by the runtime under the kernel's global mount locks.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::{BundleError, BundleRequest, CgroupMount, Net};

/// Hidden: they show the host's devices, keys, timers and memory, none of which a namespace divides. A runtime skips
/// those the machine does not have.
pub(super) const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Readable, not writable: switches of the whole machine.
pub(super) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn mounts(request: &BundleRequest<'_>) -> Result<Vec<Mount>, BundleError> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount("/dev/pts", "devpts", "devpts", &devpts_options(request))?,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        sys(&request.net)?,
    ];
    if request.cgroup_mount == CgroupMount::ReadOnly {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)?);
    }
    if let Net::Host { resolv_conf, hosts } = &request.net {
        for (file, destination) in [(resolv_conf, "/etc/resolv.conf"), (hosts, "/etc/hosts")] {
            let taken = request.volumes.iter().any(|volume| volume.destination == destination);
            if let Some(file) = file.as_ref().filter(|_| !taken) {
                mounts.push(bind(file, destination, &["ro", "nosuid", "nodev", "noexec"])?);
            }
        }
    }
    add_volumes(request, &mut mounts)?;
    Ok(mounts)
}

/// Terminals belong to group 5 (`tty`) in every distribution; a range too short to have it goes without.
fn devpts_options(request: &BundleRequest<'_>) -> Vec<&'static str> {
    let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if request.id_map.to_host_gid(5).is_some() {
        options.push("gid=5");
    }
    options
}

/// The kernel mounts sysfs only for the owner of the network namespace it shows, and the host's network is not
/// owned by the container's user namespace: there the host's `/sys` is bound, read-only with all below it.
fn sys(net: &Net) -> Result<Mount, OciSpecError> {
    match net {
        Net::None => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        Net::Host { .. } => {
            mount("/sys", "bind", "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"])
        }
    }
}

/// Volumes come last, shorter destinations first, so that one volume can lie inside another.
fn add_volumes(request: &BundleRequest<'_>, mounts: &mut Vec<Mount>) -> Result<(), BundleError> {
    let mut taken: BTreeSet<String> =
        mounts.iter().map(|mount| mount.destination().to_string_lossy().into_owned()).collect();
    let mut volumes: Vec<_> = request.volumes.iter().collect();
    volumes.sort_by_key(|volume| (volume.destination.matches('/').count(), &volume.destination));
    for volume in volumes {
        let below_proc = Path::new(&volume.destination).starts_with("/proc");
        if below_proc || volume.destination == "/" || !taken.insert(volume.destination.clone()) {
            return Err(BundleError::VolumeInTheWay(volume.destination.clone()));
        }
        let options: Vec<&str> = volume.options.iter().map(String::as_str).collect();
        mounts.push(bind(&volume.source, &volume.destination, &options)?);
    }
    Ok(())
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<&str> = ["bind", "rprivate"].iter().chain(options).copied().collect();
    mount(destination, "bind", source, &options)
}

fn mount(
    destination: &str,
    typ: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source.as_ref())
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
}
