//! Which host ids are in use on this machine, whoever uses them.
//!
//! A state root knows its own leases. Those of other state roots are locks on one file in `/run/plywood` (user id *n*
//! is byte *n*, group id *n* is byte 2^32 + *n*), which the kernel gives back when their process ends; and ids that
//! living processes have mapped into a user namespace are seen in `/proc`: containers that outlived whoever started
//! them, and those of other programs, as far as they run already.
//!
//! Invariant: one process of the machine chooses at a time; what it has chosen is locked before the next one looks.

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use plywood_kernel::idmap::{IdMapping, IdRange};
use plywood_kernel::userns;
use plywood_kernel::{RangeLocks, SyscallError};

use super::{IdLease, IdPool, IdsInUse, NoFreeRange, allocate};

/// Offset of group id 0.
const GROUPS: u64 = 1 << 32;
/// The byte that whoever chooses has locked.
const DOOR: u64 = 1 << 33;
/// To choose takes milliseconds; whoever takes longer than this is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the door is tried. It is held shorter than this as a rule.
const KNOCK: Duration = Duration::from_millis(2);
/// More ids than that are no range given to a container, but a way to say "all".
const ALL: u32 = 1 << 31;

/// The register could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineIdsError {
    /// A call was refused.
    #[error("cannot tell which host ids are in use")]
    Call(#[from] SyscallError),
    /// Nothing is left.
    #[error(transparent)]
    NoFreeRange(#[from] NoFreeRange),
    /// A range is locked although nobody was said to have it: somebody does not keep to the door.
    #[error("host ids {0} were taken by another program at this moment; try again")]
    Taken(IdLease),
    /// Another process has been choosing all the time.
    #[error(
        "another plywood has been choosing host ids for {} s; it is stopped or stuck (`fuser -v` on {register} names it)",
        PATIENCE.as_secs()
    )]
    Busy {
        /// The register.
        register: String,
    },
    /// The register was removed: others may use a new one.
    #[error("{0} was removed while it was in use; try again when no container runs")]
    Removed(String),
    /// The caller gave up.
    #[error("stopped while waiting to choose host ids")]
    Cancelled,
}

/// What this process holds of the machine's ids. Dropping gives it back.
#[derive(Debug)]
pub struct MachineIds {
    locks: RangeLocks,
    register: String,
}

/// The right to choose, until it is used or dropped: others wait meanwhile.
///
/// Nothing else is waited for with it in hand, nor is it waited for with anything else in hand: whoever is stopped here
/// stops those alone who want to choose, and who wait for him here.
#[derive(Debug)]
pub struct Door<'a>(&'a MachineIds);

impl MachineIds {
    /// Opens the register, the same file for all of the machine; made if it is missing, in a directory that exists.
    ///
    /// # Errors
    /// The call, if refused.
    pub fn open(register: &Path) -> Result<Self, MachineIdsError> {
        Ok(Self { locks: RangeLocks::open(register)?, register: register.display().to_string() })
    }

    /// Waits for the turn to choose, until `give_up` says not to.
    ///
    /// # Errors
    /// [`MachineIdsError`]
    pub fn enter(&self, give_up: &dyn Fn() -> bool) -> Result<Door<'_>, MachineIdsError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.locks.try_lock(DOOR..DOOR + 1)? {
            if give_up() {
                return Err(MachineIdsError::Cancelled);
            }
            if Instant::now() >= deadline {
                return Err(MachineIdsError::Busy { register: self.register.clone() });
            }
            thread::sleep(KNOCK);
        }
        Ok(Door(self))
    }

    /// Ids that others have: holders of locks, and living processes in user namespaces.
    ///
    /// # Errors
    /// The call, if refused.
    pub fn in_use(&self) -> Result<IdsInUse, MachineIdsError> {
        let mut in_use = IdsInUse {
            uid: self.locks.held_by_others(0..GROUPS)?.into_iter().filter_map(|held| ids(&held, 0)).collect(),
            gid: self
                .locks
                .held_by_others(GROUPS..DOOR)?
                .into_iter()
                .filter_map(|held| ids(&held, GROUPS))
                .collect(),
        };
        for map in userns::maps_in_use()? {
            in_use.uid.extend(map.uid.iter().filter_map(given));
            in_use.gid.extend(map.gid.iter().filter_map(given));
        }
        Ok(in_use)
    }
}

impl Door<'_> {
    /// Chooses `count` ranges that are neither in `in_use` nor anybody's on this machine, and takes them for as long as
    /// the [`MachineIds`] live. What is in use must have been asked for with the door in hand: whoever chose before has
    /// his in the register by then, or in whatever the caller has read it from.
    ///
    /// # Errors
    /// [`MachineIdsError`]; what was taken before stays so until the drop.
    pub fn choose(
        self,
        pool: &IdPool,
        mut in_use: IdsInUse,
        count: usize,
    ) -> Result<Vec<IdLease>, MachineIdsError> {
        let MachineIds { locks, register } = self.0;
        if !locks.is_linked()? {
            return Err(MachineIdsError::Removed(register.clone()));
        }
        let IdsInUse { uid, gid } = self.0.in_use()?;
        in_use.uid.extend(uid);
        in_use.gid.extend(gid);
        let chosen = allocate(pool, &in_use, count)?;
        for lease in &chosen {
            for (ids, offset) in [(lease.uid, 0), (lease.gid, GROUPS)] {
                let start = offset + u64::from(ids.start);
                if !locks.try_lock(start..start + u64::from(ids.length))? {
                    return Err(MachineIdsError::Taken(*lease));
                }
            }
        }
        Ok(chosen)
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.locks.unlock(DOOR..DOOR + 1) {
            tracing::warn!(error = &error as &dyn std::error::Error, "others wait until this process ends");
        }
    }
}

