//! What a killed process or a power cut leaves, and what the next open makes of it.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use plywood_image::ChainId;
use plywood_kernel::{IdRange, ProcessId};
use plywood_store::{
    ContainerId, ContainerState, Ingest, NewContainer, NewLease, NewSnapshot, Recovered, Store,
};

use crate::support::{child, digest, image, info, layer, listed, snapshots, store};

/// Runs in a process of its own and is killed at the end, holding one of everything.
pub(crate) fn hold_everything(root: &Path) {
    let store = Store::open(root).unwrap();
    let pins = store.pins().unwrap();
    let staging = store.new_layer_staging().unwrap();
    fs::create_dir_all(staging.path().join("half/a/layer")).unwrap();
    layer(&store, &pins, "committed", |dir| fs::write(dir.join("kept"), "kept").unwrap());
    let made = image(&store, &pins, "debian", &[]);
    // A builder that died half-way.
    let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    connection
        .execute(
            "INSERT INTO flats (state, owner, chain_id) SELECT 'building', min(id), ?1 FROM owners",
            [ChainId(digest("half")).to_string()],
        )
        .unwrap();
    fs::create_dir_all(root.join(format!("flat/{}/fs/half", connection.last_insert_rowid()))).unwrap();
    let new = |name: &str| NewContainer {
        id: ContainerId::random().unwrap(),
        name: Some(name.to_owned()),
        image: made.manifest_digest,
        image_name: "debian".to_owned(),
        command: vec![],
        bundle: "/nowhere".into(),
        mechanism: "detached".to_owned(),
        lower: "flat".to_owned(),
        runtime: "/usr/bin/runc".to_owned(),
        auto_remove: true,
    };
    let (dead, alive) = (new("dead"), new("alive"));
    store.create_containers(&[dead.clone(), alive.clone()]).unwrap();
    // The parent stands for a container process that outlives its supervisor.
    let parent = ProcessId::of(std::os::unix::process::parent_id()).unwrap();
    let us = ProcessId::current().unwrap();
    store.containers_started(&[(dead.id.clone(), us, 1.0), (alive.id.clone(), parent, 1.0)]).unwrap();
    let lease = |start: u32, container: Option<&ContainerId>| {
        let range = IdRange { start, length: 10 };
        NewLease { uid: range, gid: range, container: container.cloned() }
    };
    store
        .lease_ranges(|_| {
            Ok::<_, Infallible>(vec![lease(10, None), lease(20, Some(&dead.id)), lease(30, Some(&alive.id))])
        })
        .unwrap();
    let snapshot = |container: Option<&ContainerId>| NewSnapshot {
        container: container.cloned(),
        uid: 0,
        gid: 0,
        mode: 0o755,
        unshifted: false,
    };
    snapshots(&store, &[snapshot(None), snapshot(Some(&dead.id)), snapshot(Some(&alive.id))]);
    fs::create_dir(root.join(format!("trash/0.{}", ProcessId::current().unwrap()))).unwrap();
    assert!(
        store.lend_name("plywood.test/gone:1").unwrap() && store.lend_name("plywood.test/kept:1").unwrap()
    );
    store.keep_name("plywood.test/kept:1").unwrap();
    let Ingest::Write(mut writer) = store.ingest_blob(&digest("blob"), None).unwrap() else { panic!() };
    writer.write(b"bl").unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_killed_process_is_cleaned_up_after() {
    let (_scratch, store) = store();
    let root = store.root().path().to_owned();
    let mut held = child("hold-everything", &root);
    assert!(!held.wait().unwrap().success());

    let recovered = store.recover().unwrap();
    assert_eq!(
        recovered,
        Recovered {
            owners: 1,
            containers: 1,
            names: 1,
            leases: 1,
            snapshots: 1,
            layers: 1,
            flats: 1,
            trash: 1,
            scratch: 0,
            strays: 0,
            stuck: 0
        }
    );
    assert_eq!(store.recover().unwrap(), Recovered::default());
    let leases = store.leases().unwrap();
    let starts: Vec<u32> = leases.iter().map(|lease| lease.uid.start).collect();
    assert_eq!(starts, [20, 30], "those of containers, until these are removed");
    let dead = store.find_container("dead").unwrap();
    assert_eq!((dead.state, dead.exit_code), (ContainerState::Exited, None));
    assert_eq!(store.snapshots_of(&dead.id).unwrap().len(), 1, "until it is removed");
    assert_eq!(store.find_container("alive").unwrap().state, ContainerState::Running);
    assert_eq!(listed(&store, "layers").len(), 1, "the committed one");
    assert_eq!(listed(&store, "snapshots").len(), 2);
    assert!(listed(&store, "flat").is_empty());
    assert!(listed(&store, "trash").is_empty());

    let pins = store.pins().unwrap();
    let kept = pins.find_layer(&info("committed").diff_id, &ChainId(digest("x")), None).unwrap().unwrap();
    assert_eq!(fs::read(store.layer_path(kept.id).join("kept")).unwrap(), b"kept");
    let Ingest::Write(writer) = store.ingest_blob(&digest("blob"), None).unwrap() else { panic!() };
    assert_eq!(writer.offset(), 2, "the download goes on");

    store.remove_containers(&[store.find_container("alive").unwrap().id, dead.id]).unwrap();
    assert!(listed(&store, "snapshots").is_empty());
}

/// After a power cut the last fast commits may be missing: there are directories nobody knows.
#[test]
fn after_a_reboot_strays_are_removed() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let kept = layer(&store, &pins, "kept", |_| ());
    let flat = store.build_flat(&pins, &ChainId(digest("flat")), &[kept.id], Default::default()).unwrap();
    drop(pins);
    let root = store.root().path().to_owned();
    for stray in ["layers/999/fs/x", "flat/999/fs", "snapshots/999/work", "layers/odd"] {
        fs::create_dir_all(root.join(stray)).unwrap();
    }
    let plywood_store::BuildFlat::Built(flat) = flat else { panic!() };
    fs::rename(root.join(format!("flat/{}", flat.id)), root.join("trash/nobody")).unwrap();
    assert_eq!(store.recover().unwrap().strays, 0, "this boot has been looked at");

    let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    connection.execute("UPDATE meta SET value = 'an earlier boot' WHERE key = 'boot'", []).unwrap();
    let recovered = store.recover().unwrap();
    assert_eq!((recovered.strays, recovered.trash, recovered.stuck), (5, 0, 0));
    assert_eq!(store.find_flat(&flat.chain_id).unwrap(), None);
    assert_eq!(listed(&store, "layers"), [kept.id.to_string()]);
    for empty in ["flat", "snapshots", "trash"] {
        assert!(listed(&store, empty).is_empty(), "{empty}");
    }
}

