//! Images: names, digests, prefixes, removal.

use plywood_store::{ContainerId, ImageError, NewContainer};

use crate::support::{image, layer, store, tag};

#[test]
fn images_are_found_by_every_name_they_have() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let (a, b) = (layer(&store, &pins, "a", |_| ()), layer(&store, &pins, "b", |_| ()));
    let made = image(&store, &pins, "debian", &[&a, &b, &a]);
    assert_eq!(made.layers, [a.clone(), b.clone(), a.clone()]);
    assert_eq!(made.layer_ids(), [b.id, a.id], "a directory is one layer only");
    assert_eq!(made.names, ["docker.io/library/debian:latest"]);
    tag(&store, &pins, &made, "docker.io/library/other:1");

    let manifest = made.manifest_digest.to_string();
    let config = made.config_digest.to_string();
    for text in [
        "debian",
        "debian:latest",
        "docker.io/library/debian:latest",
        "other:1",
        &manifest,
        &manifest[..20],
        &manifest["sha256:".len()..][..8],
        &config,
        &config["sha256:".len()..][..12],
    ] {
        assert_eq!(store.find_image(text).unwrap().manifest_digest, made.manifest_digest, "{text}");
    }
    for text in ["", "debian:12", "ubuntu", "sha256:", &manifest[..9], "%", "zzzz"] {
        let error = store.find_image(text).unwrap_err();
        assert!(matches!(error, ImageError::NotFound(_)), "{text}: {error:?}");
    }
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn a_prefix_of_two_images_is_ambiguous() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    // Enough images that two of them share the first two bytes of their id.
    let mut seen = std::collections::HashMap::new();
    for n in 0.. {
        let made = image(&store, &pins, &format!("image{n}"), &[]);
        let prefix = made.manifest_digest.hex()[..4].to_owned();
        if let Some(other) = seen.insert(prefix.clone(), made.manifest_digest) {
            let error = store.find_image(&prefix).unwrap_err();
            let ImageError::Ambiguous { candidates, .. } = &error else { panic!("{error:?}") };
            assert!(candidates.contains(&other.short()), "{error}");
            return;
        }
    }
}

#[test]
fn the_last_name_of_an_image_in_use_goes_by_force_only() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = image(&store, &pins, "debian", &[]);
    pins.release().unwrap();
    let container = NewContainer {
        id: ContainerId::random().unwrap(),
        name: None,
        image: made.manifest_digest,
        image_name: "debian".to_owned(),
        command: vec![],
        bundle: "/nowhere".into(),
        mechanism: "detached".to_owned(),
        lower: "flat".to_owned(),
        runtime: "/usr/bin/runc".to_owned(),
        auto_remove: false,
    };
    store.create_containers(std::slice::from_ref(&container)).unwrap();
    let pins = store.pins().unwrap();
    tag(&store, &pins, &made, "docker.io/library/other:1");
    pins.release().unwrap();
    let untagged = store.remove_image_name("other:1", false).unwrap();
    assert!(!untagged.unused);
    let error = store.remove_image_name("debian", false).unwrap_err();
    assert!(error.to_string().contains(container.id.short()), "{error}");

    let untagged = store.remove_image_name(&made.manifest_digest.hex()[..12], true).unwrap();
    assert_eq!(untagged.names, ["docker.io/library/debian:latest"]);
    assert!(!untagged.unused, "its container keeps it");
    assert_eq!(store.collect_garbage().unwrap().removed, []);
    store.remove_containers(&[container.id]).unwrap();
    assert_eq!(store.collect_garbage().unwrap().removed[0].kind, "image");
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_name_moves_to_the_latest_image() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let old = image(&store, &pins, "old", &[]);
    let new = image(&store, &pins, "new", &[]);
    tag(&store, &pins, &old, "docker.io/library/x:1");
    tag(&store, &pins, &new, "docker.io/library/x:1");
    assert_eq!(store.find_image("x:1").unwrap().manifest_digest, new.manifest_digest);
    assert_eq!(store.find_image("old").unwrap().names, ["docker.io/library/old:latest"]);
}
