//! Host id ranges: which ids containers may use on this machine, and which of them are free.
//!
//! What is in use comes from two sides: the leases of the state root, which the store keeps and passes in, and the rest
//! of the machine ([`MachineIds`]). All else is arithmetic over text and ranges. Whoever keeps the leases records the new
//! ones in the transaction that read the live ones.
//!
//! The pool comes from `/etc/subuid` and `/etc/subgid`: the entries of user `plywood`, else those of user
//! `containers`, else [`DEFAULT_POOL`]. Ids that those files give to anybody else, and ids of accounts in
//! `/etc/passwd` and `/etc/group`, are cut out of it.
//!
//! Invariant: a lease lies inside the pool, overlaps nothing in use, and holds no id that somebody else was given.

mod machine;
mod pool;
mod ranges;
mod subid;
mod userns;

use std::fmt;

use plywood_kernel::idmap::{IdMap, IdRange};
use serde::{Deserialize, Serialize};

pub use machine::{Door, MachineIds, MachineIdsError};
pub use pool::{EtcFiles, IdPool, PoolError, PoolSource};
pub use subid::{SubIdEntry, SubIdError, parse_accounts, parse_subids};
pub use userns::UserNsPool;

/// Ids a container gets unless told otherwise: 0 to 65535, which is what images are built for.
pub const DEFAULT_LENGTH: u32 = 65_536;

/// The pool of a machine whose `/etc/subuid` names neither `plywood` nor `containers`.
///
/// It starts where systemd's range for containers ends (0x70000000) and ends where systemd's foreign ids begin
/// (0x7FFE0000), so neither of these collides with it: 4,094 containers of 65,536 ids.
pub const DEFAULT_POOL: IdRange = IdRange { start: 0x7000_0000, length: 0x0FFE_0000 };

/// The host ids one container uses: as many group ids as user ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdLease {
    /// Host user ids; the first is the container's root.
    pub uid: IdRange,
    /// Host group ids; the first is the container's group 0.
    pub gid: IdRange,
}

impl IdLease {
    /// The mapping of a user namespace for this lease: ids inside start at 0.
    pub fn idmap(&self) -> IdMap {
        IdMap::from_ranges(self.uid, self.gid)
    }
}

impl fmt::Display for IdLease {
    /// `users 100000+65536, groups 100000+65536`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "users {}, groups {}", self.uid, self.gid)
    }
}

/// Ids in use, which may overlap each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdsInUse {
    /// User ids.
    pub uid: Vec<IdRange>,
    /// Group ids.
    pub gid: Vec<IdRange>,
}

impl Extend<IdLease> for IdsInUse {
    fn extend<T: IntoIterator<Item = IdLease>>(&mut self, leases: T) {
        for IdLease { uid, gid } in leases {
            self.uid.push(uid);
            self.gid.push(gid);
        }
    }
}

impl FromIterator<IdLease> for IdsInUse {
    fn from_iter<T: IntoIterator<Item = IdLease>>(leases: T) -> Self {
        let mut in_use = Self::default();
        in_use.extend(leases);
        in_use
    }
}

/// A range, as JSON shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    /// First host id.
    pub start: u32,
    /// Number of ids.
    pub length: u32,
}

impl From<IdRange> for RangeRecord {
    fn from(range: IdRange) -> Self {
        Self { start: range.start, length: range.length }
    }
}

impl From<RangeRecord> for IdRange {
    fn from(record: RangeRecord) -> Self {
        Self { start: record.start, length: record.length }
    }
}

/// Too few free ranges are left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} free ranges of {length} host ids wanted, {free} left; {hint}")]
pub struct NoFreeRange {
    /// Ranges asked for.
    pub wanted: usize,
    /// Ranges that are free.
    pub free: usize,
    /// Ids in a range.
    pub length: u32,
    /// What a person can do about it.
    pub hint: String,
}

/// Chooses `count` free ranges, lowest first.
///
/// A range of user ids is paired with the range of group ids of the same numbers where both are free, because equal
/// numbers are what people expect to see. What is in use may have any length and lie anywhere.
pub fn allocate(pool: &IdPool, in_use: &IdsInUse, count: usize) -> Result<Vec<IdLease>, NoFreeRange> {
    let (used_uids, used_gids) =
        (ranges::merged(in_use.uid.iter().copied()), ranges::merged(in_use.gid.iter().copied()));
    let mut uids = pool.uid_slots(&used_uids).peekable();
    let mut gids = pool.gid_slots(&used_gids).peekable();
    let mut chosen = Vec::new();
    let (mut lone_uids, mut lone_gids) = (Lone::new(count), Lone::new(count));
    while chosen.len() < count {
        match (uids.peek().copied(), gids.peek().copied()) {
            (Some(uid), Some(gid)) if uid.start == gid.start => {
                chosen.push(IdLease { uid, gid });
                uids.next();
                gids.next();
            }
            (Some(uid), gid) if gid.is_none_or(|gid| uid.start < gid.start) => {
                lone_uids.push(uid);
                uids.next();
            }
            (_, Some(gid)) => {
                lone_gids.push(gid);
                gids.next();
            }
            (_, None) => break,
        }
    }
    let equal = chosen.len();
    let pairs = lone_uids.kept.iter().zip(&lone_gids.kept).map(|(&uid, &gid)| IdLease { uid, gid });
    chosen.extend(pairs.take(count - equal));
    if chosen.len() == count {
        return Ok(chosen);
    }
    let free = equal + lone_uids.seen.min(lone_gids.seen);
    Err(NoFreeRange { wanted: count, free, length: pool.length(), hint: pool.hint(count - free) })
}

/// Slots free in one of the two files only; no more of them are kept than anybody asked for.
struct Lone {
    kept: Vec<IdRange>,
    seen: usize,
    limit: usize,
}

impl Lone {
    fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), seen: 0, limit }
    }

    fn push(&mut self, range: IdRange) {
        self.seen += 1;
        if self.kept.len() < self.limit {
            self.kept.push(range);
        }
    }
}

#[cfg(test)]
mod tests;