/// A number whose row a power cut took is given out again: the directory of that name is not ours to use.
#[test]
fn a_directory_left_under_a_fresh_number_is_replaced() {
    let (_scratch, store) = store();
    let left = store.root().path().join("layers/1/fs/left");
    fs::create_dir_all(&left).unwrap();
    let staging = store.new_layer_staging().unwrap();
    assert_eq!(staging.path(), left.parent().unwrap());
    assert!(!left.exists());
}

#[test]
fn root_what_has_a_mount_inside_is_left_and_keeps_nobody_out() {
    plywood_kernel::testing::require_root();
    plywood_kernel::testing::in_private_mount_ns(|| {
        let (_scratch, store) = store();
        let root = store.root().path().to_owned();
        fs::create_dir_all(root.join("trash/nobody/mounted")).unwrap();
        let context = plywood_kernel::FsContext::open("tmpfs").unwrap();
        context.create().unwrap();
        let mount = context.mount(plywood_kernel::MountAttrs::NONE).unwrap();
        mount.attach(rustix::fs::CWD, root.join("trash/nobody/mounted")).unwrap();
        fs::write(root.join("trash/nobody/mounted/precious"), "x").unwrap();
        let recovered = Store::open(&root).unwrap().recover().unwrap();
        assert_eq!((recovered.stuck, recovered.trash), (1, 0));
        assert_eq!(fs::read(root.join("trash/nobody/mounted/precious")).unwrap(), b"x");
        drop(mount);
        plywood_kernel::unmount(root.join("trash/nobody/mounted"), plywood_kernel::UnmountFlags::empty())
            .unwrap();
        assert_eq!(store.recover().unwrap().trash, 1);
    });
}

