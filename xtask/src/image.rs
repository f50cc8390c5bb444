//! Real images, made from real Debian packages with Debian's tools.
//!
//! One root file system is kept: mmdebstrap makes it, and each layer is what changed in it when apt installed the
//! next packages, written by GNU tar. The finished layout is unpacked by umoci and compared with that root file
//! system before it gets its name, so a directory under that name is a whole and correct image.

mod diff;
mod layer;
mod layout;
mod rootfs;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::proc::{is_root, output, remove_dir, say, step, target_dir};
use crate::setup;
use diff::Snapshot;
use layer::Compressor;
use rootfs::{Distribution, Package, Rootfs};

/// Raised when images made by an older version of this code are to be made anew.
const RECIPE_VERSION: u32 = 1;

/// An image to make.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    description: &'static str,
    layering: Layering,
    /// Fewer layers or unpacked bytes than this means the image is not what it is for.
    least_layers: usize,
    least_bytes: u64,
}

/// How packages become layers, after the base.
#[derive(Debug)]
enum Layering {
    /// A layer a package: `core` and all it needs, then as many of `leaves` as the least number of layers asks.
    PerPackage { core: &'static [&'static str], leaves: &'static [&'static str] },
    /// A layer a group with all it needs.
    PerGroup(&'static [&'static [&'static str]]),
}

const DEMO: Spec = Spec {
    name: "plywood-demo:latest",
    description: "Debian packages people use, one layer a package",
    layering: Layering::PerPackage {
        core: &["python3", "curl", "ca-certificates", "jq", "procps", "iputils-ping", "vim-tiny", "less"],
        leaves: &[
            "netbase",
            "tzdata",
            "tree",
            "unzip",
            "nano",
            "make",
            "patch",
            "psmisc",
            "zstd",
            "bzip2",
            "xz-utils",
            "time",
            "netcat-openbsd",
            "rsync",
            "file",
            "gawk",
            "bc",
            "tmux",
        ],
    },
    least_layers: 50,
    least_bytes: 100 << 20,
};

const LARGE: Spec = Spec {
    name: "plywood-large:latest",
    description: "Compilers in a handful of large layers",
    layering: Layering::PerGroup(&[&["gcc", "g++", "make"], &["clang"], &["python3", "git", "perl"]]),
    least_layers: 4,
    least_bytes: 300 << 20,
};

/// A finished image: its layout directory and its name.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) layout: PathBuf,
    pub(crate) name: &'static str,
    pub(crate) layers: usize,
}

/// `cargo xtask image`: the demo image, by default under `target/demo/image`.
pub(crate) fn demo_image(out: Option<PathBuf>) -> Result<Image> {
    make(&DEMO, out.unwrap_or_else(|| target_dir().join("demo/image")))
}

/// `cargo xtask large-image`: the image of the unpack benchmark, by default under `target/demo/large-image`.
pub(crate) fn large_image(out: Option<PathBuf>) -> Result<Image> {
    make(&LARGE, out.unwrap_or_else(|| target_dir().join("demo/large-image")))
}

fn make(spec: &Spec, out: PathBuf) -> Result<Image> {
    setup::ensure()?;
    // apt takes a relative path for one below the root.
    let out = std::path::absolute(out)?;
    let distribution = Distribution::of_host()?;
    let recipe = recipe(spec, &distribution);
    fs::create_dir_all(out.parent().unwrap_or(&out))?;
    let lock = File::create(beside(&out, "lock"))?;
    lock.lock().context("waiting for another task that makes this image")?;

    let figures = match layout::check(&out, &recipe) {
        Ok(figures) => {
            println!("==> Image {}: already in {}", spec.name, out.display());
            figures
        }
        Err(_) => {
            if !is_root() {
                bail!("making an image needs root; type:\n\n    sudo env \"PATH=$PATH\" cargo xtask image\n");
            }
            if let Err(error) = build(spec, &distribution, &recipe, &out) {
                for suffix in ["partial", "work"] {
                    remove_dir(&beside(&out, suffix))?;
                }
                return Err(error);
            }
            layout::check(&out, &recipe)?
        }
    };
    say(format!("{} layers, {} MB compressed", figures.layers, figures.blob_bytes >> 20));
    Ok(Image { layout: out, name: spec.name, layers: figures.layers })
}

