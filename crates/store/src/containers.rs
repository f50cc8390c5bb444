//! Containers as the commands see them: what `ps`, `stop`, `exec`, `logs` and `rm` need to know.
//!
//! ```text
//! create_containers      containers_started         container_exited, or both processes found dead
//!   └─> created ───────────> running ───────────────────────────> exited ── remove_containers ──> gone
//!          └───────────────────────────────────────────────────────^
//! ```
//! A container is alive while its process or its supervisor (the process that waits for it) is. Nothing here is
//! durable: no container survives a power cut.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use plywood_image::Digest;
use plywood_kernel::ProcessId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::Store;
use crate::db::{Durability, now_ms, parsed};
use crate::error::StateError;
use crate::leases::{self, Lease};
use crate::snapshots::SnapshotId;

mod id;

pub use id::{ContainerId, ContainerIdError};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Recorded; its process does not run yet.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
}

impl ContainerState {
    /// `created`, `running` or `exited`.
    pub fn as_str(self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no state.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no container state")]
pub struct ContainerStateError(String);

impl FromStr for ContainerState {
    type Err = ContainerStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [ContainerState::Created, ContainerState::Running, ContainerState::Exited]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| ContainerStateError(text.to_owned()))
    }
}

/// A container to record. Its supervisor is the recording process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewContainer {
    /// Its id, fresh.
    pub id: ContainerId,
    /// A name for people, unique.
    pub name: Option<String>,
    /// Manifest digest of its image.
    pub image: Digest,
    /// What the user called the image.
    pub image_name: String,
    /// What it runs.
    pub command: Vec<String>,
    /// Its OCI bundle.
    pub bundle: PathBuf,
    /// How its root file system is assembled.
    pub mechanism: String,
    /// `flat` or `layers`.
    pub lower: String,
    /// The OCI runtime that runs it: the program's absolute path.
    pub runtime: String,
    /// Whether it goes when its process ends.
    pub auto_remove: bool,
}

/// A recorded container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name for people.
    pub name: Option<String>,
    /// Manifest digest of its image.
    pub image: Digest,
    /// What the user called the image.
    pub image_name: String,
    /// What it runs.
    pub command: Vec<String>,
    /// Its OCI bundle.
    pub bundle: PathBuf,
    /// How its root file system is assembled.
    pub mechanism: String,
    /// `flat` or `layers`.
    pub lower: String,
    /// The OCI runtime that runs it: the program's absolute path.
    pub runtime: String,
    /// Whether it goes when its process ends.
    pub auto_remove: bool,
    /// Where it is in its life.
    pub state: ContainerState,
    /// The process that waits for it.
    pub supervisor: ProcessId,
    /// Its first process, once it ran.
    pub process: Option<ProcessId>,
    /// How that ended; None while it runs, and if nobody saw it end.
    pub exit_code: Option<i32>,
    /// How long the launch took, in milliseconds.
    pub launch_ms: Option<f64>,
    /// In milliseconds since the epoch, like the next two.
    pub created_ms: i64,
    /// When its process started.
    pub started_ms: Option<i64>,
    /// When its process was found to have ended.
    pub finished_ms: Option<i64>,
    /// Its id range, while it has one.
    pub lease: Option<Lease>,
}

/// What can go wrong with one container.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither a name nor an id nor a prefix of one.
    #[error("no container {0:?}; `plywood ps --all` lists what there is")]
    NotFound(String),
    /// A prefix of several.
    #[error("{prefix:?} could be any of {}; give more digits", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The containers it could be.
        candidates: Vec<String>,
    },
    /// Names are unique.
    #[error("there is a container named {0:?} already; remove it or choose another name")]
    NameTaken(String),
    /// The state refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for ContainerError {
    fn from(error: rusqlite::Error) -> Self {
        ContainerError::State(error.into())
    }
}

