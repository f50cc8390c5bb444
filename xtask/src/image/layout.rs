//! The JSON of an OCI image layout: config, manifest, index; and whether a layout on disk is whole.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::{LayerBlob, hex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Says by which recipe a layout was made; another recipe means making it anew.
const RECIPE: &str = "dev.plywood.recipe";

/// What an image says about itself.
#[derive(Debug)]
pub(crate) struct About {
    /// Name and tag, such as `plywood-demo:latest`.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) description: String,
    /// Debian's word for the architecture.
    pub(crate) debian_architecture: String,
    /// RFC 3339.
    pub(crate) created: String,
    /// By which recipe it was made.
    pub(crate) recipe: String,
    /// One line a layer: how it was made.
    pub(crate) history: Vec<String>,
}

/// Writes config, manifest, index and marker into a layout whose layer blobs are there.
pub(crate) fn write(layout: &Path, about: &About, layers: &[LayerBlob]) -> Result<()> {
    let config = blob(layout, &config(about, layers)?)?;
    let manifest = blob(
        layout,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config.0, "size": config.1 },
            "layers": layers.iter().map(|l| json!({ "mediaType": LAYER, "digest": l.digest, "size": l.size }))
                .collect::<Vec<_>>(),
        }),
    )?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST, "digest": manifest.0, "size": manifest.1,
            "annotations": { REF_NAME: about.name, RECIPE: about.recipe },
        }],
    });
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    fs::write(layout.join("index.json"), serde_json::to_string_pretty(&index)?)?;
    Ok(())
}

fn config(about: &About, layers: &[LayerBlob]) -> Result<Value> {
    let (architecture, variant) = platform(&about.debian_architecture)?;
    let mut config = json!({
        "created": about.created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["/bin/bash"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": about.name.split(':').next(),
                "org.opencontainers.image.description": about.description,
            },
        },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>() },
        "history": about.history.iter().map(|by| json!({ "created": about.created, "created_by": by }))
            .collect::<Vec<_>>(),
    });
    if let Some(variant) = variant {
        config["variant"] = json!(variant);
    }
    Ok(config)
}

/// What OCI calls an architecture of Debian.
fn platform(debian: &str) -> Result<(&'static str, Option<&'static str>)> {
    Ok(match debian {
        "amd64" => ("amd64", None),
        "arm64" => ("arm64", Some("v8")),
        "armhf" => ("arm", Some("v7")),
        "i386" => ("386", None),
        "ppc64el" => ("ppc64le", None),
        "riscv64" => ("riscv64", None),
        "s390x" => ("s390x", None),
        other => bail!("no OCI name known for Debian's architecture {other}"),
    })
}

fn blob(layout: &Path, value: &Value) -> Result<(String, usize)> {
    let bytes = serde_json::to_vec(value)?;
    let digest = hex(&Sha256::digest(&bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), &bytes)?;
    Ok((format!("sha256:{digest}"), bytes.len()))
}

/// What an image amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) layers: usize,
    pub(crate) blob_bytes: u64,
}

/// The figures of a layout made by `recipe` with every blob there in its full size; an error says what is wrong.
pub(crate) fn check(layout: &Path, recipe: &str) -> Result<Figures> {
    let index = read(&layout.join("index.json"))?;
    let entry = &index["manifests"][0];
    if entry["annotations"][RECIPE] != recipe {
        bail!("made by another recipe");
    }
    let manifest = read(&sized(layout, entry)?)?;
    sized(layout, &manifest["config"])?;
    let layers = manifest["layers"].as_array().context("the manifest lists no layers")?;
    let mut blob_bytes = 0;
    for layer in layers {
        sized(layout, layer)?;
        blob_bytes += layer["size"].as_u64().unwrap_or(0);
    }
    Ok(Figures { layers: layers.len(), blob_bytes })
}

fn read(file: &Path) -> Result<Value> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parsing {}", file.display()))
}

/// The file of a descriptor, if it has the size the descriptor says.
fn sized(layout: &Path, descriptor: &Value) -> Result<std::path::PathBuf> {
    let digest = descriptor["digest"].as_str().and_then(|d| d.strip_prefix("sha256:"));
    let file = layout.join("blobs/sha256").join(digest.context("a descriptor has no sha256 digest")?);
    let size = fs::metadata(&file).with_context(|| format!("looking for {}", file.display()))?.len();
    if descriptor["size"].as_u64() != Some(size) {
        bail!("{} has {size} bytes, not {}", file.display(), descriptor["size"]);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            name: "plywood-demo:latest".into(),
            description: "a test".into(),
            debian_architecture: "amd64".into(),
            created: "2025-01-01T00:00:00Z".into(),
            recipe: "r1".into(),
            history: vec!["base".into()],
        }
    }

    fn made(dir: &Path) -> LayerBlob {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("blobs/sha256/aa"), "layer").unwrap();
        let layer = LayerBlob { diff_id: "sha256:bb".into(), digest: "sha256:aa".into(), size: 5 };
        write(dir, &about(), std::slice::from_ref(&layer)).unwrap();
        layer
    }

    #[test]
    fn a_whole_layout_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        assert_eq!(check(dir.path(), "r1").unwrap(), Figures { layers: 1, blob_bytes: 5 });
    }

    #[test]
    fn a_layout_that_is_not_whole_is_not_taken_for_done() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path(), "r1").is_err());
        made(dir.path());
        assert!(format!("{:#}", check(dir.path(), "r2").unwrap_err()).contains("another recipe"));
        fs::write(dir.path().join("blobs/sha256/aa"), "lay").unwrap();
        assert!(format!("{:#}", check(dir.path(), "r1").unwrap_err()).contains("3 bytes, not 5"));
        fs::remove_file(dir.path().join("blobs/sha256/aa")).unwrap();
        assert!(check(dir.path(), "r1").is_err());
    }

    #[test]
    fn the_config_names_its_layers_and_its_platform() {
        let layer = LayerBlob { diff_id: "sha256:bb".into(), digest: "sha256:aa".into(), size: 5 };
        let mut about = about();
        about.debian_architecture = "arm64".into();
        let value = config(&about, &[layer]).unwrap();
        assert_eq!(value["rootfs"]["diff_ids"], json!(["sha256:bb"]));
        assert_eq!((&value["architecture"], &value["variant"]), (&json!("arm64"), &json!("v8")));
        assert_eq!(value["config"]["Cmd"], json!(["/bin/bash"]));
        assert!(platform("vax").is_err());
    }
}
