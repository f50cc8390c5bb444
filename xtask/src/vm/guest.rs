//! What the guest is: a static program on an ext4 disk, and an initramfs that loads modules and finds the disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::proc::{cargo, find_program, output, remove_dir, run, shown};

/// Its own target, so that the flags of static linking reach neither procedural macros nor everybody's build.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const PROGRAM: &str = "vm_probe";

const TOPOLOGY_PROGRAM: &str = "topology_probe";

/// Much more than the images need, and sparse.
const DISK_SIZE: &str = "512M";

/// The root file system cannot be an initramfs: overlay takes no layers from it, and it cannot be pivoted away from.
const FIND_DISK: &str = "\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    [ ! -e \"$module\" ] || $b insmod \"$module\" || echo \"cannot load $module\"
done
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    $b sleep 1
done
$b mount -t ext4 /dev/vda /disk && $b umount /dev && exec $b switch_root /disk /init
echo 'there is no disk'
$b poweroff -f
";

/// The second serial port carries nothing but results.
const RUN_PROGRAM: &str = "\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs tmp /tmp
/vm_probe /data >/dev/ttyS1
$b echo \"{\\\"check\\\":\\\"exit\\\",\\\"status\\\":$?}\" >/dev/ttyS1
$b poweroff -f
";

/// Needs no disk and no module: all it does is read. The control groups are mounted as systemd does.
const RUN_TOPOLOGY: &str = "\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
/topology_probe >/dev/ttyS1
$b echo \"{\\\"check\\\":\\\"exit\\\",\\\"status\\\":$?}\" >/dev/ttyS1
$b poweroff -f
";

/// Builds the guest program.
pub(super) fn build(dir: &Path) -> Result<PathBuf> {
    build_example(dir, "plywood-engine", PROGRAM)
}

/// The initramfs of a guest that describes itself.
pub(super) fn topology(dir: &Path) -> Result<PathBuf> {
    let program = build_example(dir, "plywood-node", TOPOLOGY_PROGRAM)?;
    let root = dir.join("run/topology");
    remove_dir(&root)?;
    for name in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(name))?;
    }
    busybox(&root)?;
    script(&root, RUN_TOPOLOGY)?;
    output(
        Command::new("strip").arg("--strip-debug").arg("-o").arg(root.join(TOPOLOGY_PROGRAM)).arg(program),
    )?;
    let names = ["bin", "bin/busybox", "dev", "init", "proc", "sys", TOPOLOGY_PROGRAM].map(str::to_owned);
    pack(&root, &names, &dir.join("run/topology.cpio"))
}

fn build_example(dir: &Path, package: &str, example: &str) -> Result<PathBuf> {
    let target_dir = dir.join("build");
    run(cargo()
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--quiet", "--locked", "--package", package, "--example", example])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir))?;
    Ok(target_dir.join(TARGET).join("debug/examples").join(example))
}

/// The disk, with the program on it. It is never written to: every boot gets a fresh one.
pub(super) fn disk(dir: &Path, program: &Path) -> Result<PathBuf> {
    let (root, disk) = (dir.join("run/root"), dir.join("run/disk.ext4"));
    remove_dir(&root)?;
    for name in ["bin", "data", "dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    busybox(&root)?;
    script(&root, RUN_PROGRAM)?;
    // Debug information would be most of it, and a panic names its line without.
    output(Command::new("strip").arg("--strip-debug").arg("-o").arg(root.join(PROGRAM)).arg(program))?;
    remove_dir(&disk)?;
    let mke2fs = find_program("mke2fs").context("there is no mke2fs")?;
    let owner = "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0";
    output(
        Command::new(mke2fs)
            .args(["-q", "-t", "ext4", "-E", owner, "-d"])
            .args([&root, &disk])
            .arg(DISK_SIZE),
    )?;
    Ok(disk)
}

/// The initramfs with one kernel's modules.
pub(super) fn initramfs(dir: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let (root, image) = (dir.join("run/initramfs"), dir.join("run/initramfs.cpio"));
    remove_dir(&root)?;
    for name in ["bin", "dev", "disk", "modules"] {
        fs::create_dir_all(root.join(name))?;
    }
    busybox(&root)?;
    script(&root, FIND_DISK)?;
    let mut names = ["bin", "bin/busybox", "dev", "disk", "init", "modules"].map(str::to_owned).to_vec();
    for module in &kernel.modules {
        let name = Path::new("modules").join(module.file_name().unwrap_or_default());
        fs::copy(module, root.join(&name))?;
        names.push(name.display().to_string());
    }
    pack(&root, &names, &image)
}

fn pack(root: &Path, names: &[String], image: &Path) -> Result<PathBuf> {
    let mut command = Command::new("cpio");
    command.args(["--create", "--quiet", "--format=newc", "--owner=0:0"]).current_dir(root);
    let mut child = command.stdin(Stdio::piped()).stdout(fs::File::create(image)?).spawn()?;
    child.stdin.take().context("no pipe to cpio")?.write_all(names.join("\n").as_bytes())?;
    let status = child.wait()?;
    if status.success() { Ok(image.to_owned()) } else { bail!("{status} from: {}", shown(&command)) }
}

fn busybox(root: &Path) -> Result<()> {
    let busybox = find_program("busybox").context("there is no busybox")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    Ok(())
}

fn script(root: &Path, text: &str) -> Result<()> {
    fs::write(root.join("init"), text)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}
