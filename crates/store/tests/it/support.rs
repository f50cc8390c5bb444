//! Stores in scratch directories, layers made by hand.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use plywood_image::{ChainId, DiffId, Digest};
use plywood_store::{Basis, FlatId, Image, Layer, LayerInfo, NewImage, NewSnapshot, Pins, Snapshot, Store};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tempfile::TempDir;

/// A fresh store; the directory goes with the first value.
pub(crate) fn store() -> (TempDir, Store) {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("root")).unwrap();
    (scratch, store)
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

pub(crate) fn info(name: &str) -> LayerInfo {
    LayerInfo {
        diff_id: DiffId(digest(name)),
        chain_id: ChainId(digest(&format!("chain {name}"))),
        basis: Basis::Nothing,
        size_bytes: 1,
        entries: 1,
        max_uid: 0,
        max_gid: 0,
        compressed: digest(&format!("compressed {name}")),
    }
}

/// Commits a standalone layer that `fill` makes.
pub(crate) fn layer(store: &Store, pins: &Pins, name: &str, fill: impl FnOnce(&Path)) -> Layer {
    let staging = store.new_layer_staging().unwrap();
    fill(staging.path());
    store.commit_layers(pins, vec![(staging, info(name))]).unwrap().remove(0)
}

/// Records an image of these layers.
pub(crate) fn image(store: &Store, pins: &Pins, name: &str, layers: &[&Layer]) -> Image {
    let manifest = format!("manifest {name}").into_bytes();
    let config = format!("config {name}").into_bytes();
    let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.info.diff_id).collect();
    let new = NewImage {
        manifest_digest: Digest::sha256(&manifest),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        manifest,
        config_digest: Digest::sha256(&config),
        config,
        platform: "linux/amd64".to_owned(),
        layers: layers.iter().map(|layer| layer.id).collect(),
        chain_id: plywood_image::digest::chain_ids(&diff_ids).last().copied(),
    };
    store.record_image(pins, &new, &[format!("docker.io/library/{name}:latest")]).unwrap()
}

/// Gives an image that is here another name.
pub(crate) fn tag(store: &Store, pins: &Pins, image: &Image, name: &str) {
    let new = NewImage {
        manifest_digest: image.manifest_digest,
        media_type: image.media_type.clone(),
        manifest: image.manifest.clone(),
        config_digest: image.config_digest,
        config: image.config.clone(),
        platform: image.platform.clone(),
        layers: image.layers.iter().map(|layer| layer.id).collect(),
        chain_id: image.chain_id,
    };
    store.record_image(pins, &new, &[name.to_owned()]).unwrap();
}

/// Records snapshots and makes their directories.
pub(crate) fn snapshots(store: &Store, new: &[NewSnapshot]) -> Vec<Snapshot> {
    let recorded = store.record_snapshots(new).unwrap();
    for (snapshot, new) in recorded.iter().zip(new) {
        store.make_snapshot(snapshot.id, new).unwrap();
    }
    recorded
}

/// A flat tree's directory.
pub(crate) fn flat_path(store: &Store, id: FlatId) -> PathBuf {
    store.root().path().join(format!("flat/{id}/fs"))
}

/// Names in a directory of the state root, sorted.
pub(crate) fn listed(store: &Store, below: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(store.root().path().join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

pub(crate) fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub(crate) fn opaque(path: &Path) {
    xattr(path, "trusted.overlay.opaque", b"y");
}

/// Starts `role` of the test `child` in a process of its own.
pub(crate) fn child(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crowd::child", "--ignored", "--nocapture"])
        .env("PLYWOOD_TEST_ROLE", role)
        .env("PLYWOOD_TEST_ROOT", root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Everything about a tree that an image can say, one line an entry, sorted by path. Link counts and the sizes of
/// directories are the file system's business.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let full = if path.as_os_str().is_empty() { root.join(".") } else { full };
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("-> {:?}", fs::read_link(&full).unwrap())
        } else if kind.is_file() {
            format!("{} bytes {}", meta.len(), Digest::sha256(&fs::read(&full).unwrap()))
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {:x}", meta.rdev())
        } else {
            String::new()
        };
        lines.push(format!(
            "{:?} {:o} {}:{} {}.{:09} {content} {:?}",
            path,
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            xattrs(&full),
        ));
        if kind.is_dir() {
            pending.extend(names(&full).into_iter().map(|name| path.join(name)));
        }
    }
    lines.sort();
    lines
}

/// What a directory shows and has, sorted. overlayfs lists the whiteouts of a directory that only one layer has,
/// and then finds nothing under those names.
pub(crate) fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| fs::symlink_metadata(entry.path()).is_ok())
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut found: Vec<(String, Vec<u8>)> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let name = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_str().unwrap().to_owned(), value)
        })
        .collect();
    found.sort();
    found
}
