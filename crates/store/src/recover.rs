//! Recovery: taking away what dead processes and power cuts left.
//!
//! Run by every [`Store::open`]. When there is nothing to do it costs a few queries, one look at `/proc` for each
//! owner, and the listing of the root and of two empty directories.
//!
//! 1. What a dead process owned: staged layers and half flat trees are doomed, pins released, leases and snapshots
//!    without a container taken back. Containers whose processes are all dead become exited; what they have goes
//!    when they are removed. Image names lent to the dead are taken away, and then what only those kept is garbage.
//! 2. What is doomed and no living process is removing is moved to the trash, removed, and then loses its row.
//! 3. What dead processes left in the trash is removed.
//! 4. What killed launches left in `scratch/`, mounts included, is unmounted and removed.
//! 5. Once after each boot, because the last fast commits before a power cut may be lost: directories without a
//!    row are removed, finished flat trees without a directory lose their row.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use plywood_kernel::ProcessId;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::db::{Durability, now_ms, parsed};
use crate::error::StateError;
use crate::snapshots::SnapshotId;
use crate::{Store, dirs, lent, scratch, trash};

/// What was mended. All zero as a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Dead processes that still owned something.
    pub owners: usize,
    /// Containers found dead.
    pub containers: usize,
    /// Names lent to dead processes.
    pub names: usize,
    /// Id ranges taken back.
    pub leases: usize,
    /// Snapshots removed.
    pub snapshots: usize,
    /// Half or collected layers removed.
    pub layers: usize,
    /// Half or collected flat trees removed.
    pub flats: usize,
    /// Left in the trash.
    pub trash: usize,
    /// Left by killed launches.
    pub scratch: usize,
    /// Directories without a row, rows without a directory.
    pub strays: usize,
    /// What could not be removed now, for instance because something is mounted inside. Logged; tried again when
    /// this process has ended.
    pub stuck: usize,
}

/// What the first look found to do. Only whether, not whom: others recover at the same time, so who is dead is asked
/// again in the transaction that acts on it.
#[derive(Default)]
struct Findings {
    owners: bool,
    containers: bool,
    names: bool,
    orphan_leases: bool,
    orphan_snapshots: bool,
    doomed: bool,
    new_boot: bool,
}

impl Store {
    /// Mends what interrupted processes left. [`Store::open`] does this; a process that runs for long may repeat
    /// it.
    ///
    /// # Errors
    /// The database or the file system refused.
    pub fn recover(&self) -> Result<Recovered, StateError> {
        let mut recovered = Recovered::default();
        let mut liveness = Liveness::default();
        let findings = self.look(&mut liveness)?;
        if findings.names {
            recovered.names = self.db().write(Durability::Full, |transaction| {
                lent::take_from_the_dead(transaction, &mut liveness)
            })?;
        }
        if findings.owners || findings.containers || findings.orphan_leases || findings.orphan_snapshots {
            for orphan in self.take_from_the_dead(&mut liveness, &mut recovered)? {
                let removed = self.remove_snapshots(&[orphan]);
                recovered.snapshots += recovered.unless_stuck(removed)?;
            }
        }
        if findings.doomed || findings.owners {
            self.adopt_doomed()?;
            self.finish_doomed(&mut recovered)?;
        }
        for name in trash::left_by_the_dead(self)? {
            let removed = trash::remove(self, &name);
            recovered.trash += recovered.unless_stuck(removed)?;
        }
        let left = scratch::left_by_the_dead(self, &mut liveness)?;
        for removed in scratch::remove(self, &left)? {
            recovered.scratch += recovered.unless_stuck(removed)?;
        }
        if findings.new_boot {
            self.remove_strays(&mut recovered)?;
        }
        Ok(recovered)
    }

    fn look(&self, liveness: &mut Liveness) -> Result<Findings, StateError> {
        let mut findings = Findings::default();
        self.db().read(|connection| {
            findings.owners = !dead_owners(connection, liveness)?.is_empty();
            findings.containers = !dead_containers(connection, liveness)?.is_empty();
            findings.names = !lent::of_the_dead(connection, liveness)?.is_empty();
            findings.orphan_leases =
                exists(connection, &format!("SELECT 1 FROM leases WHERE {ORPHAN_LEASE}"))?;
            findings.orphan_snapshots =
                exists(connection, "SELECT 1 FROM snapshots WHERE owner IS NULL AND container IS NULL")?;
            findings.doomed = exists(
                connection,
                "SELECT 1 FROM layers WHERE state = 'doomed' AND owner IS NULL UNION ALL
                 SELECT 1 FROM flats WHERE state = 'doomed' AND owner IS NULL",
            )?;
            findings.new_boot = connection
                .prepare_cached("SELECT value FROM meta WHERE key = 'boot'")?
                .query_row([], |row| row.get::<_, String>(0))
                .optional()?
                .is_none_or(|boot| boot != self.process().boot_id);
            Ok(findings)
        })
    }

