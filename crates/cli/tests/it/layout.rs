//! Images made by hand, with busybox inside: OCI layouts and the archives made of them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood_image::testing::{RawHeader, TarBuilder};
use plywood_image::{Digest, Platform};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const BUSYBOX: &str = "/bin/busybox";

/// What the tests run.
const APPLETS: [&str; 24] = [
    "cat", "chmod", "chown", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "kill",
    "ls", "mkdir", "mount", "pwd", "sh", "sleep", "stat", "test", "touch", "true", "wc",
];

/// An image to be.
#[derive(Clone, Debug)]
pub(crate) struct TestImage {
    /// Uncompressed, bottom first.
    pub(crate) layers: Vec<Vec<u8>>,
    /// The `config` object of the configuration.
    pub(crate) process: Value,
    pub(crate) os: String,
    pub(crate) architecture: String,
}

/// A file for tars, with an owner.
pub(crate) fn owned(tar: TarBuilder, name: &str, owner: (u64, u64), mode: u64, data: &[u8]) -> TarBuilder {
    let mut header = RawHeader::new(b'0');
    header.name(name).owner(owner.0, owner.1).mode(mode).size(data.len() as u64);
    tar.entry(&header, data)
}

impl TestImage {
    /// Five layers: busybox, accounts, data of several owners, and two that take some of it away.
    pub(crate) fn new() -> TestImage {
        let mut base = TarBuilder::new();
        for dir in ["bin", "dev", "etc", "proc", "sys", "root", "srv"] {
            base = base.dir(dir, 0o755);
        }
        base = base.dir("tmp", 0o1777);
        let busybox = fs::read(BUSYBOX)
            .unwrap_or_else(|e| panic!("{BUSYBOX}: {e}; type: apt-get install busybox-static"));
        base = owned(base, "bin/busybox", (0, 0), 0o755, &busybox);
        for applet in APPLETS {
            base = base.symlink(format!("bin/{applet}"), "busybox");
        }
        let accounts = TarBuilder::new()
            .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n")
            .file("etc/group", "root:x:0:\napp:x:1000:\ndisk:x:6:app\n");
        let mut data = TarBuilder::new().dir("srv/data", 0o755).dir("srv/opaque", 0o755);
        data = owned(data, "srv/data/kept", (1000, 1000), 0o600, b"kept");
        data = data.file("srv/data/removed", "removed").file("srv/opaque/hidden", "hidden");
        let first = TarBuilder::new().whiteout("srv/data", "removed").file("srv/data/added", "added");
        let second =
            TarBuilder::new().dir("srv/opaque", 0o755).opaque("srv/opaque").file("srv/opaque/shown", "shown");
        TestImage {
            layers: [base, accounts, data, first, second].map(TarBuilder::finish).into(),
            process: json!({"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh", "-c", "echo from the image"]}),
            os: "linux".to_owned(),
            architecture: Platform::host().architecture().to_owned(),
        }
    }

    /// As many layers as asked for, each with a file of its own.
    pub(crate) fn of_layers(count: usize) -> TestImage {
        let mut image = TestImage::new();
        for layer in image.layers.len()..count {
            image
                .layers
                .push(TarBuilder::new().file(format!("srv/of-layer-{layer}"), format!("{layer}")).finish());
        }
        image
    }

    /// Changes the `config` object.
    pub(crate) fn with(mut self, key: &str, value: Value) -> TestImage {
        self.process[key] = value;
        self
    }

    /// Puts a layer on top.
    pub(crate) fn layer(mut self, tar: TarBuilder) -> TestImage {
        self.layers.push(tar.finish());
        self
    }

    /// Writes an OCI layout in which the image is called `name`.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> Layout {
        Layout::new(dir).image(self, name)
    }
}

/// An OCI layout directory in the making.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    entries: Vec<Value>,
    /// Of the layers of the image written last, bottom first.
    pub(crate) layers: Vec<Digest>,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Layout {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { dir: dir.to_owned(), entries: Vec::new(), layers: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Adds an image.
    pub(crate) fn image(self, image: &TestImage, name: &str) -> Layout {
        let diff_ids: Vec<Digest> = image.layers.iter().map(|tar| Digest::sha256(tar)).collect();
        self.image_with(image, name, &diff_ids)
    }

    /// Adds an image whose config claims these diff IDs.
    pub(crate) fn image_with(self, image: &TestImage, name: &str, diff_ids: &[Digest]) -> Layout {
        self.image_of(image, name, diff_ids, |_, tar| gzip(tar))
    }

    /// Adds an image whose config claims these diff IDs and whose blobs are what `pack` makes of the layers.
    pub(crate) fn image_of(
        mut self,
        image: &TestImage,
        name: &str,
        diff_ids: &[Digest],
        pack: impl Fn(usize, &[u8]) -> Vec<u8>,
    ) -> Layout {
        let layers: Vec<Value> =
            image.layers.iter().enumerate().map(|(n, tar)| self.blob(LAYER, &pack(n, tar))).collect();
        self.layers = layers.iter().map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect();
        let config = json!({
            "architecture": image.architecture, "os": image.os, "config": image.process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut entry = self.blob(MANIFEST, manifest.to_string().as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.entries.push(entry);
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        self
    }

    /// Rewrites the `manifest` or the `config` of the only image, and whatever names it.
    pub(crate) fn change(&self, of: &str, change: impl FnOnce(&mut Value)) {
        let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
        let by = |entry: &Value| self.blob_path(&entry["digest"].as_str().unwrap().parse().unwrap());
        let index_path = self.dir.join("index.json");
        let mut index = read(fs::read(&index_path).unwrap());
        let mut manifest = read(fs::read(by(&index["manifests"][0])).unwrap());
        if of == "manifest" {
            change(&mut manifest);
        } else {
            let mut config = read(fs::read(by(&manifest["config"])).unwrap());
            change(&mut config);
            manifest["config"] = self.blob(CONFIG, config.to_string().as_bytes());
        }
        let annotations = index["manifests"][0]["annotations"].take();
        index["manifests"][0] = self.blob(MANIFEST, manifest.to_string().as_bytes());
        index["manifests"][0]["annotations"] = annotations;
        fs::write(index_path, index.to_string()).unwrap();
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// A tar of the layout.
    pub(crate) fn archive(&self) -> PathBuf {
        let tar = self.dir.with_extension("tar");
        tool("tar", "tar", &["-C", text(&self.dir), "-cf", text(&tar), "."]);
        tar
    }
}

/// A layer as builders compress it.
pub(crate) fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// A path of ours as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program the tests need, and must succeed.
pub(crate) fn tool(program: &str, package: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program} ({e}); type: apt-get install {package}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
