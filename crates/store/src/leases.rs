//! Leases of host id ranges.
//!
//! Which range to take is the engine's decision; that no two live ones overlap is enforced here, by a trigger of
//! the database itself, whoever writes. A lease lives while its owner process or its container does.

use plywood_kernel::IdRange;
use rusqlite::{Connection, ErrorCode, Row, Transaction, params};

use crate::Store;
use crate::containers::ContainerId;
use crate::db::{Durability, parsed};
use crate::error::StateError;

/// Number of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub(crate) i64);

/// A lease that exists, as an allocator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveLease {
    /// Host user ids.
    pub uid: IdRange,
    /// Host group ids.
    pub gid: IdRange,
}

/// A lease to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// Host user ids; not empty.
    pub uid: IdRange,
    /// Host group ids; not empty.
    pub gid: IdRange,
    /// The recorded container it is for, if there is one yet.
    pub container: Option<ContainerId>,
}

/// A lease that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Host user ids.
    pub uid: IdRange,
    /// Host group ids.
    pub gid: IdRange,
    /// The container it is for.
    pub container: Option<ContainerId>,
}

/// Why nothing was leased; `E` is the allocator's error.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError<E: std::error::Error + 'static> {
    /// The allocator found nothing.
    #[error(transparent)]
    Allocate(E),
    /// The allocator chose a range of somebody else, or an empty one.
    #[error("cannot lease user ids {uid} and group ids {gid}: empty, or shared with a live lease")]
    Overlap {
        /// The user ids chosen.
        uid: IdRange,
        /// The group ids chosen.
        gid: IdRange,
    },
    /// The database refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl<E: std::error::Error> From<rusqlite::Error> for LeaseError<E> {
    fn from(error: rusqlite::Error) -> Self {
        LeaseError::State(error.into())
    }
}

impl Store {
    /// Shows `allocate` all live leases and takes those it answers, as one step among all processes: all or none.
    ///
    /// # Errors
    /// [`LeaseError`]
    pub fn lease_ranges<E: std::error::Error>(
        &self,
        allocate: impl FnOnce(&[LiveLease]) -> Result<Vec<NewLease>, E>,
    ) -> Result<Vec<Lease>, LeaseError<E>> {
        self.db().write(Durability::Fast, |transaction| {
            let live = live(transaction)?;
            let chosen = allocate(&live).map_err(LeaseError::Allocate)?;
            let owner = self.register(transaction)?;
            chosen.into_iter().map(|new| take(transaction, owner, new)).collect()
        })
    }

    /// All live leases, by user id.
    ///
    /// # Errors
    /// The database refused.
    pub fn leases(&self) -> Result<Vec<Lease>, StateError> {
        self.db().read(|connection| {
            Ok(connection
                .prepare_cached("SELECT * FROM leases ORDER BY uid_start")?
                .query_map([], from_row)?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Gives ranges back. Those that are gone already are fine.
    ///
    /// # Errors
    /// The database refused.
    pub fn release_leases(&self, leases: &[LeaseId]) -> Result<(), StateError> {
        self.db().write(Durability::Fast, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM leases WHERE id = ?1")?;
            for lease in leases {
                delete.execute([lease.0])?;
            }
            Ok(())
        })
    }
}

fn live(connection: &Connection) -> rusqlite::Result<Vec<LiveLease>> {
    connection
        .prepare_cached("SELECT * FROM leases ORDER BY uid_start")?
        .query_map([], |row| Ok(LiveLease { uid: range(row, "uid")?, gid: range(row, "gid")? }))?
        .collect()
}

fn take<E: std::error::Error>(
    transaction: &Transaction<'_>,
    owner: i64,
    new: NewLease,
) -> Result<Lease, LeaseError<E>> {
    let NewLease { uid, gid, container } = new;
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO leases (uid_start, uid_length, gid_start, gid_length, owner, container)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            uid.start,
            uid.length,
            gid.start,
            gid.length,
            owner,
            container.as_ref().map(ContainerId::as_str)
        ]);
    match inserted {
        Ok(_) => Ok(Lease { id: LeaseId(transaction.last_insert_rowid()), uid, gid, container }),
        // An unknown container is a constraint too, but not of the range.
        Err(rusqlite::Error::SqliteFailure(failure, message))
            if failure.code == ErrorCode::ConstraintViolation
                && failure.extended_code != rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY =>
        {
            tracing::debug!(?message, "lease refused");
            Err(LeaseError::Overlap { uid, gid })
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let container = match row.get::<_, Option<String>>("container")? {
        Some(_) => Some(parsed(row, "container")?),
        None => None,
    };
    Ok(Lease { id: LeaseId(row.get("id")?), uid: range(row, "uid")?, gid: range(row, "gid")?, container })
}

fn range(row: &Row<'_>, which: &str) -> rusqlite::Result<IdRange> {
    Ok(IdRange {
        start: row.get(format!("{which}_start").as_str())?,
        length: row.get(format!("{which}_length").as_str())?,
    })
}