    /// Returns the snapshots to remove; they are ours from here on.
    fn take_from_the_dead(
        &self,
        liveness: &mut Liveness,
        recovered: &mut Recovered,
    ) -> Result<Vec<SnapshotId>, StateError> {
        self.db().write(Durability::Fast, |transaction| {
            let owners = dead_owners(transaction, liveness)?;
            recovered.owners = owners.len();
            for container in dead_containers(transaction, liveness)? {
                recovered.containers += transaction
                    .prepare_cached(
                        "UPDATE containers SET state = 'exited', finished_ms = ?2
                         WHERE id = ?1 AND state <> 'exited'",
                    )?
                    .execute(params![container, now_ms()])?;
            }
            for owner in &owners {
                disown(transaction, *owner)?;
            }
            recovered.leases +=
                transaction.execute(&format!("DELETE FROM leases WHERE {ORPHAN_LEASE}"), [])?;
            for owner in &owners {
                transaction.prepare_cached("DELETE FROM owners WHERE id = ?1")?.execute([owner])?;
            }
            let us = self.register(transaction)?;
            Ok(transaction
                .prepare_cached(
                    "UPDATE snapshots SET owner = ?1 WHERE owner IS NULL AND container IS NULL RETURNING id",
                )?
                .query_map([us], |row| row.get(0).map(SnapshotId))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Doomed things that no living process is removing become ours.
    fn adopt_doomed(&self) -> Result<(), StateError> {
        self.db().write(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            for table in ["layers", "flats"] {
                transaction
                    .prepare_cached(&format!(
                        "UPDATE {table} SET owner = ?1 WHERE state = 'doomed' AND owner IS NULL"
                    ))?
                    .execute([owner])?;
            }
            Ok(())
        })
    }

    /// Removes the directories of doomed layers and flat trees of this process, then their rows.
    pub(crate) fn finish_doomed(&self, recovered: &mut Recovered) -> Result<(), StateError> {
        for (table, parent) in [("layers", self.root().layers()), ("flats", self.root().flat())] {
            let ids = self.db().read(|connection| {
                let ids = connection
                    .prepare_cached(&format!(
                        "SELECT {table}.id FROM {table} JOIN owners ON owners.id = {table}.owner
                         WHERE state = 'doomed' AND process = ?1"
                    ))?
                    .query_map([self.process().to_string()], |row| row.get::<_, i64>(0))?
                    .collect::<rusqlite::Result<Vec<_>>>()?;
                Ok::<_, StateError>(ids)
            })?;
            for id in ids {
                let removed = trash::discard(self, parent, &id.to_string());
                if recovered.unless_stuck(removed)? == 0 {
                    continue;
                }
                let removed = self.db().write(Durability::Fast, |transaction| {
                    Ok::<_, StateError>(
                        transaction
                            .prepare_cached(&format!(
                                "DELETE FROM {table} WHERE id = ?1 AND state = 'doomed'"
                            ))?
                            .execute([id])?,
                    )
                })?;
                match table {
                    "layers" => recovered.layers += removed,
                    _ => recovered.flats += removed,
                }
            }
        }
        Ok(())
    }

    fn remove_strays(&self, recovered: &mut Recovered) -> Result<(), StateError> {
        let mut aside = Vec::new();
        // As the only writer: a number whose row is not there now cannot get one while we look.
        let rows = self.db().write(Durability::Fast, |transaction| {
            for (table, parent) in [
                ("layers", self.root().layers()),
                ("flats", self.root().flat()),
                ("snapshots", self.root().snapshots()),
            ] {
                for name in without_row(transaction, table, parent)? {
                    aside.extend(trash::set_aside(self, parent, &name)?);
                }
            }
            let rows = flats_without_directory(transaction, self.root().flat())?;
            transaction
                .prepare_cached(
                    "INSERT INTO meta (key, value) VALUES ('boot', ?1)
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )?
                .execute([&self.process().boot_id])?;
            Ok::<_, StateError>(rows)
        })?;
        recovered.strays += rows;
        for name in &aside {
            let removed = trash::remove(self, name);
            recovered.strays += recovered.unless_stuck(removed)?;
        }
        Ok(())
    }
}

impl Recovered {
    /// 1 for what was removed. What the file system will not give up must not keep every command from working.
    fn unless_stuck(&mut self, removed: Result<(), StateError>) -> Result<usize, StateError> {
        match removed {
            Ok(()) => Ok(1),
            Err(error @ StateError::Db(_)) => Err(error),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "left where it is");
                self.stuck += 1;
                Ok(0)
            }
        }
    }
}

/// Held by no process and no container. A dead container keeps its range: a runtime that outlived whoever started it
/// may be starting the container at this moment, and only who removes the container makes sure of its end.
const ORPHAN_LEASE: &str = "owner IS NULL AND container IS NULL";

fn disown(transaction: &Transaction<'_>, owner: i64) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM pin_groups WHERE owner = ?1",
        "UPDATE layers SET state = 'doomed', owner = NULL WHERE owner = ?1",
        "UPDATE flats SET state = 'doomed', owner = NULL WHERE owner = ?1",
        "UPDATE leases SET owner = NULL WHERE owner = ?1",
        "UPDATE snapshots SET owner = NULL WHERE owner = ?1",
    ] {
        transaction.prepare_cached(sql)?.execute([owner])?;
    }
    Ok(())
}

