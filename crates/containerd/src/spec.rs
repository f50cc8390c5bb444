//! The OCI configuration of a container: that of containerd's own client, with an id mapping. Pure.

use plywood_kernel::{IdMap, IdMapping};
use serde_json::{Value, json};

/// What containerd's client gives a container if nobody says otherwise; the mounts are what a launch spends its time on,
/// so they are the same here.
pub(crate) fn spec(id: &str, args: &[String], mapping: Option<&IdMap>) -> Value {
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": from, "options": options });
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": {
            "cwd": "/",
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "noNewPrivileges": true,
            "user": { "uid": 0, "gid": 0 },
            "capabilities": { "bounding": capabilities, "permitted": capabilities, "effective": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
        },
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        "linux": {
            // Directly below the root: a group above it would stay when the container has gone.
            "cgroupsPath": format!("/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
            ],
        },
    });
    if let Some(mapping) = mapping {
        let lines = |mappings: &[IdMapping]| {
            let line =
                |m: &IdMapping| json!({ "containerID": m.inside, "hostID": m.outside, "size": m.length });
            mappings.iter().map(line).collect::<Vec<_>>()
        };
        let linux = &mut spec["linux"];
        linux["uidMappings"] = json!(lines(&mapping.uid));
        linux["gidMappings"] = json!(lines(&mapping.gid));
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": "user" }));
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use plywood_kernel::IdRange;

    use super::*;

    #[test]
    fn only_a_mapping_brings_a_user_namespace() {
        let plain = spec("c", &["true".into()], None);
        assert_eq!(plain["linux"]["cgroupsPath"], "/c");
        assert_eq!(plain["linux"]["namespaces"].as_array().unwrap().len(), 5);
        assert!(plain["linux"].get("uidMappings").is_none());

        let (uid, gid) = (IdRange { start: 1000, length: 10 }, IdRange { start: 2000, length: 20 });
        let mapped = spec("c", &["true".into()], Some(&IdMap::from_ranges(uid, gid)));
        assert_eq!(mapped["linux"]["namespaces"][5]["type"], "user");
        assert_eq!(mapped["linux"]["uidMappings"], json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]));
        assert_eq!(mapped["linux"]["gidMappings"], json!([{ "containerID": 0, "hostID": 2000, "size": 20 }]));
    }
}
