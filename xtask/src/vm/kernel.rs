//! A kernel out of its packages: the image to boot and the modules the guest loads, decompressed, in loading order.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::release;
use crate::apt::Root;
use crate::proc::{output, remove_dir, say};

/// What the guest needs; what is not there as a module is built into the kernel.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "ext4", "overlay"];

/// Written last: a directory without it was never finished.
const RELEASE: &str = "release";

/// A kernel ready to boot.
pub(super) struct Kernel {
    pub(super) version: String,
    /// Debian's name for it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// In loading order.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernel as unpacked before, or downloaded and unpacked now.
pub(super) fn get(dir: &Path, version: &str, apt: &mut Root, update: bool) -> Result<Kernel> {
    let ready = dir.join("kernels").join(version);
    let have = fs::read_to_string(ready.join(RELEASE)).ok();
    if let (Some(_), false) = (&have, update) {
        return open(&ready, version);
    }
    let found = release::newest(version, apt.kernel_packages()?).with_context(|| {
        format!("no suite has a cloud kernel {version} at the moment; leave it out with --kernel")
    })?;
    if have.as_deref() != Some(&found.name) {
        say(format!("{version}: {}", found.packages.join(", ")));
        let temporary = dir.join("kernels/unpacking");
        remove_dir(&temporary)?;
        fs::create_dir_all(temporary.join("ready/modules"))?;
        apt.download(&found.packages, &temporary)?;
        unpack(&temporary).with_context(|| format!("cannot unpack {}", found.packages.join(", ")))?;
        fs::write(temporary.join("ready").join(RELEASE), &found.name)?;
        remove_dir(&ready)?;
        fs::rename(temporary.join("ready"), &ready)?;
        remove_dir(&temporary)?;
    }
    open(&ready, version)
}

fn open(ready: &Path, version: &str) -> Result<Kernel> {
    let mut modules = files(&ready.join("modules"))?;
    modules.sort();
    Ok(Kernel {
        version: version.to_owned(),
        release: fs::read_to_string(ready.join(RELEASE))?,
        image: ready.join("vmlinuz"),
        modules,
    })
}

/// From the packages in `dir` to `dir/ready`.
fn unpack(dir: &Path) -> Result<()> {
    let root = dir.join("root");
    for package in files(dir)? {
        output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
    }
    // Where /lib is a link to /usr/lib, packages name the latter.
    let base = if root.join("lib/modules").exists() { root.clone() } else { root.join("usr") };
    let mut releases = entries(&base.join("lib/modules"))?;
    let (Some(modules), true) = (releases.pop(), releases.is_empty()) else {
        bail!("no single kernel in {}", base.display());
    };
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = [modules.join("vmlinuz"), root.join(format!("boot/vmlinuz-{release}"))]
        .into_iter()
        .find(|image| image.exists())
        .context("there is no vmlinuz")?;
    fs::copy(image, dir.join("ready/vmlinuz"))?;

    output(Command::new("depmod").arg("--basedir").arg(&base).arg(&release))?;
    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    for (n, module) in in_loading_order(&dependencies, &MODULES).iter().enumerate() {
        decompress(&modules.join(module), &dir.join(format!("ready/modules/{n:02}-{}.ko", name_of(module))))?;
    }
    Ok(())
}

/// The modules and all they depend on, each after what it depends on. Those not listed are built in.
fn in_loading_order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order: Vec<&str> = Vec::new();
    for wanted in wanted {
        let line = modules_dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name_of(path) == *wanted);
        let Some((path, dependencies)) = line else { continue };
        // depmod lists all of them, the last to be loaded first.
        for module in dependencies.split_whitespace().rev().chain([path]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    order
}

/// Files write dashes where the kernel knows underscores only.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn decompress(from: &Path, to: &Path) -> Result<()> {
    let program = match from.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::copy(from, to).map(drop).context("cannot copy a module"),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{} is compressed in a way unknown here", from.display()),
    };
    let mut command = Command::new(program);
    let status = command.args(["--decompress", "--stdout"]).arg(from).stdout(File::create(to)?).status()?;
    if status.success() { Ok(()) } else { bail!("{status} from {program} of {}", from.display()) }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_file()).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_depend_on() {
        let modules_dep = "kernel/fs/overlayfs/overlay.ko.xz:\n\
            kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n\
            kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n";
        let order: Vec<String> = in_loading_order(modules_dep, &MODULES).into_iter().map(name_of).collect();
        assert_eq!(order, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk", "overlay"]);
    }

    #[test]
    fn a_module_not_listed_is_built_in() {
        assert!(in_loading_order("kernel/fs/ext4/ext4.ko:\n", &["overlay"]).is_empty());
    }
}