fn build(spec: &Spec, distribution: &Distribution, recipe: &str, out: &Path) -> Result<()> {
    let (partial, work) = (beside(out, "partial"), beside(out, "work"));
    for dir in [&partial, &work] {
        remove_dir(dir)?;
        fs::create_dir_all(dir)?;
    }
    fs::create_dir_all(partial.join("blobs/sha256"))?;

    let base = format!("mmdebstrap --variant=apt {}", distribution.codename);
    let rootfs = step(&format!("Make the base layer, {}: {base}", distribution.pretty_name), || {
        Rootfs::bootstrap(work.join("rootfs"), distribution)
    })?;
    let epoch = rootfs.epoch()?;
    let plan = step("Ask apt which packages, download them", || {
        let (wanted, plan) = plan(spec, |wanted| rootfs.plan(wanted))?;
        rootfs.download(&wanted)?;
        say(format!("{} packages in {} layers", plan.iter().map(Vec::len).sum::<usize>(), plan.len()));
        Ok(plan)
    })?;

    let compressor = Compressor::start(partial.join("blobs/sha256"));
    let mut history = vec![base];
    let mut before = Snapshot::default();
    step("Install them one layer after the other, each layer what changed on disk", || {
        for number in 0..=plan.len() {
            if let Some(packages) = number.checked_sub(1).map(|n| &plan[n]) {
                rootfs.install(packages)?;
                let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
                history.push(format!("apt-get install --no-install-recommends {}", names.join(" ")));
            }
            let after = Snapshot::take(rootfs.dir())?;
            let tar = work.join(format!("{number}.tar"));
            layer::write_tar(rootfs.dir(), &after.since(&before), epoch, &work.join("lists"), &tar)?;
            compressor.push(tar);
            before = after;
        }
        Ok(())
    })?;
    let layers = step("Wait for the last layers to be compressed", || compressor.finish())?;

    let about = layout::About {
        name: spec.name.to_string(),
        description: format!("{} ({})", spec.description, distribution.pretty_name),
        debian_architecture: distribution.architecture.clone(),
        created: output(Command::new("date").args(["--utc", "+%FT%TZ"]).arg(format!("--date=@{epoch}")))?
            .trim()
            .to_string(),
        recipe: recipe.to_string(),
        history,
    };
    layout::write(&partial, &about, &layers)?;
    step("Check the image: skopeo reads it, and what umoci unpacks is what apt installed", || {
        let unpacked = verify(&partial, spec.name, &before, epoch, &work.join("check"))?;
        if layers.len() < spec.least_layers || unpacked < spec.least_bytes {
            bail!("{} layers and {} MB are too few for {}", layers.len(), unpacked >> 20, spec.name);
        }
        say(format!("{} entries, {} MB unpacked", before.len(), unpacked >> 20));
        Ok(())
    })?;
    remove_dir(out)?;
    fs::rename(&partial, out)?;
    remove_dir(&work)
}

/// Which packages to ask apt for, and the packages of each layer after the base; `simulate` answers what
/// installing some packages installs, in order.
fn plan(
    spec: &Spec,
    simulate: impl Fn(&[&str]) -> Result<Vec<Package>>,
) -> Result<(Vec<&'static str>, Vec<Vec<Package>>)> {
    match &spec.layering {
        Layering::PerPackage { core, leaves } => {
            let mut wanted = core.to_vec();
            let mut chosen = simulate(&wanted)?;
            let mut leaves = leaves.iter();
            // A leaf brings one package or few, so this takes one or two rounds.
            while chosen.len() + 1 < spec.least_layers {
                let lacking = spec.least_layers - 1 - chosen.len();
                let more: Vec<&str> = leaves.by_ref().take(lacking).copied().collect();
                if more.is_empty() {
                    bail!("the package list gives {} layers, not {}", chosen.len() + 1, spec.least_layers);
                }
                wanted.extend(more);
                chosen = simulate(&wanted)?;
            }
            Ok((wanted, chosen.into_iter().map(|package| vec![package]).collect()))
        }
        Layering::PerGroup(groups) => {
            let mut wanted: Vec<&str> = Vec::new();
            let (mut seen, mut layers) = (Vec::<Package>::new(), Vec::new());
            for group in *groups {
                wanted.extend(*group);
                let mut packages = simulate(&wanted)?;
                packages.retain(|package| !seen.contains(package));
                seen.extend(packages.iter().cloned());
                layers.push(packages);
            }
            Ok((wanted, layers))
        }
    }
}

/// Has others read the layout: skopeo its JSON, umoci its layers. Returns the bytes it unpacks to.
fn verify(layout: &Path, name: &str, expected: &Snapshot, epoch: i64, scratch: &Path) -> Result<u64> {
    let tag = name.split(':').next_back().unwrap_or(name);
    // skopeo splits a layout's path from the image name at the first colon.
    output(
        Command::new("skopeo").args(["inspect", "--config"]).arg(format!("oci:{}:{name}", layout.display())),
    )?;
    // umoci takes a bare tag, so it looks at a copy of the index under that name.
    let aliased = scratch.join("layout");
    fs::create_dir_all(&aliased)?;
    std::os::unix::fs::symlink(fs::canonicalize(layout)?.join("blobs"), aliased.join("blobs"))?;
    fs::copy(layout.join("oci-layout"), aliased.join("oci-layout"))?;
    let index = fs::read_to_string(layout.join("index.json"))?.replace(name, tag);
    fs::write(aliased.join("index.json"), index)?;
    let bundle = scratch.join("bundle");
    output(
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:{tag}", aliased.display()))
            .arg(&bundle),
    )?;
    let unpacked = Snapshot::take(&bundle.join("rootfs"))?;
    let wrong = expected.mismatches(&unpacked, epoch);
    if let Some(path) = wrong.first() {
        bail!(
            "{} entries differ, first {}:\n  installed {}\n  unpacked  {}",
            wrong.len(),
            path.display(),
            expected.describe(path),
            unpacked.describe(path)
        );
    }
    remove_dir(scratch)?;
    Ok(unpacked.bytes())
}

/// Names what an image is made of and how; short enough for an annotation.
fn recipe(spec: &Spec, distribution: &Distribution) -> String {
    let text = format!("{RECIPE_VERSION} {} {} {spec:?}", distribution.codename, distribution.architecture);
    layer::hex(&Sha256::digest(text))[..16].to_string()
}

/// `image` -> `image.lock` and the like.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;
