//! Planning, and a small image made and read back by the real tools.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use super::*;

fn package(name: &str) -> Package {
    rootfs::configured(&format!("Conf {name} (1.0 Debian:12/stable [amd64])\n")).remove(0)
}

/// An apt that gives every package one dependency of its own, the core packages two.
fn simulate(wanted: &[&str]) -> Result<Vec<Package>> {
    let mut names = Vec::new();
    for name in wanted {
        let dependencies = if name.starts_with("core") { 2 } else { 1 };
        names.extend((0..dependencies).map(|n| format!("lib{name}{n}")));
        names.push(name.to_string());
    }
    Ok(names.iter().map(|name| package(name)).collect())
}

#[test]
fn a_layer_a_package_takes_leaves_until_there_are_enough() {
    let mut spec = Spec {
        layering: Layering::PerPackage { core: &["core1", "core2"], leaves: &["a", "b", "c", "d"] },
        least_layers: 10,
        ..DEMO
    };
    let (wanted, layers) = plan(&spec, simulate).unwrap();
    assert_eq!(wanted, ["core1", "core2", "a", "b", "c"]);
    assert_eq!(layers.len(), 12);
    assert!(layers.iter().all(|layer| layer.len() == 1));
    spec.least_layers = 100;
    assert!(plan(&spec, simulate).unwrap_err().to_string().contains("gives 15 layers, not 100"));
}

#[test]
fn a_layer_a_group_holds_what_earlier_groups_did_not() {
    let spec = Spec { layering: Layering::PerGroup(&[&["core1"], &["a", "b"]]), ..LARGE };
    let (wanted, layers) = plan(&spec, simulate).unwrap();
    assert_eq!(wanted, ["core1", "a", "b"]);
    assert_eq!(layers.iter().map(Vec::len).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn neighbours_of_an_output_directory() {
    assert_eq!(beside(Path::new("target/demo/image"), "lock"), Path::new("target/demo/image.lock"));
}

/// Layers with owners, set-id bits, hard links, capabilities, long names, devices and removals, read back.
#[test]
fn root_umoci_unpacks_what_the_layers_were_made_of() {
    plywood_kernel::testing::require_root();
    let dir = tempfile::tempdir().unwrap();
    let (tree, layout) = (dir.path().join("tree"), dir.path().join("layout"));
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let long = format!("usr/{}/{}", "d".repeat(120), "f".repeat(150));
    for name in ["usr/bin/tool", "usr/share/doc/old/x", "etc/conf", long.as_str()] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    chown(tree.join("etc/conf"), Some(70_000), Some(12)).unwrap();
    let compressor = Compressor::start(layout.join("blobs/sha256"));
    let mut before = Snapshot::default();
    let mut commit = |number: u32| {
        let after = Snapshot::take(&tree).unwrap();
        let tar = dir.path().join(format!("{number}.tar"));
        let epoch = 4_000_000_000;
        layer::write_tar(&tree, &after.since(&before), epoch, &dir.path().join("lists"), &tar).unwrap();
        compressor.push(tar);
        before = after;
    };
    commit(0);

    fs::set_permissions(tree.join("usr/bin/tool"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::hard_link(tree.join("usr/bin/tool"), tree.join("usr/bin/twin")).unwrap();
    symlink("../bin/tool", tree.join("usr/share/link")).unwrap();
    remove_dir(&tree.join("usr/share/doc")).unwrap();
    fs::remove_file(tree.join("etc/conf")).unwrap();
    commit(1);

    let capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("usr/bin/twin"), "security.capability", capability, flags).unwrap();
    fs::create_dir_all(tree.join("usr/share/doc")).unwrap();
    commit(2);

    let layers = compressor.finish().unwrap();
    assert_eq!(layers.len(), 3);
    let about = layout::About {
        name: "small:latest".into(),
        description: "a test".into(),
        debian_architecture: output(Command::new("dpkg").arg("--print-architecture")).unwrap().trim().into(),
        created: "2025-01-01T00:00:00Z".into(),
        recipe: "r".into(),
        history: vec!["one".into(), "two".into(), "three".into()],
    };
    layout::write(&layout, &about, &layers).unwrap();
    assert_eq!(layout::check(&layout, "r").unwrap().layers, 3);
    let bytes = verify(&layout, "small:latest", &before, 4_000_000_000, &dir.path().join("check")).unwrap();
    assert_eq!(bytes, before.bytes());
    assert!(!before.describe(Path::new("usr/bin/twin")).contains("xattrs: []"));
}
