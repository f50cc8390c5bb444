//! Garbage collection: what is reachable stays, what is not goes.

use std::fs;

use plywood_image::ChainId;
use plywood_store::{BuildFlat, FlatOptions, Ingest, Store};

use crate::support::{digest, image, layer, listed, store};

fn kinds(store: &Store) -> Vec<&'static str> {
    let mut kinds: Vec<_> =
        store.collect_garbage().unwrap().removed.into_iter().map(|removed| removed.kind).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn an_image_keeps_its_layers_and_flat_tree_until_it_goes() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let a = layer(&store, &pins, "a", |dir| fs::write(dir.join("a"), "a").unwrap());
    let b = layer(&store, &pins, "b", |_| ());
    let made = image(&store, &pins, "one", &[&a, &b]);
    image(&store, &pins, "two", &[&a]);
    let chain = made.chain_id.unwrap();
    let built = store.build_flat(&pins, &chain, &made.layer_ids(), FlatOptions::default()).unwrap();
    assert!(matches!(built, BuildFlat::Built(_)));
    drop(pins);
    assert!(kinds(&store).is_empty());

    let untagged = store.remove_image_name("one", false).unwrap();
    assert!(untagged.unused);
    assert_eq!(kinds(&store), ["flat", "image", "layer"]);
    assert_eq!(listed(&store, "layers"), [a.id.to_string()]);
    assert!(listed(&store, "flat").is_empty());
    assert!(listed(&store, "trash").is_empty());

    store.remove_image_name("two", false).unwrap();
    assert_eq!(kinds(&store), ["image", "layer"]);
    assert!(listed(&store, "layers").is_empty());
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn pins_keep_what_is_not_yet_part_of_an_image() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = layer(&store, &pins, "a", |_| ());
    let blob = digest("blob");
    pins.blob(&blob).unwrap();
    let Ingest::Write(mut writer) = store.ingest_blob(&blob, None).unwrap() else { panic!() };
    writer.write(b"bl").unwrap();
    drop(writer);
    let chain = ChainId(digest("chain"));
    store.build_flat(&pins, &chain, &[made.id], FlatOptions::default()).unwrap();
    let other = Store::open(store.root().path()).unwrap();
    assert!(kinds(&other).is_empty());

    let later = store.pins().unwrap();
    assert!(later.find_layer(&made.info.diff_id, &chain, None).unwrap().is_some());
    drop(pins);
    assert_eq!(kinds(&other), ["download", "flat"]);
    drop(later);
    assert_eq!(kinds(&other), ["layer"]);
    assert!(listed(&store, "blobs/ingest").is_empty());
}

#[test]
fn a_used_image_is_not_collected_under_the_hands_of_its_user() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = layer(&store, &pins, "a", |_| ());
    image(&store, &pins, "one", &[&made]);
    drop(pins);
    let pins = store.pins().unwrap();
    store.use_image(&pins, "one").unwrap();
    assert!(!store.remove_image_name("one", false).unwrap().unused);
    assert!(kinds(&store).is_empty());
    drop(pins);
    assert_eq!(kinds(&store), ["image", "layer"]);
}

#[test]
fn blobs_and_downloads_go_unless_pinned_or_being_written() {
    let (_scratch, store) = store();
    for (text, commit) in [("done", true), ("half", false)] {
        let digest = digest(text);
        let Ingest::Write(mut writer) = store.ingest_blob(&digest, None).unwrap() else { panic!() };
        writer.write(text.as_bytes()).unwrap();
        if commit {
            writer.commit().unwrap();
        }
    }
    let busy = digest("busy");
    let Ingest::Write(mut writer) = store.ingest_blob(&busy, None).unwrap() else { panic!() };
    writer.write(b"bu").unwrap();
    let report = store.collect_garbage().unwrap();
    assert_eq!(report.removed.iter().map(|removed| removed.kind).collect::<Vec<_>>(), ["blob", "download"]);
    assert_eq!(report.bytes(), 8);
    writer.write(b"sy").unwrap();
    writer.commit().unwrap();
    assert!(store.open_blob(&busy).unwrap().is_some());
}