fn ids(held: &Range<u64>, offset: u64) -> Option<IdRange> {
    let start = u32::try_from(held.start - offset).ok()?;
    let length = u32::try_from(held.end - held.start).unwrap_or(u32::MAX);
    Some(IdRange { start, length })
}

/// What a line of a map takes from the host. One that begins at the host's root, or maps half of all ids or more, gives
/// no range away: it lets a namespace use the host's own ids (`PrivateUsers=identity`), and would take all there are.
fn given(line: &IdMapping) -> Option<IdRange> {
    (line.outside > 0 && line.length < ALL).then_some(IdRange { start: line.outside, length: line.length })
}

#[cfg(test)]
mod tests {
    use super::super::EtcFiles;
    use super::*;

    const NOBODY: fn() -> bool = || false;

    /// Ten slots of a hundred ids.
    fn pool() -> IdPool {
        let entry = "plywood:5000000:1000\n".to_owned();
        let files = EtcFiles { subuid: entry.clone(), subgid: entry, ..EtcFiles::default() };
        IdPool::new(&files, 100).unwrap()
    }

    fn open(run: &tempfile::TempDir) -> MachineIds {
        MachineIds::open(&run.path().join("ids.lock")).unwrap()
    }

    #[test]
    fn what_one_takes_others_see_until_it_is_dropped() {
        let run = tempfile::tempdir().unwrap();
        let (one, two) = (open(&run), open(&run));
        let mine = one.enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 4).unwrap();
        let theirs = two.enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 6).unwrap();
        assert!(mine.iter().all(|lease| !theirs.contains(lease)), "{mine:?} {theirs:?}");
        let error = two.enter(&NOBODY).unwrap().choose(&pool(), theirs.into_iter().collect(), 1).unwrap_err();
        assert!(matches!(error, MachineIdsError::NoFreeRange(NoFreeRange { free: 0, .. })), "{error}");
        assert!(!one.in_use().unwrap().uid.contains(&mine[0].uid), "one's own are not others'");
        drop(one);
        assert_eq!(open(&run).enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 4).unwrap(), mine);
    }

    #[test]
    fn of_many_who_choose_at_once_no_two_get_the_same() {
        let run = tempfile::tempdir().unwrap();
        let chosen = std::sync::Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let mine = open(&run);
                    let lease =
                        mine.enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 1).unwrap()[0];
                    chosen.lock().unwrap().push((lease, mine));
                });
            }
        });
        let mut starts: Vec<_> = chosen.lock().unwrap().iter().map(|(lease, _)| lease.uid.start).collect();
        starts.sort_unstable();
        assert_eq!(starts, (0..10).map(|n| 5_000_000 + n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn a_lock_on_any_part_of_a_slot_takes_all_of_it() {
        let run = tempfile::tempdir().unwrap();
        let (one, two) = (open(&run), open(&run));
        // Part of a slot of users: seen, and passed over.
        assert!(one.locks.try_lock(5_000_050..5_000_060).unwrap());
        let lease = two.enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 1).unwrap()[0];
        assert_eq!(lease.uid.start, 5_000_100);
    }

    #[test]
    fn a_stopped_process_at_the_door_stops_nobody_who_gives_up() {
        let run = tempfile::tempdir().unwrap();
        let (one, two) = (open(&run), open(&run));
        assert!(one.locks.try_lock(DOOR..DOOR + 1).unwrap());
        let asked = std::cell::Cell::new(0);
        let third_time = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let error = two.enter(&third_time).unwrap_err();
        assert!(matches!(error, MachineIdsError::Cancelled), "{error}");
    }

    #[test]
    fn a_register_that_was_removed_is_used_by_nobody() {
        let run = tempfile::tempdir().unwrap();
        let one = open(&run);
        std::fs::remove_file(run.path().join("ids.lock")).unwrap();
        let error = one.enter(&NOBODY).unwrap().choose(&pool(), IdsInUse::default(), 1).unwrap_err();
        assert!(error.to_string().contains("ids.lock was removed"), "{error}");
    }

    #[test]
    fn a_namespace_with_the_hosts_own_ids_takes_none_away() {
        let line = |outside, length| IdMapping { inside: 0, outside, length };
        assert_eq!(given(&line(0, u32::MAX)), None);
        assert_eq!(given(&line(1, u32::MAX - 1)), None);
        assert_eq!(given(&line(9, 5)), Some(IdRange { start: 9, length: 5 }));
    }
}
