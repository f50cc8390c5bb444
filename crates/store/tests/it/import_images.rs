//! Images made by hand: layer blobs, configs, manifests and OCI layouts, sane or not.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use plywood_image::{Digest, Platform};
use plywood_store::{Cancel, FetchError, FetchRequest, Image, Pins, Source, Store, fetch_image};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layer as a registry or layout holds it.
#[derive(Clone, Debug)]
pub(super) struct LayerBlob {
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
    pub(super) diff_id: Digest,
}

impl LayerBlob {
    pub(super) fn plain(tar: Vec<u8>) -> LayerBlob {
        LayerBlob { media_type: LAYER.to_owned(), diff_id: Digest::sha256(&tar), bytes: tar }
    }

    pub(super) fn gzip(tar: &[u8]) -> LayerBlob {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        let bytes = encoder.finish().unwrap();
        LayerBlob { media_type: format!("{LAYER}+gzip"), diff_id: Digest::sha256(tar), bytes }
    }

    pub(super) fn zstd(tar: &[u8]) -> LayerBlob {
        let bytes = zstd::encode_all(tar, 1).unwrap();
        LayerBlob { media_type: format!("{LAYER}+zstd"), diff_id: Digest::sha256(tar), bytes }
    }

    pub(super) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": Digest::sha256(&self.bytes), "size": self.bytes.len()})
    }
}

pub(super) fn config(architecture: &str, layers: &[LayerBlob]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

pub(super) fn manifest(config: &[u8], layers: &[LayerBlob]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(LayerBlob::descriptor).collect();
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::sha256(config), "size": config.len()},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// The architecture of this machine as images name it.
pub(super) fn here() -> String {
    Platform::host().architecture().to_owned()
}

/// An OCI image layout in the making.
pub(super) struct Layout {
    dir: TempDir,
    entries: Vec<Value>,
}

impl Layout {
    pub(super) fn new() -> Layout {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { dir, entries: Vec::new() }
    }

    /// A layout of one image for this machine.
    pub(super) fn of(name: &str, layers: &[LayerBlob]) -> Layout {
        Layout::new().image(name, &here(), layers)
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        digest
    }

    pub(super) fn image(self, name: &str, architecture: &str, layers: &[LayerBlob]) -> Layout {
        for layer in layers {
            self.blob(&layer.bytes);
        }
        let config = config(architecture, layers);
        self.blob(&config);
        let manifest = manifest(&config, layers);
        self.entry(name, &manifest)
    }

    /// Writes a manifest or index and names it.
    pub(super) fn entry(mut self, name: &str, document: &[u8]) -> Layout {
        let parsed: Value = serde_json::from_slice(document).unwrap();
        self.entries.push(json!({
            "mediaType": parsed["mediaType"], "digest": self.blob(document), "size": document.len(),
            "annotations": {REF_NAME: name},
        }));
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
        self
    }
}

pub(super) fn fetch(store: &Store, pins: &Pins, request: &FetchRequest) -> Result<Image, FetchError> {
    let fetched = fetch_image(store, pins, request, &|_| {}, &Cancel::new())?;
    assert!(!fetched.names.is_empty(), "{fetched:?}");
    assert!(fetched.names.iter().all(|name| fetched.image.names.contains(name)), "{fetched:?}");
    Ok(fetched.image)
}

pub(super) fn import(store: &Store, pins: &Pins, layout: &Layout) -> Result<Image, FetchError> {
    fetch(store, pins, &FetchRequest::new(Source::Layout(layout.path().to_owned())))
}

/// The whole chain of an error, as `main` prints it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Nothing of a failed import is left.
pub(super) fn assert_untouched(store: &Store) {
    for dir in ["layers", "trash", "blobs/ingest"] {
        assert_eq!(super::support::listed(store, dir), Vec::<String>::new(), "{dir}");
    }
    assert!(store.images().unwrap().is_empty());
}

/// Runs a program that the tests need.
pub(super) fn run(program: &str, package: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program} ({e}); type: apt-get install {package}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
