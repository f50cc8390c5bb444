//! What a container sees and may do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use plywood_engine::bundle::{CapabilityChange, Net, Overrides, Resources};
use plywood_engine::runtime::RunMode;

use super::support::{Host, command, shell, system_call};

const MODE: RunMode = RunMode::Attached;

#[test]
fn root_a_container_has_its_range_its_name_and_its_environment() {
    let host = Host::new();
    let mut wish = shell(
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; hostname; echo $GREETING $HOME $HOSTNAME; pwd; \
         stat -c '%u %g' /etc/owned; stat -c '%u %g' /",
    );
    wish.overrides = Overrides {
        env: vec!["GREETING=hello world".to_owned()],
        workdir: Some("/data/made".to_owned()),
        hostname: Some("name-1".to_owned()),
        ..Overrides::default()
    };
    let (code, output) = host.run(MODE, wish);
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, 0, "{output}");
    let expected: [&[&str]; 8] = [
        &["0", "1500000000", "65536"],
        &["0", "1500000000", "65536"],
        &["0"],
        &["name-1"],
        &["hello", "world", "/", "name-1"],
        &["/data/made"],
        &["7", "8"],
        &["0", "0"],
    ];
    assert_eq!(lines, expected);
    // What it made as its root is root's on disk: the mount maps the ids, the files do not change.
    assert_eq!(fs::metadata(host.rootfs().join("data/made")).unwrap().uid(), 0);
}

#[test]
fn root_another_user_has_no_capabilities() {
    let host = Host::new();
    let mut wish = shell("id -u; id -g; grep CapEff /proc/self/status 2>/dev/null || cat /proc/self/status");
    wish.uid = 1234;
    let (code, output) = host.run(MODE, wish);
    assert_eq!(code, 0, "{output}");
    assert!(output.starts_with("1234\n1234\n"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
}

#[test]
fn root_a_read_only_root_cannot_be_written() {
    let host = Host::new();
    let script =
        "touch /x 2>/dev/null && echo root; touch /dev/shm/x && echo shm; ls / >/dev/null && echo listed";
    let mut wish = shell(script);
    wish.read_only = true;
    assert_eq!(host.run(MODE, wish).1, "shm\nlisted\n");
    assert_eq!(host.run(MODE, shell(script)).1, "root\nshm\nlisted\n");
}

#[test]
fn root_without_a_network_there_is_only_loopback() {
    let host = Host::new();
    let (code, output) = host.run(MODE, shell("ls /sys/class/net"));
    assert_eq!((code, output.as_str()), (0, "lo\n"));
}

#[test]
fn root_with_the_hosts_network_its_name_service_is_the_hosts() {
    let host = Host::new();
    let resolv_conf = host.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 192.0.2.1\n").unwrap();
    let mut wish =
        shell("cat /etc/resolv.conf; ls /sys/class/net; touch /sys/x 2>/dev/null || echo readonly");
    wish.net = Net::Host { resolv_conf: Some(resolv_conf), hosts: None };
    let (code, output) = host.run(MODE, wish);
    assert_eq!(code, 0, "{output}");
    assert!(output.starts_with("nameserver 192.0.2.1\n") && output.ends_with("readonly\n"), "{output}");
    for device in fs::read_dir("/sys/class/net").unwrap() {
        let name = device.unwrap().file_name().into_string().unwrap();
        assert!(output.lines().any(|line| line == name), "{name} in {output}");
    }
}

#[test]
fn root_the_hosts_switches_are_hidden_or_read_only() {
    let host = Host::new();
    let script = "cat /proc/timer_list /proc/keys /proc/interrupts; ls /sys/firmware; \
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo written; \
        (echo b > /proc/sysrq-trigger) 2>/dev/null && echo written; true";
    assert_eq!(host.run(MODE, shell(script)), (0, String::new()));

    let (_, mounts) = host.run(MODE, shell("cat /proc/self/mountinfo"));
    // The last mount on a path is the one seen: its options, and what it is of.
    let seen = |path: &str| {
        mounts.lines().rev().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let kind = fields.iter().position(|&field| field == "-")? + 1;
            (fields[4] == path).then(|| (fields[3], fields[5], fields[kind]))
        })
    };
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        if Path::new(path).exists() {
            let (_, options, _) = seen(path).unwrap_or_else(|| panic!("{path}: {mounts}"));
            assert!(options.split(',').any(|option| option == "ro"), "{path}: {mounts}");
        }
    }
    // A file is covered by /dev/null, a directory by an empty tmpfs.
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware"] {
        if Path::new(path).exists() {
            let (root, _, kind) = seen(path).unwrap_or_else(|| panic!("{path}: {mounts}"));
            assert!(root == "/null" || kind == "tmpfs", "{path}: {mounts}");
        }
    }
}