impl Store {
    /// Records containers, all or none, with this process as supervisor.
    ///
    /// # Errors
    /// A name is taken, the image is not recorded, or the database refused.
    pub fn create_containers(&self, new: &[NewContainer]) -> Result<(), ContainerError> {
        self.db().write(Durability::Fast, |transaction| {
            let supervisor = self.process().to_string();
            let now = now_ms();
            let mut insert = transaction.prepare_cached(
                "INSERT INTO containers (id, name, image, image_name, command, bundle, mechanism, lower,
                 runtime, auto_remove, state, supervisor, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'created', ?11, ?12)",
            )?;
            for new in new {
                if let Some(name) = &new.name
                    && by_name(transaction, name)?.is_some()
                {
                    return Err(ContainerError::NameTaken(name.clone()));
                }
                insert.execute(params![
                    new.id.as_str(),
                    new.name,
                    new.image.to_string(),
                    new.image_name,
                    serde_json::to_string(&new.command).map_err(to_sql_error)?,
                    new.bundle.to_string_lossy(),
                    new.mechanism,
                    new.lower,
                    new.runtime,
                    new.auto_remove,
                    supervisor,
                    now,
                ])?;
            }
            Ok(())
        })
    }

    /// Their processes run; their launches took so many milliseconds. One transaction for all; those that somebody has
    /// removed meanwhile are left out.
    ///
    /// # Errors
    /// The database refused.
    pub fn containers_started(&self, started: &[(ContainerId, ProcessId, f64)]) -> Result<(), StateError> {
        self.db().write(Durability::Fast, |transaction| {
            let mut update = transaction.prepare_cached(
                "UPDATE containers SET state = 'running', process = ?2, launch_ms = ?3, started_ms = ?4
                 WHERE id = ?1",
            )?;
            for (id, process, launch_ms) in started {
                update.execute(params![id.as_str(), process.to_string(), launch_ms, now_ms()])?;
            }
            Ok(())
        })
    }

    /// Their processes ended with these exit codes. One transaction for all; those that somebody has removed meanwhile
    /// are left out.
    ///
    /// # Errors
    /// The database refused.
    pub fn containers_exited(&self, exited: &[(ContainerId, i32)]) -> Result<(), StateError> {
        self.write_with_reserve(Durability::Fast, |transaction| {
            let mut update = transaction.prepare_cached(
                "UPDATE containers SET state = 'exited', exit_code = ?2, finished_ms = ?3 WHERE id = ?1",
            )?;
            for (id, exit_code) in exited {
                update.execute(params![id.as_str(), exit_code, now_ms()])?;
            }
            Ok(())
        })
    }

    /// Its process ended, or never started. The id range stays leased until it is released or the container
    /// removed.
    ///
    /// # Errors
    /// No such container, or the database refused.
    pub fn container_exited(&self, id: &ContainerId, exit_code: Option<i32>) -> Result<(), ContainerError> {
        self.update(
            id,
            "UPDATE containers SET state = 'exited', exit_code = ?2, finished_ms = ?3 WHERE id = ?1",
            params![id.as_str(), exit_code, now_ms()],
        )
    }

    fn update(
        &self,
        id: &ContainerId,
        sql: &str,
        params: impl rusqlite::Params + Clone,
    ) -> Result<(), ContainerError> {
        self.write_with_reserve(Durability::Fast, |transaction| {
            match transaction.prepare_cached(sql)?.execute(params.clone())? {
                0 => Err(ContainerError::NotFound(id.to_string())),
                _ => Ok(()),
            }
        })
    }

    /// All containers, oldest first.
    ///
    /// # Errors
    /// The database refused.
    pub fn containers(&self) -> Result<Vec<Container>, StateError> {
        self.db().read(|connection| {
            let mut containers = connection
                .prepare_cached("SELECT * FROM containers ORDER BY created_ms, rowid")?
                .query_map([], from_row)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            for container in &mut containers {
                container.lease = lease(connection, &container.id)?;
            }
            Ok(containers)
        })
    }

    /// The container with that name or id, or with at least one digit of an id that no other container shares.
    ///
    /// # Errors
    /// None, or several, or the database refused.
    pub fn find_container(&self, text: &str) -> Result<Container, ContainerError> {
        self.db().read(|connection| {
            let id = match by_name(connection, text)? {
                Some(id) => id,
                None => by_prefix(connection, text)?,
            };
            let mut container = connection
                .prepare_cached("SELECT * FROM containers WHERE id = ?1")?
                .query_row([id.as_str()], from_row)?;
            container.lease = lease(connection, &id)?;
            Ok(container)
        })
    }

    /// Forgets containers: their records and leases go, their snapshots are removed. The caller has ended their processes
    /// and taken down what the runtime made of them. Those that are gone already are fine. Two transactions for all.
    ///
    /// # Errors
    /// The database refused, or a snapshot cannot be removed: that is tried again when this process has ended. All are
    /// forgotten all the same.
    pub fn remove_containers(&self, ids: &[ContainerId]) -> Result<(), StateError> {
        if ids.is_empty() {
            return Ok(());
        }
        let snapshots = self.write_with_reserve(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            let mut disown = transaction.prepare_cached(
                "UPDATE snapshots SET container = NULL, owner = ?2 WHERE container = ?1 RETURNING id",
            )?;
            let mut release = transaction.prepare_cached("DELETE FROM leases WHERE container = ?1")?;
            let mut forget = transaction.prepare_cached("DELETE FROM containers WHERE id = ?1")?;
            let mut snapshots = Vec::new();
            for id in ids {
                for snapshot in disown.query_map(params![id.as_str(), owner], |row| row.get(0))? {
                    snapshots.push(SnapshotId(snapshot?));
                }
                release.execute([id.as_str()])?;
                forget.execute([id.as_str()])?;
            }
            Ok::<_, StateError>(snapshots)
        })?;
        self.with_reserve(|| self.discard_snapshots(&snapshots))
    }
}

fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Option<ContainerId>> {
    connection
        .prepare_cached("SELECT id FROM containers WHERE name = ?1")?
        .query_row([name], |row| parsed(row, "id"))
        .optional()
}

fn by_prefix(connection: &Connection, prefix: &str) -> Result<ContainerId, ContainerError> {
    let hex = prefix.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if prefix.is_empty() || !hex {
        return Err(ContainerError::NotFound(prefix.to_owned()));
    }
    let mut found = connection
        .prepare_cached("SELECT id FROM containers WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 4")?
        // `g` sorts after every hex digit.
        .query_map([prefix, &format!("{prefix}g")], |row| parsed::<ContainerId>(row, "id"))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(ContainerError::NotFound(prefix.to_owned())),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            let candidates = found.iter().map(|id| id.short().to_owned()).collect();
            Err(ContainerError::Ambiguous { prefix: prefix.to_owned(), candidates })
        }
    }
}

fn lease(connection: &Connection, id: &ContainerId) -> rusqlite::Result<Option<Lease>> {
    connection
        .prepare_cached("SELECT * FROM leases WHERE container = ?1 ORDER BY id LIMIT 1")?
        .query_row([id.as_str()], leases::from_row)
        .optional()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Container> {
    let process = match row.get::<_, Option<String>>("process")? {
        Some(_) => Some(parsed(row, "process")?),
        None => None,
    };
    let command: String = row.get("command")?;
    Ok(Container {
        id: parsed(row, "id")?,
        name: row.get("name")?,
        image: parsed(row, "image")?,
        image_name: row.get("image_name")?,
        command: serde_json::from_str(&command).map_err(from_sql_error)?,
        bundle: PathBuf::from(row.get::<_, String>("bundle")?),
        mechanism: row.get("mechanism")?,
        lower: row.get("lower")?,
        runtime: row.get("runtime")?,
        auto_remove: row.get("auto_remove")?,
        state: parsed(row, "state")?,
        supervisor: parsed(row, "supervisor")?,
        process,
        exit_code: row.get("exit_code")?,
        launch_ms: row.get("launch_ms")?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        finished_ms: row.get("finished_ms")?,
        lease: None,
    })
}

fn to_sql_error(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn from_sql_error(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}
