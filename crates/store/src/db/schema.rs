//! The tables, and how a database of an older release becomes one of this release.
//!
//! A released entry of [`MIGRATIONS`] is never edited: a change is a new entry.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rusqlite::{Connection, TransactionBehavior};

use super::{APPLICATION_ID, OpenDbError, begin};

/// Element `n` brings version `n` to version `n + 1`.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("v1.sql"), include_str!("v2.sql")];

/// The version this release reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    given_up: &AtomicBool,
) -> Result<(), OpenDbError> {
    let failed = |error: rusqlite::Error| OpenDbError::Db { path: path.to_owned(), source: error.into() };
    {
        // One snapshot: another process may be making the tables between two questions.
        let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred).map_err(failed)?;
        check(&snapshot, path, failed)?;
        if version(&snapshot).map_err(failed)? == VERSION {
            return Ok(());
        }
    }
    let transaction = begin(connection, given_up).map_err(failed)?;
    // Another process may have migrated while we waited for the lock.
    check(&transaction, path, failed)?;
    let from = version(&transaction).map_err(failed)?;
    for migration in &MIGRATIONS[usize::try_from(from).unwrap_or(0)..] {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn check(
    connection: &Connection,
    path: &Path,
    failed: impl Fn(rusqlite::Error) -> OpenDbError + Copy,
) -> Result<(), OpenDbError> {
    let found = version(connection).map_err(failed)?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (tables, application) {
        (0, 0) => Ok(()),
        (_, APPLICATION_ID) if (0..=VERSION).contains(&found) => Ok(()),
        (_, APPLICATION_ID) => Err(OpenDbError::TooNew { path: path.to_owned(), found, known: VERSION }),
        _ => Err(OpenDbError::Foreign(path.to_owned())),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
