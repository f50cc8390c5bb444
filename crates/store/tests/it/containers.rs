//! Containers, their snapshots and leases.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use plywood_kernel::{IdRange, ProcessId};
use plywood_store::{
    Container, ContainerError, ContainerId, ContainerState, NewContainer, NewLease, NewSnapshot, Store,
};

use crate::support::{image, listed, snapshots, store};

fn new(store: &Store, name: Option<&str>) -> NewContainer {
    let pins = store.pins().unwrap();
    NewContainer {
        id: ContainerId::random().unwrap(),
        name: name.map(str::to_owned),
        image: image(store, &pins, "debian", &[]).manifest_digest,
        image_name: "debian".to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), "exit 3 \"'\n".to_owned()],
        bundle: "/run/plywood/x".into(),
        mechanism: "detached".to_owned(),
        lower: "flat".to_owned(),
        runtime: "/usr/bin/runc".to_owned(),
        auto_remove: true,
    }
}

fn snapshot(container: &ContainerId) -> NewSnapshot {
    NewSnapshot { container: Some(container.clone()), uid: 0, gid: 0, mode: 0o755, unshifted: false }
}

#[test]
fn a_container_goes_through_its_states() {
    let (_scratch, store) = store();
    let made = new(&store, Some("web"));
    store.create_containers(std::slice::from_ref(&made)).unwrap();
    let us = ProcessId::current().unwrap();
    let found = store.find_container("web").unwrap();
    assert_eq!(
        found,
        Container {
            id: made.id.clone(),
            name: made.name.clone(),
            image: made.image,
            image_name: made.image_name.clone(),
            command: made.command.clone(),
            bundle: made.bundle.clone(),
            mechanism: made.mechanism.clone(),
            lower: made.lower.clone(),
            runtime: made.runtime.clone(),
            auto_remove: true,
            state: ContainerState::Created,
            supervisor: us.clone(),
            process: None,
            exit_code: None,
            launch_ms: None,
            created_ms: found.created_ms,
            started_ms: None,
            finished_ms: None,
            lease: None,
        }
    );
    store.containers_started(&[(made.id.clone(), us.clone(), 12.5)]).unwrap();
    let running = store.find_container(made.id.short()).unwrap();
    assert_eq!((running.state, running.launch_ms), (ContainerState::Running, Some(12.5)));
    assert_eq!(running.process, Some(us));
    store.container_exited(&made.id, Some(3)).unwrap();
    let exited = store.find_container(made.id.as_str()).unwrap();
    assert_eq!((exited.state, exited.exit_code), (ContainerState::Exited, Some(3)));
    store.remove_containers(std::slice::from_ref(&made.id)).unwrap();
    store.remove_containers(std::slice::from_ref(&made.id)).unwrap();
    assert!(store.containers().unwrap().is_empty());
    assert!(matches!(store.container_exited(&made.id, None), Err(ContainerError::NotFound(_))));
}

#[test]
fn names_and_prefixes_lead_to_one_container_or_an_error() {
    let (_scratch, store) = store();
    let made: Vec<NewContainer> = (0..40).map(|n| new(&store, Some(&format!("n{n}")))).collect();
    store.create_containers(&made).unwrap();
    assert_eq!(store.containers().unwrap().len(), 40);
    assert_eq!(store.find_container(made[7].id.as_str()).unwrap().id, made[7].id);
    for text in ["", "n40", "%", "G", "abcdefabcdefabcdef"] {
        let error = store.find_container(text).unwrap_err();
        assert!(matches!(error, ContainerError::NotFound(_)), "{text}: {error:?}");
    }
    // Of 40 ids two share the first digit.
    let ambiguous =
        (0..16).map(|digit| format!("{digit:x}")).find_map(|prefix| match store.find_container(&prefix) {
            Err(ContainerError::Ambiguous { candidates, .. }) => Some(candidates),
            _ => None,
        });
    assert!(ambiguous.unwrap().len() >= 2);

    let taken = [new(&store, None), new(&store, Some("n3"))];
    let error = store.create_containers(&taken).unwrap_err();
    assert!(matches!(&error, ContainerError::NameTaken(name) if name == "n3"), "{error:?}");
    assert_eq!(store.containers().unwrap().len(), 40, "all or none");
}

#[test]
fn root_snapshots_have_the_owner_and_mode_asked_for() {
    plywood_kernel::testing::require_root();
    let (_scratch, store) = store();
    let made = snapshots(
        &store,
        &[
            NewSnapshot { container: None, uid: 100_000, gid: 200_000, mode: 0o1755, unshifted: false },
            NewSnapshot { container: None, uid: 0, gid: 0, mode: 0o555, unshifted: true },
        ],
    );
    let facts = |n: usize| {
        let meta = fs::metadata(made[n].upper()).unwrap();
        (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777, made[n].unshifted)
    };
    assert_eq!(facts(0), (100_000, 200_000, 0o1755, false));
    assert_eq!(facts(1), (0, 0, 0o555, true));
    assert!(made[0].work().is_dir());
    store.remove_snapshots(&[made[0].id, made[1].id]).unwrap();
    store.remove_snapshots(&[made[0].id]).unwrap();
    assert!(listed(&store, "snapshots").is_empty());
    assert!(listed(&store, "trash").is_empty());
}

#[test]
fn a_removed_container_gives_back_its_range_and_snapshots() {
    let (_scratch, store) = store();
    let made = new(&store, None);
    store.create_containers(std::slice::from_ref(&made)).unwrap();
    let range = IdRange { start: 100_000, length: 65_536 };
    store
        .lease_ranges(|_| {
            Ok::<_, Infallible>(vec![NewLease { uid: range, gid: range, container: Some(made.id.clone()) }])
        })
        .unwrap();
    let snapshot = snapshots(&store, &[snapshot(&made.id)]).remove(0);
    fs::write(snapshot.upper().join("written"), "x").unwrap();
    assert_eq!(store.find_container(made.id.as_str()).unwrap().lease.unwrap().uid, range);
    assert_eq!(store.snapshots_of(&made.id).unwrap(), [snapshot]);
    store.remove_containers(std::slice::from_ref(&made.id)).unwrap();
    assert!(store.leases().unwrap().is_empty());
    assert!(listed(&store, "snapshots").is_empty());
}

#[test]
fn a_lease_for_an_unknown_container_is_no_overlap() {
    let (_scratch, store) = store();
    let range = IdRange { start: 100_000, length: 65_536 };
    let unknown = ContainerId::random().unwrap();
    let error = store
        .lease_ranges(|_| {
            Ok::<_, Infallible>(vec![NewLease { uid: range, gid: range, container: Some(unknown) }])
        })
        .unwrap_err();
    assert!(matches!(error, plywood_store::LeaseError::State(_)), "{error:?}");
}
