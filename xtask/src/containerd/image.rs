//! Small images for tests: a static busybox and as many layers as asked for, as an OCI layout.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::proc::{find_program, output, remove_dir};

const APPLETS: [&str; 8] = ["cat", "grep", "ls", "sh", "sleep", "stat", "touch", "true"];

/// Writes an OCI layout to `dir`: an image of `layers` layers that runs `command`. Layer `n` has a file `/layers/n`
/// that belongs to user and group `n`.
pub fn small(dir: &Path, name: &str, layers: usize, command: &[&str]) -> Result<()> {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    let scratch = dir.with_extension("scratch");
    for number in 0..layers {
        remove_dir(&scratch)?;
        fs::create_dir_all(scratch.join("layers"))?;
        if number == 0 {
            base(&scratch)?;
        }
        fs::write(scratch.join(format!("layers/{number}")), format!("{number}\n"))?;
        let descriptor = blob(dir, "application/vnd.oci.image.layer.v1.tar", &tar(&scratch, number)?)?;
        diff_ids.push(descriptor["digest"].clone());
        descriptors.push(descriptor);
    }
    remove_dir(&scratch)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let config = json!({
        "architecture": architecture.trim(),
        "os": "linux",
        "config": { "Cmd": command, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(dir, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
    });
    let mut manifest = blob(dir, media_type, manifest.to_string().as_bytes())?;
    // containerd takes the whole name from its own annotation, the tag alone from the other.
    manifest["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.join("index.json"), index.to_string())?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn base(root: &Path) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = find_program("busybox").context("there is no busybox; type: cargo xtask setup")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nuser:x:1:1::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1:\n")?;
    Ok(())
}

/// Everything belongs to user and group `owner`, and nothing says when it was made: the same bytes every time.
fn tar(root: &Path, owner: usize) -> Result<Vec<u8>> {
    let archive = root.with_extension("tar");
    output(
        Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--numeric-owner"])
            .args([format!("--owner={owner}"), format!("--group={owner}")])
            .arg("--directory")
            .arg(root)
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("."),
    )?;
    let bytes = fs::read(&archive)?;
    fs::remove_file(archive)?;
    Ok(bytes)
}

/// Its descriptor.
fn blob(dir: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(dir.join("blobs/sha256").join(&digest), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_image_is_a_layout_others_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        small(&layout, "plywood.test/small:latest", 4, &["/bin/true"]).unwrap();
        let text = output(
            Command::new("skopeo")
                .arg("inspect")
                .arg(format!("oci:{}:plywood.test/small:latest", layout.display())),
        );
        let image: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(image["Layers"].as_array().unwrap().len(), 4);
    }
}