/// A launch that is killed while it assembles leaves its mount points and what is attached there; so does a trial.
#[test]
fn root_what_killed_launches_have_mounted_goes() {
    plywood_kernel::testing::require_root();
    plywood_kernel::testing::in_private_mount_ns(|| {
        let (_scratch, store) = store();
        let root = store.root().path().to_owned();
        let pins = store.pins().unwrap();
        let lower = layer(&store, &pins, "lower", |dir| fs::write(dir.join("precious"), "x").unwrap());
        let made = image(&store, &pins, "debian", &[&lower]);
        let new = |name: &str| NewContainer {
            id: ContainerId::random().unwrap(),
            name: Some(name.to_owned()),
            image: made.manifest_digest,
            image_name: "debian".to_owned(),
            command: vec![],
            bundle: "/nowhere".into(),
            mechanism: "per-layer".to_owned(),
            lower: "layers".to_owned(),
            runtime: "/usr/bin/runc".to_owned(),
            auto_remove: false,
        };
        let (dead, alive) = (new("dead"), new("alive"));
        store.create_containers(&[dead.clone(), alive.clone()]).unwrap();
        let mut nobody = ProcessId::current().unwrap();
        nobody.start_time += 1;
        rusqlite::Connection::open(root.join("plywood.db"))
            .unwrap()
            .execute(
                "UPDATE containers SET supervisor = ?1 WHERE id = ?2",
                [nobody.to_string(), dead.id.to_string()],
            )
            .unwrap();

        let range = IdRange { start: 0x7000_0000, length: 65_536 };
        let user_ns =
            plywood_kernel::UserNs::create(&plywood_kernel::IdMap::from_ranges(range, range)).unwrap();
        let attach = |at: &Path| {
            fs::create_dir_all(at).unwrap();
            let clone =
                plywood_kernel::MountFd::clone_tree(rustix::fs::CWD, store.layer_path(lower.id), false)
                    .unwrap();
            clone.set_idmap(&user_ns).unwrap();
            clone.attach(rustix::fs::CWD, at).unwrap();
        };
        // No process has that number: the kernel's largest is 2^22.
        let trials = ["scratch/.trial-4194305-0", ".trial-4194305-1", "scratch/.plywood-probe-4194305-0"];
        let own = format!("scratch/.trial-{}-0", std::process::id());
        for trial in trials.into_iter().chain([own.as_str()]) {
            attach(&root.join(trial).join("per-layer/scratch/0"));
        }
        for name in [dead.id.as_str(), "no-container", alive.id.as_str()] {
            let entry = root.join("scratch").join(name);
            attach(&entry.join("0"));
            // One on top of the other, as with an overlay on its own lower directory.
            attach(&entry.join("0"));
            attach(&entry.join("overlay"));
        }

        let recovered = Store::open(&root).unwrap().recover().unwrap();
        assert_eq!(recovered, Recovered::default(), "opening did it");
        let mut left = vec![format!(".trial-{}-0", std::process::id()), alive.id.to_string()];
        left.sort();
        assert_eq!(listed(&store, "scratch"), left);
        assert!(!root.join(".trial-4194305-1").exists());
        assert!(listed(&store, "trash").is_empty());
        let points: Vec<_> = plywood_kernel::table::list()
            .unwrap()
            .into_iter()
            .map(|entry| entry.mount_point)
            .filter(|point| point.starts_with(&root))
            .collect();
        assert_eq!(points.len(), 4, "those of the living: {points:?}");
        assert_eq!(fs::read(store.layer_path(lower.id).join("precious")).unwrap(), b"x");
        // So that the directory can be removed.
        for point in points.iter().rev() {
            plywood_kernel::unmount(point, plywood_kernel::UnmountFlags::DETACH).unwrap();
        }
    });
}
