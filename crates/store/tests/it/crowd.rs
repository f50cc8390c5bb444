//! Many processes on one store.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use plywood_image::ChainId;
use plywood_kernel::IdRange;
use plywood_store::{BuildFlat, FlatOptions, NewLease, Store};

use crate::crash;
use crate::support::{child as start, digest, flat_path, image, info, layer, listed, store};

/// Entry of the processes that other tests start.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let role = std::env::var("PLYWOOD_TEST_ROLE").expect("started by other tests only");
    let root = PathBuf::from(std::env::var_os("PLYWOOD_TEST_ROOT").unwrap());
    match role.as_str() {
        "hold-everything" => crash::hold_everything(&root),
        "lease" => lease(&root),
        "pull" => pull(&root),
        "collect" => collect(&root),
        "recover" => recover(&root),
        other => panic!("{other}"),
    }
}

fn succeed(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// First fit. What it sees and takes must be one step, or two processes take the same.
fn first_fit(live: &[plywood_store::LiveLease], count: usize) -> Vec<NewLease> {
    let mut taken: Vec<IdRange> = live.iter().map(|lease| lease.uid).collect();
    let mut new = Vec::new();
    let mut start = 100_000;
    while new.len() < count {
        let range = IdRange { start, length: 65_536 };
        if taken.iter().all(|other| !other.overlaps(range)) {
            taken.push(range);
            new.push(NewLease { uid: range, gid: range, container: None });
        }
        start += 65_536;
    }
    new
}

fn lease(root: &Path) {
    let store = Store::open(root).unwrap();
    for round in 0..30 {
        let mine = store.lease_ranges(|live| Ok::<_, Infallible>(first_fit(live, 5))).unwrap();
        let all = store.leases().unwrap();
        for lease in &mine {
            let overlapping = all.iter().filter(|other| other.uid.overlaps(lease.uid)).count();
            assert_eq!(overlapping, 1, "{lease:?}");
        }
        if round < 29 {
            let ids: Vec<_> = mine.iter().map(|lease| lease.id).collect();
            store.release_leases(&ids).unwrap();
        }
    }
    // The last ones are left to recovery.
}

#[test]
fn ranges_leased_by_many_processes_never_overlap() {
    let (_scratch, store) = store();
    let root = store.root().path().to_owned();
    succeed((0..8).map(|_| start("lease", &root)).collect());
    let recovered = store.recover().unwrap();
    assert_eq!(recovered.stuck, 0);
    assert!(store.leases().unwrap().is_empty(), "their owners are dead");
}

/// What `pull`, `run` and `rmi` do to the same two images, over and over.
fn pull(root: &Path) {
    let store = Store::open(root).unwrap();
    for round in 0..25 {
        let pins = store.pins().unwrap();
        let mut layers = Vec::new();
        for name in ["shared", if round % 2 == 0 { "even" } else { "odd" }] {
            let chain = ChainId(digest("any"));
            let found = pins.find_layer(&info(name).diff_id, &chain, None).unwrap();
            layers.push(found.unwrap_or_else(|| {
                layer(&store, &pins, name, |dir| fs::write(dir.join(name), name).unwrap())
            }));
        }
        let name = if round % 2 == 0 { "even" } else { "odd" };
        let made = image(&store, &pins, name, &layers.iter().collect::<Vec<_>>());
        let chain = made.chain_id.unwrap();
        let options = FlatOptions { wait: true, ..FlatOptions::default() };
        let flat = match store.build_flat(&pins, &chain, &made.layer_ids(), options).unwrap() {
            BuildFlat::Built(flat) | BuildFlat::Found(flat) => flat,
            BuildFlat::Busy => panic!("asked to wait"),
        };
        // Others take the names away and collect: what is pinned must be whole all the same.
        let _ = store.remove_image_name(name, false);
        for (layer, file) in layers.iter().zip(["shared", name]) {
            assert_eq!(fs::read(store.layer_path(layer.id).join(file)).unwrap(), file.as_bytes());
            assert_eq!(fs::read(flat_path(&store, flat.id).join(file)).unwrap(), file.as_bytes());
        }
        drop(pins);
    }
}

fn collect(root: &Path) {
    let store = Store::open(root).unwrap();
    for _ in 0..40 {
        forget_and_collect(&store);
    }
}

/// Another process may have taken the name away already.
fn forget_and_collect(store: &Store) {
    for name in store.images().unwrap().iter().flat_map(|image| &image.names) {
        let _ = store.remove_image_name(name, false);
    }
    store.collect_garbage().unwrap();
}

#[test]
fn collection_takes_nothing_from_those_who_use_it_and_leaves_nothing() {
    let (_scratch, store) = store();
    let root = store.root().path().to_owned();
    let mut children: Vec<Child> = (0..5).map(|_| start("pull", &root)).collect();
    children.extend((0..2).map(|_| start("collect", &root)));
    succeed(children);
    store.recover().unwrap();
    forget_and_collect(&store);
    for empty in ["layers", "flat", "trash", "snapshots"] {
        assert!(listed(&store, empty).is_empty(), "{empty}: {:?}", listed(&store, empty));
    }
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn many_processes_make_one_store() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    succeed((0..6).map(|_| start("collect", &root)).collect());
    assert!(Store::open(&root).unwrap().images().unwrap().is_empty());
}

const RECOVERERS: usize = 8;

/// Opens the store, which recovers, takes a pin and a lease, and looks what is left of them when all others have, too.
fn recover(root: &Path) {
    let store = Store::open(root).unwrap();
    let pins = store.pins().unwrap();
    pins.blob(&digest("kept")).unwrap();
    let mine = store.lease_ranges(|live| Ok::<_, Infallible>(first_fit(live, 1))).unwrap();
    let meeting = root.parent().unwrap().join("meeting");
    fs::write(meeting.join(std::process::id().to_string()), "").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while fs::read_dir(&meeting).unwrap().count() < RECOVERERS {
        assert!(std::time::Instant::now() < deadline, "the others did not come");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(store.leases().unwrap().contains(&mine[0]), "the lease of a living process is gone");
    // Fails on a constraint if the group is gone.
    pins.blob(&digest("kept too")).unwrap();
    let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    let owned: i64 = connection
        .query_row(
            "SELECT count(*) FROM owners JOIN pin_groups ON owner = owners.id WHERE process = ?1",
            [plywood_kernel::ProcessId::current().unwrap().to_string()],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(owned, 1);
}

/// Whoever recovered first got the number of the dead owner as its own, and whoever had seen that number among the dead
/// then took everything from the living.
#[test]
fn those_who_recover_at_once_take_nothing_from_each_other() {
    let (scratch, store) = store();
    let root = store.root().path().to_owned();
    let mut dead = plywood_kernel::ProcessId::current().unwrap();
    drop(store);
    let meeting = scratch.path().join("meeting");
    let mut connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    for round in 0..5 {
        fs::create_dir(&meeting).unwrap();
        dead.start_time += 1;
        connection.execute("INSERT INTO owners (process) VALUES (?1)", [dead.to_string()]).unwrap();
        // All have looked before any may write.
        let lock = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        let children = (0..RECOVERERS).map(|_| start("recover", &root)).collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(lock);
        succeed(children);
        fs::rename(&meeting, scratch.path().join(format!("over-{round}"))).unwrap();
    }
}
