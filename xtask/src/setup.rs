//! The programs plywood is built, tested and shown with, and how they get onto a Debian or Ubuntu machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::proc::{find_program, is_root, output, run as show, say, step};
use crate::{apt, containerd};

/// A program, the Debian package that brings it, and what it is for.
struct Program {
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

const fn program(name: &'static str, package: &'static str, why: &'static str) -> Program {
    Program { name, package, why }
}

/// Everything the demo and the tests start. What is essential on Debian (tar, gzip, mount) is listed as well,
/// since a container image with cargo may lack it.
const PROGRAMS: &[Program] = &[
    program("cc", "gcc", "links Rust programs, compiles the bundled SQLite and zstd"),
    program("tar", "tar", "writes the layers of the demo image"),
    program("gzip", "gzip", "unpacked by tests that compare with plywood"),
    program("unshare", "util-linux", "mounts made while building images stay private"),
    program("mount", "mount", "binds /proc for apt while images are built"),
    program("setpriv", "util-linux", "ends the local registry with the task that started it"),
    program("runc", "runc", "runs the containers"),
    program("skopeo", "skopeo", "pushes images to the local registry, inspects them"),
    program("umoci", "umoci", "unpacks images: what plywood is compared with"),
    program("docker-registry", "docker-registry", "the local registry images are pulled from"),
    program("mmdebstrap", "mmdebstrap", "makes the base layer of the demo image"),
    program("busybox", "busybox-static", "a root file system of one file, for tests of the launch path"),
];

/// What only tests start; nobody who wants to see the demo should have to download a browser.
const TEST_PROGRAMS: &[Program] =
    &[program("chromium", "chromium", "shows the report, so that a test can look at it")];

/// What only `cargo xtask vm` starts; nobody who wants to see the demo should have to download an emulator.
const VM_PROGRAMS: &[Program] = &[
    program("qemu-system-x86_64", "qemu-system-x86", "emulates the machine other kernels run on"),
    program("busybox", "busybox-static", "finds the guest's disk and starts the guest program"),
    program("cpio", "cpio", "packs the guest's initramfs"),
    program("depmod", "kmod", "finds what kernel modules depend on"),
    program("xz", "xz-utils", "decompresses kernel modules"),
    program("zstd", "zstd", "decompresses kernel modules"),
    program("mke2fs", "e2fsprogs", "makes the guest's disk"),
    program("strip", "binutils", "leaves debug information out of the guest's disk"),
    program("setpriv", "util-linux", "ends the machine with the task that started it"),
];

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<()> {
    step("Check the programs plywood is built, tested and shown with", || {
        for p in PROGRAMS.iter().chain(TEST_PROGRAMS).chain(VM_PROGRAMS) {
            let state = if find_program(p.name).is_some() { "found" } else { "missing" };
            say(format!("{:16} {state:8} {}", p.name, p.why));
        }
        Ok(())
    })?;
    ensure()?;
    ensure_for_tests()?;
    ensure_for_vm()?;
    containerd::fetch(&containerd::SUITES, None, false)?;
    containerd::Definitions::fetch(&mut apt::Root::new(None, false), false).map(drop)
}

/// Installs what is missing; says nothing much when nothing is.
pub(crate) fn ensure() -> Result<()> {
    ensure_all(PROGRAMS, "Set-up")
}

/// The same for what tests start besides.
pub(crate) fn ensure_for_tests() -> Result<()> {
    ensure_all(TEST_PROGRAMS, "Set-up for tests")
}

/// The same for virtual machines.
pub(crate) fn ensure_for_vm() -> Result<()> {
    ensure_all(VM_PROGRAMS, "Set-up for virtual machines")
}

fn ensure_all(programs: &[Program], what: &str) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|p| find_program(p.name).is_none()).collect();
    if missing.is_empty() {
        println!("==> {what}: all {} programs are there", programs.len());
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    step(&format!("{what}: install {}", names.join(", ")), || {
        install(&packages(&missing))?;
        match missing.iter().find(|p| find_program(p.name).is_none()) {
            Some(p) => bail!(
                "{} is installed and yet there is no {}; try: apt-get install --reinstall {}",
                p.package,
                p.name,
                p.package
            ),
            None => Ok(()),
        }
    })
}

/// The Debian packages that bring these programs, each once.
fn packages(programs: &[&Program]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = programs.iter().map(|p| p.package).collect();
    // gcc only recommends the C library's headers, and this installs no recommendations.
    if packages.contains(&"gcc") {
        packages.push("libc6-dev");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs Debian packages; without root, or without apt, it fails with the command to type.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let typed =
        format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!("no apt-get here; install what Debian calls: {}", packages.join(" "));
    }
    if !is_root() {
        bail!("installing needs root; type:\n\n    sudo sh -c '{typed}'\n");
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Dpkg::Use-Pty=0"]);
        command
    };
    show(apt().arg("update"))?;
    show(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))?;
    if packages.contains(&"docker-registry") && Path::new("/run/systemd/system").exists() {
        say(
            "the package has started a registry as a service; the tasks here start their own, so it is stopped",
        );
        output(Command::new("systemctl").args(["disable", "--now", "docker-registry"]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_listed_once_and_say_why() {
        for programs in [PROGRAMS, TEST_PROGRAMS, VM_PROGRAMS] {
            let mut names: Vec<_> = programs.iter().map(|p| p.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), programs.len());
            assert!(programs.iter().all(|p| !p.why.is_empty() && !p.package.is_empty()));
        }
    }

    #[test]
    fn a_package_is_installed_once_and_gcc_with_its_headers() {
        let wanted: Vec<&Program> =
            PROGRAMS.iter().filter(|p| ["cc", "unshare", "setpriv"].contains(&p.name)).collect();
        assert_eq!(packages(&wanted), ["gcc", "libc6-dev", "util-linux"]);
    }
}
