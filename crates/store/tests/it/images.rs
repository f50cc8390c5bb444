//! Images: names, digests, prefixes, removal.

use plywood_store::{ContainerId, ImageError, NewContainer, NewImage};

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
        if let Some(other) = seen.insert(prefix.clone(), (made.manifest_digest, n)) {
            let error = store.find_image(&prefix).unwrap_err();
            let ImageError::Ambiguous { candidates, .. } = &error else { panic!("{error:?}") };
            let named = |(digest, n): (&plywood_image::Digest, usize)| {
                format!("{} (docker.io/library/image{n}:latest)", digest.short())
            };
            assert!(candidates.contains(&named((&other.0, other.1))), "{error}");
            assert!(candidates.contains(&named((&made.manifest_digest, n))), "{error}");
            return;
        }
    }
}

/// Of two images with one config `plywood images` shows the same id, and no number of its digits was enough.
#[test]
fn an_id_stands_for_all_images_that_have_it() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let gzip = image(&store, &pins, "gzip", &[]);
    let manifest = b"packed otherwise".to_vec();
    let zstd = NewImage {
        manifest_digest: plywood_image::Digest::sha256(&manifest),
        media_type: gzip.media_type.clone(),
        manifest,
        config_digest: gzip.config_digest,
        config: gzip.config.clone(),
        platform: gzip.platform.clone(),
        layers: Vec::new(),
        chain_id: None,
    };
    let zstd = store.record_image(&pins, &zstd, &["docker.io/library/zstd:latest".to_owned()]).unwrap();
    pins.release().unwrap();
    let id = gzip.config_digest;
    for text in [id.to_string(), id.hex(), id.short()] {
        assert_eq!(store.find_image(&text).unwrap().config_digest, id, "{text}");
        assert_eq!(store.find_images(&text).unwrap().len(), 2, "{text}");
    }
    for made in [&gzip, &zstd] {
        for text in [&made.names[0], &made.manifest_digest.short()] {
            assert_eq!(store.find_images(text).unwrap(), std::slice::from_ref(made), "{text}");
        }
    }
    let untagged = store.remove_image_name(&zstd.manifest_digest.short(), false).unwrap();
    assert_eq!(untagged.names, zstd.names);
    let pins = store.pins().unwrap();
    tag(&store, &pins, &zstd, &zstd.names[0]);
    pins.release().unwrap();
    let mut untagged = store.remove_image_name(&id.short(), false).unwrap();
    untagged.names.sort();
    assert_eq!(untagged.names, [gzip.names, zstd.names].concat());
    assert!(untagged.unused);
    assert_eq!(store.collect_garbage().unwrap().removed.len(), 2);
}

#[test]
fn names_by_digest_may_be_abbreviated() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = image(&store, &pins, "debian", &[]);
    for (repository, digit) in [("a", '1'), ("a", '2'), ("b", '1')] {
        let digits = format!("abcd{}", digit.to_string().repeat(60));
        tag(&store, &pins, &made, &format!("docker.io/library/{repository}@sha256:{digits}"));
    }
    let untagged = store.remove_image_name("docker.io/library/a@sha256:abcd1", false).unwrap();
    assert_eq!(untagged.names.len(), 1);
    assert!(untagged.names[0].starts_with("docker.io/library/a@sha256:abcd1"));
    store.find_image("docker.io/library/b@sha256:abcd").unwrap();
    tag(&store, &pins, &made, &untagged.names[0]);
    let error = store.find_image("docker.io/library/a@sha256:abcd").unwrap_err();
    assert!(matches!(&error, ImageError::Ambiguous { candidates, .. } if candidates.len() == 2), "{error}");
    for text in ["docker.io/library/a@sha256:abc", "docker.io/library/a@sha256:%", "@sha256:abcd"] {
        assert!(matches!(store.find_image(text).unwrap_err(), ImageError::NotFound(_)), "{text}");
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
