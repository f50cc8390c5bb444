//! The containers of one run in the store: ids, records, ranges, snapshots; made together, taken back together.

use std::convert::Infallible;
use std::path::PathBuf;

use anyhow::Context as _;
use plywood_engine::idrange::{IdLease, MachineIds};
use plywood_engine::runtime::Runtime;
use plywood_kernel::IdMap;
use plywood_store::{ContainerId, Image, NewContainer, NewLease, NewSnapshot, Snapshot, StateError, Store};

use super::assembly::Assembly;
use super::janitor::{self, Janitor};
use super::launch::Outcome;
use super::program::Program;
use super::settings::Settings;
use crate::context::Context;

/// One container before its launch.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its id.
    pub id: ContainerId,
    /// Its host ids.
    pub lease: IdLease,
    /// Its writable directories, recorded and not yet there.
    pub snapshot: Snapshot,
    /// How to make them.
    new_snapshot: NewSnapshot,
    /// Its bundle.
    pub bundle: PathBuf,
}

impl Member {
    /// The mapping of its user namespace.
    pub fn map(&self) -> IdMap {
        self.lease.idmap()
    }

    /// Makes its writable directories.
    pub fn make_snapshot(&self, store: &Store) -> Result<(), StateError> {
        store.make_snapshot(self.snapshot.id, &self.new_snapshot)
    }

    /// Where its output goes when nobody waits for it.
    pub fn log(&self) -> PathBuf {
        crate::commands::containers::log_path(&self.snapshot)
    }
}

/// All containers of one run.
#[derive(Debug)]
pub struct Crew {
    store: Store,
    directories: plywood_engine::launch::RunDirectories,
    /// In the order of launching.
    pub members: Vec<Member>,
    /// They stay when they end.
    pub keep: bool,
    /// The mechanism of all of them.
    pub mechanism: &'static str,
    /// The lower source of all of them.
    pub lower: &'static str,
    /// Their ids, as the other state roots of this machine see them; given back with the crew.
    machine_ids: MachineIds,
}

impl Crew {
    /// Records the containers and gives each a range and a snapshot: all or nothing. What takes longer than a line in
    /// the database is left to the launches, which have more than one thread.
    pub fn muster(
        context: &Context,
        store: &Store,
        image: &Image,
        settings: &Settings,
        program: &Program,
        assembly: &Assembly,
        runtime: &Runtime,
    ) -> anyhow::Result<Self> {
        let directories = context.directories();
        directories.create()?;
        let machine_ids = MachineIds::open(&directories.ids())?;
        let ids = (0..settings.count)
            .map(|_| ContainerId::random())
            .collect::<Result<Vec<_>, _>>()
            .context("choosing container ids")?;
        let mut crew = Self {
            store: store.clone(),
            directories,
            members: Vec::new(),
            keep: settings.detached,
            mechanism: assembly.mechanism().name(),
            lower: assembly.lower().name(),
            machine_ids,
        };
        let records: Vec<NewContainer> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| NewContainer {
                id: id.clone(),
                name: name(settings, index),
                image: image.manifest_digest,
                image_name: settings.image.clone(),
                command: program.argv.clone(),
                bundle: crew.directories.bundle(id.as_str()),
                mechanism: crew.mechanism.to_owned(),
                lower: crew.lower.to_owned(),
                runtime: runtime.path().to_string_lossy().into_owned(),
                auto_remove: !settings.detached,
            })
            .collect();
        store.create_containers(&records)?;
        if let Err(error) = crew.provide(context, &ids, assembly) {
            if let Err(also) = store.remove_containers(&ids) {
                tracing::error!(error = &also as &dyn std::error::Error, "taking the containers back");
            }
            return Err(error);
        }
        Ok(crew)
    }

    fn provide(&mut self, context: &Context, ids: &[ContainerId], assembly: &Assembly) -> anyhow::Result<()> {
        // Others of this machine are waited for before the database is locked, which would make this state root wait.
        let door = self.machine_ids.enter(&|| context.cancel.requested())?;
        let live = self.store.leases()?;
        let live = live.iter().map(|lease| IdLease { uid: lease.uid, gid: lease.gid }).collect();
        let chosen = door.choose(&assembly.ids, live, ids.len())?;
        let new = |(lease, id): (IdLease, &ContainerId)| NewLease {
            uid: lease.uid,
            gid: lease.gid,
            container: Some(id.clone()),
        };
        let chosen = chosen.into_iter().zip(ids).map(new).collect();
        let leases = self.store.lease_ranges(|_| Ok::<_, Infallible>(chosen))?;
        let root = rustix::fs::stat(assembly.topmost()).context("looking at the image's root directory")?;
        let unshifted = assembly.mechanism().unshifted_upper();
        let new: Vec<NewSnapshot> = leases
            .iter()
            .zip(ids)
            .map(|(lease, id)| {
                let map = IdMap::from_ranges(lease.uid, lease.gid);
                let shift =
                    |mapped: Option<u32>, plain: u32| if unshifted { plain } else { mapped.unwrap_or(plain) };
                NewSnapshot {
                    container: Some(id.clone()),
                    uid: shift(map.to_host_uid(root.st_uid), root.st_uid),
                    gid: shift(map.to_host_gid(root.st_gid), root.st_gid),
                    mode: root.st_mode & 0o7777,
                    unshifted,
                }
            })
            .collect();
        let snapshots = self.store.record_snapshots(&new)?.into_iter().zip(new);
        let members = ids.iter().zip(leases).zip(snapshots).map(|((id, lease), (snapshot, new))| Member {
            bundle: self.directories.bundle(id.as_str()),
            id: id.clone(),
            lease: IdLease { uid: lease.uid, gid: lease.gid },
            snapshot,
            new_snapshot: new,
        });
        self.members = members.collect();
        Ok(())
    }

    /// The store the records are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// After the run: what ended goes, unless it is kept for `ps`, `logs` and `rm`; what never started, or was given up
    /// before its caller was told of it, goes anyway.
    pub fn settle(&self, outcome: &Outcome) -> anyhow::Result<()> {
        let keep = self.keep && !outcome.given_up;
        let gone = |member: &&Member| {
            let id = member.id.as_str();
            (!keep || outcome.failed.contains_key(id)) && !outcome.removed.contains(&member.id)
        };
        self.remove(self.members.iter().filter(gone))
    }

    /// Takes everything back.
    pub fn disband(&self) -> anyhow::Result<()> {
        self.remove(self.members.iter())
    }

    fn remove<'a>(&self, members: impl Iterator<Item = &'a Member>) -> anyhow::Result<()> {
        let ids: Vec<ContainerId> = members.map(|member| member.id.clone()).collect();
        janitor::remove(&self.store, &self.directories, &ids)
    }

    /// Removes containers of this crew as they end.
    pub fn janitor(&self) -> Janitor {
        Janitor::start(self.store.clone(), self.directories.clone())
    }
}

fn name(settings: &Settings, index: usize) -> Option<String> {
    let name = settings.name.as_ref()?;
    Some(if settings.count == 1 { name.clone() } else { format!("{name}-{index}") })
}
