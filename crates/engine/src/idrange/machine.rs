//! Which host ids are in use on this machine, whoever uses them.
//!
//! A state root knows its own leases. Those of other state roots are locks on one file in `/run/plywood` (user id *n*
//! is byte *n*, group id *n* is byte 2^32 + *n*), which the kernel gives back when their process ends; and ids that
//! living processes have mapped into a user namespace are seen in `/proc`: containers that outlived whoever started
//! them, and those of other programs, as far as they run already.
//!
//! Invariant: between [`MachineIds::enter`] and the drop of what it returns, no other plywood on the machine chooses
//! ranges.

use std::ops::Range;
use std::path::Path;

use plywood_kernel::idmap::{IdMapping, IdRange};
use plywood_kernel::userns;
use plywood_kernel::{RangeLocks, SyscallError};

use super::{IdLease, IdsInUse};

/// Offset of group id 0.
const GROUPS: u64 = 1 << 32;
/// The byte that whoever chooses has locked.
const DOOR: u64 = 1 << 33;

/// The register could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineIdsError {
    /// A call was refused.
    #[error("cannot tell which host ids are in use")]
    Call(#[from] SyscallError),
    /// A range is locked although nobody was said to have it: somebody does not keep to the door.
    #[error("host ids {0} were taken by another program at this moment; try again")]
    Taken(IdLease),
}

/// What this process holds of the machine's ids. Dropping gives it back.
#[derive(Debug)]
pub struct MachineIds(RangeLocks);

/// The right to choose, held by one process of the machine at a time.
#[derive(Debug)]
pub struct Choosing<'a>(&'a MachineIds);

impl MachineIds {
    /// Opens the register, the same file for all of the machine; made if it is missing, in a directory that exists.
    ///
    /// # Errors
    /// The call, if refused.
    pub fn open(register: &Path) -> Result<Self, MachineIdsError> {
        Ok(Self(RangeLocks::open(register)?))
    }

    /// Waits until nobody else is choosing. Others choose within milliseconds.
    ///
    /// # Errors
    /// The call, if refused.
    pub fn enter(&self) -> Result<Choosing<'_>, MachineIdsError> {
        self.0.lock(DOOR..DOOR + 1)?;
        Ok(Choosing(self))
    }

    /// Ids that others have: holders of locks, and living processes in user namespaces.
    ///
    /// # Errors
    /// The call, if refused.
    pub fn in_use(&self) -> Result<IdsInUse, MachineIdsError> {
        let mut in_use = IdsInUse {
            uid: self.0.held_by_others(0..GROUPS)?.into_iter().filter_map(|held| ids(&held, 0)).collect(),
            gid: self
                .0
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

impl Choosing<'_> {
    /// Ids that others have.
    ///
    /// # Errors
    /// As [`MachineIds::in_use`].
    pub fn in_use(&self) -> Result<IdsInUse, MachineIdsError> {
        self.0.in_use()
    }

    /// Takes ranges for as long as the [`MachineIds`] lives.
    ///
    /// # Errors
    /// [`MachineIdsError::Taken`]; what was taken before stays so until the drop.
    pub fn take(&self, leases: &[IdLease]) -> Result<(), MachineIdsError> {
        for lease in leases {
            for (ids, offset) in [(lease.uid, 0), (lease.gid, GROUPS)] {
                let start = offset + u64::from(ids.start);
                if !self.0.0.try_lock(start..start + u64::from(ids.length))? {
                    return Err(MachineIdsError::Taken(*lease));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Choosing<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.0.unlock(DOOR..DOOR + 1) {
            tracing::warn!(error = &error as &dyn std::error::Error, "others wait until this process ends");
        }
    }
}

fn ids(held: &Range<u64>, offset: u64) -> Option<IdRange> {
    let start = u32::try_from(held.start - offset).ok()?;
    let length = u32::try_from(held.end - held.start).unwrap_or(u32::MAX);
    Some(IdRange { start, length })
}

/// What a line of a map takes from the host. One that begins at the host's root gives no range away: it lets a
/// namespace use the host's own ids (`PrivateUsers=identity`), and would take all there are.
fn given(line: &IdMapping) -> Option<IdRange> {
    (line.outside > 0).then_some(IdRange { start: line.outside, length: line.length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(start: u32) -> IdLease {
        IdLease { uid: IdRange { start, length: 100 }, gid: IdRange { start: start + 7, length: 100 } }
    }

    #[test]
    fn what_one_takes_others_see_until_it_is_dropped() {
        let run = tempfile::tempdir().unwrap();
        let (one, two) = (
            MachineIds::open(&run.path().join("ids")).unwrap(),
            MachineIds::open(&run.path().join("ids")).unwrap(),
        );
        one.enter().unwrap().take(&[lease(5_000_000), lease(4_000_000_000)]).unwrap();
        let seen = two.enter().unwrap().in_use().unwrap();
        for start in [5_000_000, 4_000_000_000] {
            assert!(seen.uid.contains(&lease(start).uid) && seen.gid.contains(&lease(start).gid), "{seen:?}");
        }
        let mine = one.in_use().unwrap();
        assert!(!mine.uid.contains(&lease(5_000_000).uid), "one's own are not others'");
        drop(one);
        assert!(!two.in_use().unwrap().uid.contains(&lease(5_000_000).uid));
    }

    #[test]
    fn of_many_who_choose_at_once_no_two_get_the_same() {
        let run = tempfile::tempdir().unwrap();
        let chosen = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mine = MachineIds::open(&run.path().join("ids")).unwrap();
                    let door = mine.enter().unwrap();
                    let in_use = door.in_use().unwrap();
                    let free = (0..)
                        .map(|n| lease(6_000_000 + n * 100))
                        .find(|lease| !in_use.uid.iter().any(|used| used.overlaps(lease.uid)));
                    door.take(&[free.unwrap()]).unwrap();
                    drop(door);
                    chosen.lock().unwrap().push((free, mine));
                });
            }
        });
        let mut starts: Vec<_> =
            chosen.lock().unwrap().iter().map(|(lease, _)| lease.unwrap().uid.start).collect();
        starts.sort_unstable();
        assert_eq!(starts, (0..8).map(|n| 6_000_000 + n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn who_does_not_keep_to_the_door_is_found_out() {
        let run = tempfile::tempdir().unwrap();
        let (one, two) = (
            MachineIds::open(&run.path().join("ids")).unwrap(),
            MachineIds::open(&run.path().join("ids")).unwrap(),
        );
        one.enter().unwrap().take(&[lease(5_000_000)]).unwrap();
        let error = two.enter().unwrap().take(&[lease(5_000_050)]).unwrap_err();
        assert!(matches!(error, MachineIdsError::Taken(_)), "{error}");
        assert!(error.to_string().contains("5000050+100"), "{error}");
    }

    #[test]
    fn a_namespace_with_the_hosts_own_ids_takes_none_away() {
        let line = |outside, length| IdMapping { inside: 0, outside, length };
        assert_eq!(given(&line(0, u32::MAX)), None);
        assert_eq!(given(&line(9, 5)), Some(IdRange { start: 9, length: 5 }));
    }
}
