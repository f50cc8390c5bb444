//! What a containerd is told: its configuration, its pods' network, and the script that is its first process. Pure.

use std::fmt::Write as _;
use std::path::Path;

use super::cgroup::Bind;
use super::tree::BUSYBOX;

/// What each pod is made from, in the image store's namespace of the CRI plugin.
pub(super) const PAUSE: &str = "plywood.test/pause:latest";

/// The configuration. Version 2 is what the old ones read and the new ones migrate.
pub(super) fn toml(dir: &Path, extra: &str) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri",
]
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Lowering it takes a capability that virtual machines of testers may lack.
restrict_oom_score_adj = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"
{extra}"#
    )
}

/// A pair of virtual interfaces a pod and an address from a range of documentation, in a network namespace of our own.
pub(super) fn cni(dir: &Path) -> String {
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "plywood",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": dir.join("ipam"),
                "ranges": [[{ "subnet": "198.18.0.0/15" }]],
            },
        }],
    });
    network.to_string()
}

/// Joins the control group `daemon`, arranges the namespaces it was started in, then becomes containerd.
///
/// `pivot_root`, since the kernel makes no user namespaces for whoever is in a chroot.
pub(super) fn script(tree: &Path, dir: &Path, daemon: &Path, cgroups: &[Bind]) -> String {
    let (tree, dir, daemon) = (quoted(tree), quoted(dir), quoted(daemon));
    let mut script = format!(
        "set -e\n\
         echo $$ >{daemon}/cgroup.procs\n\
         b={tree}/{BUSYBOX}\n\
         cd {tree}\n\
         $b mount -o bind . .\n\
         cd {tree}\n\
         $b mount -t proc proc proc\n\
         $b mount -t sysfs sys sys\n\
         $b mount -o rbind /dev dev\n\
         $b mount -t tmpfs -o mode=755 run run\n\
         $b mount -t tmpfs tmp tmp\n\
         $b mkdir -p run/old {tree}{dir}\n\
         $b mount -o bind {dir} {tree}{dir}\n"
    );
    if cgroups.iter().any(|bind| !bind.name.as_os_str().is_empty()) {
        script.push_str("$b mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup\n");
    }
    for Bind { source, name } in cgroups {
        let (source, target) = (quoted(source), quoted(&Path::new("sys/fs/cgroup").join(name)));
        let _ = writeln!(script, "$b mkdir -p {target}\n$b mount -o bind {source} {target}");
    }
    let _ = write!(
        script,
        "$b pivot_root . run/old\n\
         cd /\n\
         /{BUSYBOX} umount -l /run/old\n\
         /{BUSYBOX} ip link set lo up\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
         exec containerd --config {dir}/config.toml >{dir}/log 2>&1\n"
    );
    script
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_takes_any_path() {
        let binds = [Bind { source: "/sys/fs/cgroup/cpu/x".into(), name: "cpu".into() }];
        let script = script(Path::new("/a tree"), Path::new("/d'ir"), Path::new("/g"), &binds);
        assert!(
            script.contains("cd '/a tree'\n") && script.contains(r"--config '/d'\''ir'/config.toml"),
            "{script}"
        );
        assert!(
            script.contains("-t tmpfs -o mode=755 cgroup")
                && script.contains("bind '/sys/fs/cgroup/cpu/x' 'sys/fs/cgroup/cpu'")
        );
    }

    #[test]
    fn where_there_is_one_hierarchy_it_is_mounted_as_it_is() {
        let binds = [Bind { source: "/sys/fs/cgroup/x".into(), name: "".into() }];
        let script = script(Path::new("/t"), Path::new("/d"), Path::new("/g"), &binds);
        assert!(
            !script.contains("cgroup sys/fs/cgroup")
                && script.contains("bind '/sys/fs/cgroup/x' 'sys/fs/cgroup/'"),
            "{script}"
        );
    }

    #[test]
    fn the_network_is_json() {
        let network: serde_json::Value = serde_json::from_str(&cni(Path::new("/d"))).unwrap();
        assert_eq!(network["plugins"][0]["ipam"]["dataDir"], "/d/ipam");
    }
}
