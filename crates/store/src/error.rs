//! What can go wrong with durable state: the database and the files beside it.
//!
//! Operations with failures of their own have their own error type and carry a [`StateError`] for the rest.

use std::io;
use std::path::{Path, PathBuf};

use plywood_kernel::SyscallError;
use rusqlite::ErrorCode;
use rustix::io::Errno;

/// The classes of failure a caller handles differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Held by another process for longer than we wait.
    Busy,
    /// Held by another process when somebody asked us to stop.
    Interrupted,
    /// No such file or row.
    Missing,
    /// No permission.
    Denied,
    /// A file system, or a file, that cannot be written to.
    ReadOnly,
    /// Disk, inodes, quota, memory or descriptors used up.
    Exhausted,
    /// The database or a row of it makes no sense.
    Damaged,
    /// Everything else.
    Failed,
}

/// The state root, or the kernel below it, refused.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A file or directory of the state root.
    #[error(transparent)]
    File(#[from] FileError),
    /// A system call made for us by the kernel crate.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

impl StateError {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            StateError::Db(error) => error.kind(),
            StateError::File(error) => error.kind(),
            StateError::Syscall(error) => kind_of(error.errno()),
        }
    }
}

impl StateError {
    /// Whether there is no space left, or no quota.
    pub fn is_disk_full(&self) -> bool {
        let full = |errno| matches!(errno, Errno::NOSPC | Errno::DQUOT);
        match self {
            StateError::Db(error) => error.is_disk_full(),
            StateError::File(error) => Errno::from_io_error(&error.source).is_some_and(full),
            StateError::Syscall(error) => full(error.errno()),
        }
    }
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        StateError::Db(DbError(error))
    }
}

/// SQLite refused, or a row could not be understood.
#[derive(Debug, thiserror::Error)]
#[error("state database: {}", advice(.0))]
pub struct DbError(#[source] rusqlite::Error);

impl DbError {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        kind_of_database(&self.0)
    }
}

fn kind_of_database(error: &rusqlite::Error) -> Kind {
    match error {
        rusqlite::Error::QueryReturnedNoRows => Kind::Missing,
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => Kind::Damaged,
        error => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
            Some(ErrorCode::OperationInterrupted) => Kind::Interrupted,
            Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory) => Kind::Exhausted,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Damaged,
            Some(ErrorCode::ReadOnly) => Kind::ReadOnly,
            Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Kind::Denied,
            _ => Kind::Failed,
        },
    }
}

impl DbError {
    /// Whether there is no space left, or no quota.
    pub fn is_disk_full(&self) -> bool {
        // The index of the log is a file of its own; what cannot be made larger for lack of space has another code.
        let index = self.0.sqlite_error().map(|error| error.extended_code);
        self.0.sqlite_error_code() == Some(ErrorCode::DiskFull)
            || index == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
    }
}

/// The class of an error among the causes of another, if it is the database's. Wrappers that speak for what they wrap are
/// not among the causes; what SQLite said always is.
pub fn database_kind(cause: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    cause.downcast_ref().map(kind_of_database)
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        DbError(error)
    }
}

fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has held it for too long; try again when it is done"
        }
        Some(ErrorCode::OperationInterrupted) => "stopped while another process held it",
        Some(ErrorCode::DiskFull) => "the file system is full; free some space or run `plywood prune`",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "plywood.db is damaged",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => "cannot be opened for writing",
        _ => "refused",
    }
}

/// A system call on a file of the state root failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}({path:?})")]
pub struct FileError {
    call: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(call: &'static str, path: impl AsRef<Path>, errno: Errno) -> FileError {
        FileError { call, path: path.as_ref().to_owned(), source: errno.into() }
    }

    pub(crate) fn from_io(call: &'static str, path: impl AsRef<Path>, source: io::Error) -> FileError {
        FileError { call, path: path.as_ref().to_owned(), source }
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        Errno::from_io_error(&self.source).map_or(Kind::Failed, kind_of)
    }

    /// The file, relative to the state root where it lies inside.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn kind_of(errno: Errno) -> Kind {
    match errno {
        Errno::NOENT => Kind::Missing,
        Errno::BUSY | Errno::TXTBSY | Errno::AGAIN => Kind::Busy,
        Errno::PERM | Errno::ACCESS => Kind::Denied,
        Errno::ROFS => Kind::ReadOnly,
        Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM => Kind::Exhausted,
        Errno::UCLEAN => Kind::Damaged,
        _ => Kind::Failed,
    }
}

/// Names the call and the file of a failed system call.
pub(crate) trait OnFile<T> {
    fn on_file(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, FileError>;
}

impl<T> OnFile<T> for rustix::io::Result<T> {
    fn on_file(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, FileError> {
        self.map_err(|errno| FileError::new(call, path, errno))
    }
}

impl<T> OnFile<T> for io::Result<T> {
    fn on_file(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, FileError> {
        self.map_err(|source| FileError::from_io(call, path, source))
    }
}