#[test]
fn root_system_calls_outside_the_profile_are_refused() {
    let host = Host::new();
    let script = "mount -t tmpfs none /tmp || echo no mount; unshare -U true || echo no user namespace; \
        unshare -m true || echo no mount namespace; chroot / true && echo chroot";
    let (_, output) = host.run(MODE, shell(script));
    assert_eq!(output, "no mount\nno user namespace\nno mount namespace\nchroot\n");

    let (_, output) = host.run(MODE, shell("cat /proc/self/status"));
    assert!(output.contains("Seccomp:\t2"), "{output}");

    let mut wish = shell("mount -t tmpfs none /tmp && echo mounted");
    wish.capabilities = CapabilityChange { add: vec!["SYS_ADMIN".to_owned()], drop: Vec::new() };
    assert_eq!(host.run(MODE, wish).1, "mounted\n");
}

/// A filter that compares whole registers took `AF_VSOCK` with a bit above the lower 32 for another family: the kernel,
/// which reads an `int`, did not, and gave the container a socket to the hypervisor.
#[test]
fn root_bits_the_kernel_does_not_read_open_nothing() {
    const UNIX: u64 = 1;
    const VSOCK: u64 = 40;
    const STREAM: u64 = 1;
    /// Addresses that are not random.
    const NOT_RANDOM: u64 = 0x4_0000;
    const EPERM: i32 = 1;
    let host = Host::new();
    let path = host.rootfs().join("bin/call");
    let call = |number, arguments| {
        fs::write(&path, system_call(number, arguments)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        host.run(MODE, command(&["/bin/call"])).0
    };
    for high in [0, 1 << 32, 1 << 63, 0xffff_ffff << 32] {
        assert_eq!(call(libc::SYS_socket, [high | VSOCK, STREAM, 0]), EPERM, "{high:#x}");
        let socket = call(libc::SYS_socket, [high | UNIX, STREAM, 0]);
        assert!((200..256).contains(&socket), "{high:#x}: errno {socket}");
        assert_eq!(call(libc::SYS_personality, [high | NOT_RANDOM, 0, 0]), EPERM, "{high:#x}");
        assert_eq!(call(libc::SYS_personality, [high | 0xffff_ffff, 0, 0]), 0, "{high:#x}");
    }
    // And what a stranger could do with a namespace of its own.
    let new_user = 1 << 32 | 0x1000_0000;
    assert_eq!(call(libc::SYS_clone, [new_user, 0, 0]), EPERM);
}

#[test]
fn root_volumes_show_their_owners_inside_the_range() {
    let host = Host::new();
    let volume = host.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, Permissions::from_mode(0o755)).unwrap();
    fs::write(volume.join("file"), "content\n").unwrap();
    chown(volume.join("file"), Some(1000), Some(1001)).unwrap();
    let mut wish = shell(
        "stat -c '%u %g' /vol/file; cat /vol/file; touch /vol/new && echo wrote; \
         touch /readonly/x 2>/dev/null || echo refused; cat /single",
    );
    let source = volume.display();
    wish.volumes =
        vec![format!("{source}:/vol"), format!("{source}:/readonly:ro"), format!("{source}/file:/single")];
    let (code, output) = host.run(MODE, wish);
    assert_eq!((code, output.as_str()), (0, "1000 1001\ncontent\nwrote\nrefused\ncontent\n"));
    // The host sees what the container's root made as root's: the mount maps, the disk does not change.
    assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), 0);

    let mut wish = shell("stat -c '%u' /vol/file");
    wish.volumes = vec![format!("{source}:/vol:noidmap")];
    assert_eq!(host.run(MODE, wish).1, "65534\n");
}

#[test]
fn root_limits_are_the_cgroups() {
    let host = Host::new();
    let output = tempfile::NamedTempFile::new().unwrap();
    let (launcher, events) = host.launcher(MODE);
    let mut wish = command(&["sleep", "60"]);
    wish.resources = Resources {
        memory_bytes: Some(64 << 20),
        cpus: Some(0.5),
        pids: Some(33),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
    };
    wish.stdout = Some(output.reopen().unwrap());
    let (id, _, launch) = host.launch(wish);
    launcher.submit(launch);
    assert!(matches!(events.recv().unwrap(), plywood_engine::launch::Event::Started { .. }));
    let directories = host.cgroups.directories(&id);
    // Files of v2, and of v1.
    let limits = [
        (["memory.max", "memory.limit_in_bytes"], "67108864"),
        (["cpu.max", "cpu.cfs_quota_us"], "50000"),
        (["pids.max", "pids.max"], "33"),
        (["cpuset.cpus", "cpuset.cpus"], "0"),
        (["cpuset.mems", "cpuset.mems"], "0"),
    ];
    for (names, expected) in limits {
        let values: Vec<String> = directories
            .iter()
            .flat_map(|directory| names.map(|name| directory.join(name)))
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect();
        assert!(
            values.iter().any(|value| value.split_whitespace().next() == Some(expected)),
            "{names:?}: {values:?}"
        );
    }
    launcher.cancel_handle().cancel();
    launcher.finish().unwrap();
    host.assert_nothing_left(&id);
}
