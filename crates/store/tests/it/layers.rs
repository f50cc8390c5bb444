//! Layers: staging, commit, identity.

use std::fs;

use plywood_image::{ChainId, DiffId};
use plywood_store::Basis;

use crate::support::{digest, info, layer, listed, store};

#[test]
fn a_committed_layer_is_found_again_after_reopening() {
    let (scratch, store) = store();
    let pins = store.pins().unwrap();
    let made = layer(&store, &pins, "a", |dir| fs::write(dir.join("file"), "x").unwrap());
    drop(pins);
    drop(store);

    let store = plywood_store::Store::open(&scratch.path().join("root")).unwrap();
    let pins = store.pins().unwrap();
    let found = pins.find_layer(&made.info.diff_id, &ChainId(digest("any")), None).unwrap().unwrap();
    assert_eq!(found, made);
    assert_eq!(fs::read(store.layer_path(found.id).join("file")).unwrap(), b"x");
    store.open_layer(found.id).unwrap();
}

#[test]
fn layers_that_depend_on_others_are_found_by_chain_only() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let mut dependent = info("a");
    dependent.basis = Basis::Chain;
    let made = store
        .commit_layers(&pins, vec![(store.new_layer_staging().unwrap(), dependent.clone())])
        .unwrap()
        .remove(0);
    assert_eq!(pins.find_layer(&dependent.diff_id, &ChainId(digest("other")), None).unwrap(), None);
    assert_eq!(pins.find_layer(&dependent.diff_id, &dependent.chain_id, None).unwrap(), Some(made));
    assert_eq!(pins.find_layer(&DiffId(digest("b")), &ChainId(digest("other")), None).unwrap(), None);
}

#[test]
fn layers_that_take_their_root_are_found_where_it_is_the_same() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let find = |root: Option<&str>| {
        let root = root.map(digest);
        pins.find_layer(&info("a").diff_id, &ChainId(digest("other")), root.as_ref()).unwrap()
    };
    let commit = |root: &str| {
        let rooted = plywood_store::LayerInfo { basis: Basis::Root(digest(root)), ..info("a") };
        store.commit_layers(&pins, vec![(store.new_layer_staging().unwrap(), rooted)]).unwrap().remove(0)
    };
    let one = commit("one");
    assert_eq!(find(Some("one")), Some(one.clone()));
    assert_eq!((find(Some("two")), find(None)), (None, None));
    let two = commit("two");
    assert_ne!(one.id, two.id);
    assert_eq!(find(Some("two")), Some(two));
    assert_eq!(commit("one"), one);
}

#[test]
fn of_two_equal_layers_one_is_kept() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let first = layer(&store, &pins, "a", |_| ());
    let staged: Vec<_> =
        ["a", "b", "b"].into_iter().map(|name| (store.new_layer_staging().unwrap(), info(name))).collect();
    let committed = store.commit_layers(&pins, staged).unwrap();
    assert_eq!(committed[0], first);
    assert_eq!(committed[1], committed[2]);
    assert_eq!(listed(&store, "layers"), [first.id.to_string(), committed[1].id.to_string()]);
    assert!(listed(&store, "trash").is_empty());
}

#[test]
fn staging_given_up_leaves_nothing() {
    let (_scratch, store) = store();
    let staging = store.new_layer_staging().unwrap();
    fs::create_dir_all(staging.path().join("a/b")).unwrap();
    assert_eq!(listed(&store, "layers"), [staging.id().to_string()]);
    drop(staging);
    assert!(listed(&store, "layers").is_empty());
    assert!(listed(&store, "trash").is_empty());
}

/// The directory went before the row was asked, so a commit that took effect and still reported an error (the disk was
/// full for its last write, say) left a committed layer without its files.
#[test]
fn a_layer_whose_commit_took_effect_is_not_discarded() {
    let (_scratch, store) = store();
    let staging = store.new_layer_staging().unwrap();
    let id = staging.id();
    fs::write(staging.path().join("file"), "x").unwrap();
    let connection = rusqlite::Connection::open(store.root().path().join("plywood.db")).unwrap();
    let commit =
        "UPDATE layers SET state = 'committed', owner = NULL, diff_id = ?2, chain_id = ?3, standalone = 1, root = '',
                  size_bytes = 1, entries = 1, max_uid = 0, max_gid = 0, compressed = ?2 WHERE id = ?1";
    let info = info("a");
    let (diff_id, chain_id) = (info.diff_id.to_string(), info.chain_id.to_string());
    let number: i64 = id.to_string().parse().unwrap();
    assert_eq!(connection.execute(commit, rusqlite::params![number, diff_id, chain_id]).unwrap(), 1);
    drop(staging);
    assert_eq!(fs::read(store.layer_path(id).join("file")).unwrap(), b"x");
    let found = store.pins().unwrap().find_layer(&info.diff_id, &info.chain_id, None).unwrap().unwrap();
    assert_eq!(found.id, id);
}
