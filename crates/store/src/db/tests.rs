use std::time::Instant;

use super::*;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plywood.db");
    (dir, path)
}

fn open(path: &Path) -> Db {
    Db::open(path, Arc::default()).unwrap()
}

fn owners(db: &Db) -> i64 {
    db.read(|connection| connection.query_row("SELECT count(*) FROM owners", [], |row| row.get(0))).unwrap()
}

fn insert(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<()> {
    transaction.execute("INSERT INTO owners (process) VALUES (?1)", [name]).map(|_| ())
}

#[test]
fn a_fresh_database_has_the_newest_schema_and_is_ours() {
    let (_dir, path) = scratch();
    let db = open(&path);
    db.read(|connection| {
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        assert_eq!(pragma("user_version")?, schema::VERSION);
        assert_eq!(pragma("application_id")?, APPLICATION_ID);
        assert_eq!(pragma("foreign_keys")?, 1);
        Ok::<_, rusqlite::Error>(())
    })
    .unwrap();
}

/// What an older layer took from those below is not known: it serves its own chain, and no other by its diff ID.
#[test]
fn layers_of_the_first_version_are_found_by_chain() {
    let (_dir, path) = scratch();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    let digest = |n: u8| plywood_image::Digest::sha256(&[n]);
    let insert =
        "INSERT INTO layers (state, diff_id, chain_id, standalone, size_bytes, entries, max_uid, max_gid,
                  compressed) VALUES ('committed', ?1, ?2, 1, 0, 0, 0, 0, ?1)";
    connection.execute(insert, [digest(0).to_string(), digest(1).to_string()]).unwrap();
    drop(connection);
    let db = open(&path);
    let find = |chain| {
        let (diff_id, chain_id) = (plywood_image::DiffId(digest(0)), plywood_image::ChainId(digest(chain)));
        db.read(|connection| crate::layers::find(connection, &diff_id, &chain_id, Some(&digest(7)))).unwrap()
    };
    assert_eq!(find(1).unwrap().info.basis, crate::layers::Basis::Chain);
    assert_eq!(find(2), None);
}

/// Every version that ever was, with a row in it, becomes the newest.
#[test]
fn older_databases_are_migrated() {
    for version in 1..=schema::MIGRATIONS.len() {
        let (_dir, path) = scratch();
        let connection = Connection::open(&path).unwrap();
        for migration in &schema::MIGRATIONS[..version] {
            connection.execute_batch(migration).unwrap();
        }
        connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.execute("INSERT INTO owners (process) VALUES ('1:1:b')", []).unwrap();
        drop(connection);
        assert_eq!(owners(&open(&path)), 1, "version {version}");
    }
}

#[test]
fn what_fails_or_panics_is_undone_and_the_connection_lives_on() {
    let (_dir, path) = scratch();
    let db = open(&path);
    let error = db
        .write(Durability::Full, |transaction| {
            insert(transaction, "a")?;
            Err::<(), _>(rusqlite::Error::InvalidQuery)
        })
        .unwrap_err();
    assert!(matches!(error, rusqlite::Error::InvalidQuery));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        db.write(Durability::Fast, |transaction| {
            insert(transaction, "b").unwrap();
            if owners_in(transaction) == 1 {
                panic!("in the middle");
            }
            Ok::<_, rusqlite::Error>(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(owners(&db), 0);
    db.write(Durability::Full, |transaction| insert(transaction, "c")).unwrap();
    assert_eq!(owners(&db), 1);
}

fn owners_in(transaction: &Transaction<'_>) -> i64 {
    transaction.query_row("SELECT count(*) FROM owners", [], |row| row.get(0)).unwrap()
}

#[test]
fn full_durability_is_set_for_one_commit_only() {
    let (_dir, path) = scratch();
    let db = open(&path);
    let synchronous = |connection: &Connection| {
        connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).unwrap()
    };
    let (normal, full) = (1, 2);
    db.write(Durability::Full, |transaction| {
        assert_eq!(synchronous(transaction), full);
        Ok::<_, rusqlite::Error>(())
    })
    .unwrap();
    assert_eq!(synchronous(&db.lock()), normal);
}

#[test]
fn writers_of_many_connections_wait_for_each_other() {
    let (_dir, path) = scratch();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let db = open(path);
                for n in 0..25 {
                    db.write(Durability::Fast, |transaction| insert(transaction, &format!("{thread}-{n}")))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(owners(&open(&path)), 200);
}

/// Only the other process, or thirty seconds, ended the wait for it.
#[test]
fn a_request_to_stop_ends_the_wait_for_others() {
    let (_dir, path) = scratch();
    drop(open(&path));
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let db = Db::open(&path, Arc::clone(&cancel)).unwrap();
    let write = || db.write(Durability::Fast, |transaction| Ok::<_, DbError>(insert(transaction, "a")?));
    std::thread::scope(|scope| {
        let start = Instant::now();
        let writer = scope.spawn(write);
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
        let error = writer.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Interrupted, "{error}");
        // Those who clean up are given the time others need, once.
        assert!((2..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(write().unwrap_err().kind(), crate::Kind::Interrupted);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
    other.execute_batch("COMMIT").unwrap();
    write().unwrap();
    assert_eq!(owners(&db), 1);
}
