//! The definitions of containerd's API and of CRI as Debian has them, which ours are compared with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::proc::{output, remove_dir, say, step, target_dir};

/// Of the suite with the newest containerd; named to apt with their suite.
const PACKAGES: [&str; 3] = [
    "golang-github-containerd-containerd-api-dev",
    "golang-k8s-cri-api-dev",
    "python3-googleapis-common-protos",
];

const SUITE: &str = "sid";

/// Where the packages have them; each a directory that imports are relative to.
const ROOTS: [&str; 2] = ["usr/share/gocode/src", "usr/lib/python3/dist-packages"];

/// Unpacked definitions.
#[derive(Debug)]
pub struct Definitions {
    dir: PathBuf,
}

impl Definitions {
    /// Those unpacked before.
    pub fn open() -> Result<Definitions> {
        let dir = target_dir().join("containerd/definitions");
        if !dir.exists() {
            bail!(
                "the definitions of containerd's API are not unpacked; type:\n\n    cargo xtask containerd\n"
            );
        }
        Ok(Definitions { dir })
    }

    /// Makes sure that they are there.
    pub fn fetch(apt: &mut apt::Root, update: bool) -> Result<Definitions> {
        match Definitions::open() {
            Ok(definitions) if !update => Ok(definitions),
            _ => step("Unpack the definitions of containerd's API and of CRI", || unpack(apt)),
        }
    }

    /// The directories that imports are relative to.
    pub fn roots(&self) -> Vec<PathBuf> {
        ROOTS.iter().map(|root| self.dir.join(root)).collect()
    }

    /// Every definition of containerd's services and types, and that of CRI.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let go = self.dir.join(ROOTS[0]);
        let api = go.join("github.com/containerd/containerd/api");
        let mut files = vec![go.join("k8s.io/cri-api/pkg/apis/runtime/v1/api.proto")];
        for part in ["services", "types"] {
            definitions_below(&api.join(part), &mut files)?;
        }
        Ok(files)
    }
}

fn definitions_below(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            definitions_below(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

fn unpack(apt: &mut apt::Root) -> Result<Definitions> {
    let dir = target_dir().join("containerd/definitions");
    let partial = dir.with_extension("partial");
    fs::create_dir_all(target_dir().join("containerd"))?;
    let lock = File::create(dir.with_extension("lock"))?;
    lock.lock().context("waiting for another task that unpacks these definitions")?;
    remove_dir(&partial)?;
    fs::create_dir_all(&partial)?;
    let names: Vec<String> = PACKAGES.iter().map(|name| format!("{name}/{SUITE}")).collect();
    apt.download(&names, &partial)?;
    let mut debs = Vec::new();
    for entry in fs::read_dir(&partial)? {
        debs.push(entry?.path());
    }
    for deb in debs {
        output(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&partial))?;
        say(deb.file_name().unwrap_or_default().to_string_lossy());
        fs::remove_file(deb)?;
    }
    remove_dir(&dir)?;
    fs::rename(&partial, &dir)?;
    Ok(Definitions { dir })
}
