//! Image names that last as long as the process that gave them.
//!
//! Names are durable and belong to nobody. One that a process gives for its own work is noted first, with whose it is,
//! as a row of `meta` (`lent:NAME`, the [`ProcessId`]); whatever ends the process, the name goes, and then what only it
//! kept. An older release ignores such rows: there the name stays.

use plywood_kernel::ProcessId;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::Store;
use crate::db::Durability;
use crate::error::StateError;
use crate::recover::Liveness;

/// What keys of `meta` begin with: five letters.
const KEY: &str = "lent:";

fn key(name: &str) -> String {
    format!("{KEY}{name}")
}

impl Store {
    /// Notes that a name which is about to be given, or of which something is about to be made, goes when this process
    /// does. Answers whether it is ours to take back: not if the name is there already, or another process's.
    ///
    /// # Errors
    /// The database refused.
    pub fn lend_name(&self, name: &str) -> Result<bool, StateError> {
        // Durable: the name will be.
        self.db().write(Durability::Full, |transaction| {
            let owner = transaction
                .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
                .query_row([key(name)], |row| row.get::<_, String>(0))
                .optional()?;
            if let Some(owner) = owner {
                return Ok(owner == self.process().to_string());
            }
            if transaction.prepare_cached("SELECT 1 FROM image_names WHERE name = ?1")?.exists([name])? {
                return Ok(false);
            }
            transaction
                .prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2)")?
                .execute(params![key(name), self.process().to_string()])?;
            Ok(true)
        })
    }

    /// The name stays whoever lent it.
    ///
    /// # Errors
    /// The database refused.
    pub fn keep_name(&self, name: &str) -> Result<(), StateError> {
        self.db().write(Durability::Full, |transaction| {
            transaction.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key(name)])?;
            Ok(())
        })
    }

    /// Takes back those of these names that are still lent to this process. What they kept is garbage then.
    ///
    /// # Errors
    /// The database refused.
    pub fn take_back_names<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), StateError> {
        let names: Vec<&str> = names.into_iter().collect();
        self.write_with_reserve(Durability::Full, |transaction| {
            for name in &names {
                let ours = transaction
                    .prepare_cached("DELETE FROM meta WHERE key = ?1 AND value = ?2")?
                    .execute(params![key(name), self.process().to_string()])?;
                if ours > 0 {
                    transaction.prepare_cached("DELETE FROM image_names WHERE name = ?1")?.execute([name])?;
                }
            }
            Ok(())
        })
    }
}

/// Names lent to processes that have ended.
pub(crate) fn of_the_dead(
    connection: &Connection,
    liveness: &mut Liveness,
) -> Result<Vec<String>, StateError> {
    let mut statement =
        connection.prepare_cached("SELECT substr(key, 6), value FROM meta WHERE substr(key, 1, 5) = ?1")?;
    let mut rows = statement.query([KEY])?;
    let mut dead = Vec::new();
    while let Some(row) = rows.next()? {
        // A later release may write it otherwise: not ours to judge.
        let Ok(process) = row.get::<_, String>(1)?.parse::<ProcessId>() else { continue };
        if !liveness.is_alive(&process)? {
            dead.push(row.get(0)?);
        }
    }
    Ok(dead)
}

/// Takes back what processes that have ended were lent; answers how many names.
pub(crate) fn take_from_the_dead(
    transaction: &Transaction<'_>,
    liveness: &mut Liveness,
) -> Result<usize, StateError> {
    let dead = of_the_dead(transaction, liveness)?;
    for name in &dead {
        transaction.prepare_cached("DELETE FROM image_names WHERE name = ?1")?.execute([name])?;
        transaction.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key(name)])?;
    }
    Ok(dead.len())
}
