//! The database: one SQLite file in WAL mode, opened by many processes at once.
//!
//! Writers take the write lock when they begin (`BEGIN IMMEDIATE`), so that two of them wait instead of failing
//! half-way. A commit is [`Durability::Full`] where losing it to a power cut would contradict what is on disk,
//! else [`Durability::Fast`]: in WAL mode such a commit is atomic and survives the death of the process, but the
//! last ones may be missing after a power cut. The schema is migrated step by step (`db/schema.rs`); a database of a
//! newer plywood is refused.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi};

use crate::error::DbError;

mod schema;
mod wait;

use wait::Wait;

/// How long a writer waits for other processes before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Marks the file as ours: "plyw".
const APPLICATION_ID: i64 = 0x706c_7977;

/// Whether a committed transaction must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives the process.
    Fast,
    /// On the disk, with everything committed before it, when the commit returns.
    Full,
}

/// One connection, used by one thread at a time.
#[derive(Debug)]
pub struct Db {
    connection: Mutex<Connection>,
    /// Somebody did not want to wait any longer for other processes.
    given_up: Arc<AtomicBool>,
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDbError {
    /// Written by a later release.
    #[error("{path:?} has schema version {found}, this plywood knows up to {known}; use the newer plywood")]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another program's database.
    #[error("{0:?} is not a plywood database")]
    Foreign(PathBuf),
    /// SQLite refused.
    #[error("cannot open {path:?}")]
    Db {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: DbError,
    },
}

impl Db {
    /// Opens or makes the database at `path` and brings its schema up to date. Other processes that hold it are waited
    /// for, here and later, until `cancel` is set.
    ///
    /// # Errors
    /// [`OpenDbError`]
    pub fn open(path: &Path, cancel: Arc<AtomicBool>) -> Result<Db, OpenDbError> {
        let failed = |error: rusqlite::Error| OpenDbError::Db { path: path.to_owned(), source: error.into() };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        let mut wait = Wait::new(path, cancel);
        let given_up = wait.given_up();
        enter_wal(&connection, &mut wait).map_err(failed)?;
        connection.busy_handler(Some(move |tries| wait.again(tries))).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection
            .execute_batch(
                "PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;",
            )
            .map_err(failed)?;
        // The last process to close would write the log back, with two syncs: 100 short commands in a row pay
        // for that, and the log is bounded by the automatic checkpoint anyway.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        schema::migrate(&mut connection, path, &given_up)?;
        Ok(Db { connection: Mutex::new(connection), given_up })
    }

    /// Runs `f` on the committed state.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn read<T, E>(&self, f: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<rusqlite::Error>,
    {
        let mut connection = self.lock();
        // One snapshot for all the queries of `f`.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        f(&transaction)
    }

    /// Runs `f` as the only writer among all processes; what it did is committed if it succeeds, undone if not.
    ///
    /// # Errors
    /// Those of `f`, or of beginning and committing.
    pub fn write<T, E>(
        &self,
        durability: Durability,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<rusqlite::Error>,
    {
        let mut connection = self.lock();
        // Has effect outside transactions only. With FULL the log is synced at commit, including what earlier
        // commits, of any process, left in it unsynced.
        if durability == Durability::Full {
            connection.execute_batch("PRAGMA synchronous = FULL")?;
        }
        let result = transact(&mut connection, &self.given_up, f);
        if durability == Durability::Full {
            connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in `f` dropped its transaction, which rolled back: the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn transact<T, E: From<rusqlite::Error>>(
    connection: &mut Connection,
    given_up: &AtomicBool,
    f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let transaction = begin(connection, given_up)?;
    let value = f(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

/// Begins as the only writer. Here others are waited for; a commit never waits.
fn begin<'a>(connection: &'a mut Connection, given_up: &AtomicBool) -> rusqlite::Result<Transaction<'a>> {
    match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => {
            given_up.store(false, Ordering::Relaxed);
            Ok(transaction)
        }
        Err(error) => Err(interrupted(error, given_up)),
    }
}

/// That a database is busy, as whoever gave up means it.
fn interrupted(error: rusqlite::Error, given_up: &AtomicBool) -> rusqlite::Error {
    if is_busy(&error) && given_up.load(Ordering::Relaxed) {
        return rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None);
    }
    error
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Switching to WAL needs the file exclusively for a moment and does not go through the busy handler, so
/// processes that make the database together must retry by hand.
fn enter_wal(connection: &Connection, wait: &mut Wait) -> rusqlite::Result<()> {
    for tries in 0.. {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(_) => break,
            Err(error) if is_busy(&error) && wait.again(tries) => {}
            Err(error) => return Err(interrupted(error, &wait.given_up())),
        }
    }
    Ok(())
}

/// A column that holds the text form of `T`.
pub(crate) fn parsed<T>(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let index = row.as_ref().column_index(column)?;
    row.get_ref(index)?.as_str()?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// A size or count. SQLite's integers are signed.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let index = row.as_ref().column_index(column)?;
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// The other way; beyond 2^63 it saturates, which no file size reaches.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
