//! Processes as owners of what is not finished: staging, pins, leases, snapshots.
//!
//! Everything a process may leave behind when it is killed has an owner row; [`crate::recover`] takes away what
//! belongs to the dead. The row is written with the first thing owned and goes when the last store handle of the
//! process is dropped, or with the process.

use plywood_kernel::ProcessId;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// The row of `process`, made if missing.
pub(crate) fn register(transaction: &Transaction<'_>, process: &ProcessId) -> rusqlite::Result<i64> {
    let text = process.to_string();
    if let Some(id) = find(transaction, &text)? {
        return Ok(id);
    }
    transaction.prepare_cached("INSERT INTO owners (process) VALUES (?1)")?.execute(params![text])?;
    Ok(transaction.last_insert_rowid())
}

fn find(connection: &Connection, text: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM owners WHERE process = ?1")?
        .query_row(params![text], |row| row.get(0))
        .optional()
}

/// Removes the row of `process` if nothing names it any more.
pub(crate) fn retire(transaction: &Transaction<'_>, process: &ProcessId) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM owners WHERE process = ?1
             AND NOT EXISTS (SELECT 1 FROM pin_groups WHERE owner = owners.id)
             AND NOT EXISTS (SELECT 1 FROM layers WHERE state <> 'committed' AND owner = owners.id)
             AND NOT EXISTS (SELECT 1 FROM flats WHERE state <> 'ready' AND owner = owners.id)
             AND NOT EXISTS (SELECT 1 FROM leases WHERE owner = owners.id)
             AND NOT EXISTS (SELECT 1 FROM snapshots WHERE owner = owners.id)",
        )?
        .execute(params![process.to_string()])?;
    Ok(())
}
