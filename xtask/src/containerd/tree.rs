//! A root file system with one suite's containerd, unpacked and never written to again.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::proc::{output, remove_dir, target_dir};

/// A suite of Debian, by the containerd it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// 1.6: no id mappings at all.
    Bookworm,
    /// 1.7: id mappings only by copying.
    Trixie,
    /// 2.1 or newer: idmapped mounts, pods with user namespaces.
    Sid,
}

/// From the oldest containerd to the newest.
pub const SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Sid];

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        })
    }
}

impl FromStr for Suite {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        SUITES.into_iter().find(|suite| suite.to_string() == name).with_context(|| {
            format!("no containerd is known of a suite {name:?}; there are bookworm, trixie, sid")
        })
    }
}

const PACKAGES: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "busybox-static"];

/// Where something is mounted or written while it runs; everything else in a tree stays as unpacked.
const DIRECTORIES: [&str; 8] = ["dev", "etc", "opt", "proc", "run", "sys", "tmp", "var/lib"];

/// Written last: a directory without it was never finished.
const MARK: &str = "packages";

/// Raised when trees unpacked by an older version of this code are to be made anew.
const RECIPE_VERSION: u32 = 1;

/// The first program of a tree, which starts containerd.
pub(super) const BUSYBOX: &str = "busybox";

/// An unpacked tree.
#[derive(Debug, Clone)]
pub struct Tree {
    suite: Suite,
    dir: PathBuf,
    /// `name version`, a line a package.
    packages: String,
}

impl Tree {
    /// The tree unpacked before.
    pub fn open(suite: Suite) -> Result<Tree> {
        let dir = parent().join(suite.to_string());
        let missing =
            || format!("containerd of Debian {suite} is not unpacked; type:\n\n    cargo xtask containerd\n");
        let text = fs::read_to_string(dir.join(MARK)).with_context(missing)?;
        let (recipe, packages) = text.split_once('\n').with_context(missing)?;
        if recipe != RECIPE_VERSION.to_string() {
            bail!(missing());
        }
        Ok(Tree { suite, dir, packages: packages.to_owned() })
    }

    /// Downloads and unpacks it.
    pub(super) fn unpack(suite: Suite, apt: &mut apt::Root) -> Result<Tree> {
        let (ready, partial) = (parent().join(suite.to_string()), parent().join(format!("{suite}.partial")));
        fs::create_dir_all(parent())?;
        let lock = File::create(parent().join(format!("{suite}.lock")))?;
        lock.lock().context("waiting for another task that unpacks this containerd")?;
        remove_dir(&partial)?;
        let (debs, root) = (partial.join("debs"), partial.join("root"));
        fs::create_dir_all(&root)?;
        apt.download_all(&suite.to_string(), &PACKAGES, &debs)?;
        let mut packages: Vec<String> = Vec::new();
        for entry in fs::read_dir(&debs)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&root))?;
                let mut show = Command::new("dpkg-deb");
                show.args(["--show", "--showformat", "${Package} ${Version}"]).arg(&deb);
                packages.push(output(&mut show)?);
            }
        }
        packages.sort();
        let packages = packages.join("\n");
        complete(&root)?;
        fs::write(root.join(MARK), format!("{RECIPE_VERSION}\n{packages}"))?;
        remove_dir(&ready)?;
        fs::rename(&root, &ready)?;
        remove_dir(&partial)?;
        Ok(Tree { suite, dir: ready, packages })
    }

    /// The suite it is of.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Its root directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of its containerd, as Debian writes it.
    pub fn version(&self) -> &str {
        self.version_of("containerd")
    }

    /// The version of a package in it; empty where there is none.
    pub fn version_of(&self, package: &str) -> &str {
        self.packages
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == package)
            .map_or("", |(_, version)| version)
    }
}

fn parent() -> PathBuf {
    target_dir().join("containerd/trees")
}

/// What installing, rather than unpacking, would have done.
fn complete(root: &Path) -> Result<()> {
    for name in DIRECTORIES {
        fs::create_dir_all(root.join(name))?;
    }
    // Where /usr is merged, one package has these links, and it is not among ours.
    for name in ["bin", "lib", "lib64", "sbin"] {
        if !root.join(name).exists() {
            symlink(format!("usr/{name}"), root.join(name))?;
        }
    }
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let busybox =
        busybox.iter().find(|path| path.is_file()).context("there is no busybox among the packages")?;
    fs::copy(busybox, root.join(BUSYBOX))?;
    // The CRI plugin copies these into pods.
    fs::write(root.join("etc/resolv.conf"), "")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_names() {
        for suite in SUITES {
            assert_eq!(suite.to_string().parse::<Suite>().unwrap(), suite);
        }
        assert!("buster".parse::<Suite>().unwrap_err().to_string().contains("bookworm"));
    }

    #[test]
    fn versions_are_those_of_the_packages() {
        let packages = "containerd 2.1.9+ds1-5\nlibc6 2.43-7\nrunc 1.3.6+ds1-1".to_owned();
        let tree = Tree { suite: Suite::Sid, dir: PathBuf::new(), packages };
        assert_eq!(
            [tree.version(), tree.version_of("runc"), tree.version_of("crun")],
            ["2.1.9+ds1-5", "1.3.6+ds1-1", ""]
        );
    }
}