fn dead_owners(connection: &Connection, liveness: &mut Liveness) -> Result<Vec<i64>, StateError> {
    let mut dead = Vec::new();
    let mut statement = connection.prepare_cached("SELECT id, process FROM owners")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !liveness.is_alive(&parsed(row, "process")?)? {
            dead.push(row.get("id")?);
        }
    }
    Ok(dead)
}

/// Containers said to live, of which neither the process nor the supervisor does.
fn dead_containers(connection: &Connection, liveness: &mut Liveness) -> Result<Vec<String>, StateError> {
    let mut dead = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT id, supervisor, process FROM containers WHERE state IN ('created', 'running')",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if liveness.is_alive(&parsed(row, "supervisor")?)? {
            continue;
        }
        let alive = match row.get::<_, Option<String>>("process")? {
            Some(_) => liveness.is_alive(&parsed(row, "process")?)?,
            None => false,
        };
        if !alive {
            dead.push(row.get("id")?);
        }
    }
    Ok(dead)
}

/// Asks the kernel once for each process: a supervisor may have a thousand containers. The dead stay dead, so an
/// answer that has become old takes nothing from the living.
#[derive(Default)]
pub(crate) struct Liveness(HashMap<ProcessId, bool>);

impl Liveness {
    pub(crate) fn is_alive(&mut self, process: &ProcessId) -> Result<bool, StateError> {
        if let Some(alive) = self.0.get(process) {
            return Ok(*alive);
        }
        let alive = process.is_alive()?;
        self.0.insert(process.clone(), alive);
        Ok(alive)
    }
}

fn exists(connection: &Connection, sql: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached(sql)?.exists([])
}

fn without_row(
    transaction: &Transaction<'_>,
    table: &str,
    parent: BorrowedFd<'_>,
) -> Result<Vec<String>, StateError> {
    let mut statement = transaction.prepare_cached(&format!("SELECT 1 FROM {table} WHERE id = ?1"))?;
    let mut strays = Vec::new();
    for name in dirs::names(parent, table)? {
        let name = name.to_string_lossy().into_owned();
        let known = match name.parse::<i64>() {
            Ok(id) => statement.exists([id])?,
            Err(_) => false,
        };
        if !known {
            strays.push(name);
        }
    }
    Ok(strays)
}

fn flats_without_directory(transaction: &Transaction<'_>, flat: BorrowedFd<'_>) -> Result<usize, StateError> {
    let present: Vec<String> =
        dirs::names(flat, "flat")?.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let ready = transaction
        .prepare_cached("SELECT id FROM flats WHERE state = 'ready'")?
        .query_map([], |row| row.get::<_, i64>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for id in ready {
        if !present.contains(&id.to_string()) {
            removed += transaction.execute("DELETE FROM flats WHERE id = ?1", [id])?;
        }
    }
    Ok(removed)
}
