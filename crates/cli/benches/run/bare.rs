//! The other side: bundles on plain directories, and a loop that runs them.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use plywood_engine::cgroup::ROOT;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::{Value, json};

use super::{COMMAND, Plywood};

/// The control group of all bare containers.
const GROUP: &str = "plywood-bench";

/// Bundles to run.
pub(crate) struct Bare {
    runtime: PathBuf,
    state: PathBuf,
    /// Bundle directory and container id.
    bundles: Vec<(PathBuf, String)>,
}

impl Bare {
    /// Lets plywood launch as many containers, takes their documents, and makes a plain directory for each.
    pub(crate) fn prepare(plywood: &Plywood, scratch: &Path, containers: usize) -> Bare {
        let count = containers.to_string();
        plywood.call(&["run", "-d", "-n", &count, "bench", "--", COMMAND]);
        let listed = plywood.call(&["ps", "--all"])["containers"].as_array().unwrap().clone();
        assert_eq!(listed.len(), containers);
        let runtime = PathBuf::from(listed[0]["runtime"].as_str().unwrap());
        // The only flat tree of this store.
        let flats = fs::read_dir(plywood.root.join("flat")).unwrap();
        let flat =
            flats.map(|entry| entry.unwrap().path().join("fs")).next().expect("the image has a flat tree");
        let needed = needed(&flat);

        let mut bundles = Vec::new();
        for (index, container) in listed.iter().enumerate() {
            let id = format!("plywood-bench-bare-{index}");
            let bundle = scratch.join(format!("bare/{index}"));
            let rootfs = bundle.join("rootfs");
            let owner = u32::try_from(container["uid_range"]["start"].as_u64().unwrap()).unwrap();
            fs::create_dir_all(&rootfs).unwrap();
            fill(&rootfs, &flat, &needed, owner);
            let written = plywood.root.join("run/bundles").join(container["id"].as_str().unwrap());
            let spec: Value =
                serde_json::from_slice(&fs::read(written.join("config.json")).unwrap()).unwrap();
            fs::write(bundle.join("config.json"), plain(spec, &rootfs, &id).to_string()).unwrap();
            bundles.push((bundle, id));
        }
        for directory in [scratch.to_owned(), scratch.join("bare")] {
            open_to_all(&directory);
        }
        plywood.call(&["rm", "--all", "--force"]);
        Bare { runtime, state: scratch.join("bare-state"), bundles }
    }

    /// The first line of `runtime --version`.
    pub(crate) fn runtime_version(&self) -> String {
        let output = Command::new(&self.runtime).arg("--version").output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    }

    /// Runs every bundle, at most `concurrency` at a time.
    pub(crate) fn burst(&self, concurrency: usize, one_thread: bool) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..concurrency.min(self.bundles.len()) {
                scope.spawn(|| {
                    while let Some((bundle, id)) = self.bundles.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut command = Command::new(&self.runtime);
                        command.arg("--root").arg(&self.state).args(["run", "--bundle"]).arg(bundle).arg(id);
                        if one_thread {
                            command.env("GOMAXPROCS", "1");
                        }
                        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
                        assert!(status.success(), "{command:?}: {status}");
                    }
                });
            }
        });
    }
}

impl Drop for Bare {
    /// The runtime removes its containers' control groups, not their parent.
    fn drop(&mut self) {
        let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([PathBuf::from(ROOT)]) {
            // Most are no hierarchies, or have none.
            let _not_there = fs::remove_dir(hierarchy.join(GROUP));
        }
    }
}

/// Plywood's document with a plain root, a user namespace made by the runtime, and a control group of our own.
fn plain(mut spec: Value, rootfs: &Path, id: &str) -> Value {
    spec["root"]["path"] = json!(rootfs);
    spec["linux"]["cgroupsPath"] = json!(format!("/{GROUP}/{id}"));
    for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "user" {
            namespace.as_object_mut().unwrap().remove("path");
        }
    }
    spec
}

/// The command, its loader and libraries as the loader itself lists them, the account files: paths in the image.
fn needed(flat: &Path) -> Vec<PathBuf> {
    let command = ["usr/bin", "bin"].map(|dir| Path::new(dir).join(COMMAND));
    let command =
        command.into_iter().find(|path| flat.join(path).exists()).expect("the image has the command");
    let loaders =
        ["lib64", "usr/lib64", "lib", "usr/lib"].iter().filter_map(|dir| fs::read_dir(flat.join(dir)).ok());
    let mut loaders = loaders.flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        (name.starts_with("ld-") && name.contains(".so")).then_some(path)
    });
    let mut needed = vec![command];
    // Without a loader the command is a static one.
    if let Some(loader) = loaders.next() {
        let loader = Path::new("/").join(loader.strip_prefix(flat).unwrap());
        let inside = Path::new("/").join(&needed[0]);
        let output =
            Command::new("chroot").arg(flat).arg(&loader).arg("--list").arg(inside).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.split_whitespace().filter(|word| word.starts_with('/'));
        needed.extend(words.map(|word| PathBuf::from(word.trim_start_matches('/'))));
        needed.push(loader.strip_prefix("/").unwrap().to_owned());
    }
    needed.extend(
        ["etc/passwd", "etc/group"].map(PathBuf::from).into_iter().filter(|path| flat.join(path).exists()),
    );
    needed
}

/// Copies the top directories (empty), the links among them, and the files needed.
fn fill(rootfs: &Path, flat: &Path, needed: &[PathBuf], owner: u32) {
    chown(rootfs, Some(owner), Some(owner)).unwrap();
    for entry in fs::read_dir(flat).unwrap() {
        let entry = entry.unwrap();
        let to = rootfs.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), &to).unwrap();
        } else if kind.is_dir() {
            directory(&to, owner);
        } else {
            continue;
        }
        lchown(&to, Some(owner), Some(owner)).unwrap();
    }
    for path in needed {
        let parent = inside(flat, path.parent().unwrap());
        let mut directories: Vec<&Path> = parent.ancestors().collect();
        directories.reverse();
        for parent in directories {
            directory(&rootfs.join(parent), owner);
        }
        let to = rootfs.join(&parent).join(path.file_name().unwrap());
        if to.exists() {
            continue;
        }
        // What a link leads to, under the link's name.
        let from = flat.join(inside(flat, path));
        fs::copy(&from, &to).unwrap();
        chown(&to, Some(owner), Some(owner)).unwrap();
    }
}

/// A path of the image with all links followed, none of them out of it.
fn inside(flat: &Path, path: &Path) -> PathBuf {
    let root = rustix::fs::open(flat, OFlags::PATH, Mode::empty()).unwrap();
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let found = rustix::fs::openat2(&root, path, OFlags::PATH, Mode::empty(), ResolveFlags::IN_ROOT).unwrap();
    let full = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap();
    let flat = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).unwrap();
    full.strip_prefix(flat).unwrap().to_owned()
}

fn directory(path: &Path, owner: u32) {
    if !path.exists() {
        fs::create_dir(path).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    }
}

/// The containers' root is not ours, and has to walk to its root directory.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
}
