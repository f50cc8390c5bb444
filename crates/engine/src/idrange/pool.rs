//! The ids this machine has for containers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use plywood_kernel::idmap::IdRange;

use super::ranges::{free_slots, merged, subtract};
use super::subid::{SubIdEntry, SubIdError, parse_accounts, parse_subids};
use super::{DEFAULT_LENGTH, DEFAULT_POOL};

/// Users whose entries are ours, the first that has any.
const OWNERS: [&str; 2] = ["plywood", "containers"];

/// The text of the four files a pool is made from.
#[derive(Debug, Clone, Default)]
pub struct EtcFiles {
    /// `/etc/subuid`.
    pub subuid: String,
    /// `/etc/subgid`.
    pub subgid: String,
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl EtcFiles {
    /// Reads them from a directory, normally `/etc`. A file that does not exist is empty.
    pub fn read(etc: &Path) -> Result<Self, PoolError> {
        let read = |name: &str| {
            let path = etc.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                Err(source) => Err(PoolError::Read { path, source }),
            }
        };
        Ok(Self {
            subuid: read("subuid")?,
            subgid: read("subgid")?,
            passwd: read("passwd")?,
            group: read("group")?,
        })
    }
}

/// No pool could be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line could not be understood.
    #[error("cannot tell whose ids are whose")]
    Line(#[from] SubIdError),
    /// A user has ids of one kind only.
    #[error("user {owner} has ranges in {has} but none in {lacks}; give it both, or neither")]
    OneSided {
        /// The user.
        owner: &'static str,
        /// The file with entries.
        has: &'static str,
        /// The file without.
        lacks: &'static str,
    },
    /// Ranges of no ids cannot be leased.
    #[error("a container needs at least one id")]
    NoLength,
}

/// Where the ids of a pool come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSource {
    /// Entries of this user in `/etc/subuid` and `/etc/subgid`.
    User(&'static str),
    /// [`DEFAULT_POOL`], because nobody of ours has entries.
    Default,
}

impl fmt::Display for PoolSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name} in /etc/subuid and /etc/subgid"),
            Self::Default => f.write_str("plywood's default range"),
        }
    }
}

/// Ids that may be leased, cut into slots of equal length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPool {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
    length: u32,
    source: PoolSource,
    rivals: Vec<String>,
}

impl IdPool {
    /// Makes a pool of slots of `length` ids from the text of the files.
    pub fn new(files: &EtcFiles, length: u32) -> Result<Self, PoolError> {
        if length == 0 {
            return Err(PoolError::NoLength);
        }
        let subuid = parse_subids("/etc/subuid", &files.subuid)?;
        let subgid = parse_subids("/etc/subgid", &files.subgid)?;
        let accounts = parse_accounts(&files.passwd);
        for owner in OWNERS {
            let uid = accounts.iter().find(|(name, _)| name == owner).map(|(_, uid)| uid.to_string());
            let ours = |entry: &&SubIdEntry| entry.owner == owner || Some(&entry.owner) == uid.as_ref();
            let (my_uids, my_gids) = (subuid.iter().any(|e| ours(&e)), subgid.iter().any(|e| ours(&e)));
            match (my_uids, my_gids) {
                (false, false) => continue,
                (true, false) => {
                    return Err(PoolError::OneSided { owner, has: "/etc/subuid", lacks: "/etc/subgid" });
                }
                (false, true) => {
                    return Err(PoolError::OneSided { owner, has: "/etc/subgid", lacks: "/etc/subuid" });
                }
                (true, true) => {}
            }
            let cut = |entries: &[SubIdEntry], accounts: &str| {
                let own = merged(entries.iter().filter(ours).map(|entry| entry.range));
                let others = entries.iter().filter(|entry| !ours(entry)).map(|entry| entry.range);
                subtract(&own, &foreign(others, accounts))
            };
            let (uids, gids) = (cut(&subuid, &files.passwd), cut(&subgid, &files.group));
            let rivals = rivals(&subuid, &subgid, ours);
            return Ok(Self { uids, gids, length, source: PoolSource::User(owner), rivals });
        }
        let cut = |entries: &[SubIdEntry], accounts: &str| {
            subtract(&[DEFAULT_POOL], &foreign(entries.iter().map(|entry| entry.range), accounts))
        };
        let (uids, gids) = (cut(&subuid, &files.passwd), cut(&subgid, &files.group));
        let none = |_: &&SubIdEntry| false;
        Ok(Self { uids, gids, length, source: PoolSource::Default, rivals: rivals(&subuid, &subgid, none) })
    }

    /// The pool of this machine, with slots of [`DEFAULT_LENGTH`].
    pub fn of_host() -> Result<Self, PoolError> {
        Self::new(&EtcFiles::read(Path::new("/etc"))?, DEFAULT_LENGTH)
    }

    /// User ids that may be leased: sorted, disjoint.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// Group ids that may be leased: sorted, disjoint.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// Ids in one slot.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Where the ids come from.
    pub fn source(&self) -> PoolSource {
        self.source
    }

    /// Entries that give ids of this pool to somebody else as well, as `ada 100000+65536 in /etc/subuid`. Nobody gets
    /// these ids from us.
    pub fn rivals(&self) -> &[String] {
        &self.rivals
    }

    /// How many leases the pool holds when none is live.
    pub fn capacity(&self) -> usize {
        let slots = |ranges: &[IdRange]| {
            ranges.iter().map(|range| (range.length / self.length) as usize).sum::<usize>()
        };
        slots(&self.uids).min(slots(&self.gids))
    }

    pub(super) fn uid_slots<'a>(&'a self, live: &'a [IdRange]) -> impl Iterator<Item = IdRange> + 'a {
        free_slots(&self.uids, live, self.length)
    }

    pub(super) fn gid_slots<'a>(&'a self, live: &'a [IdRange]) -> impl Iterator<Item = IdRange> + 'a {
        free_slots(&self.gids, live, self.length)
    }

    pub(super) fn hint(&self, missing: usize) -> String {
        let ids = u64::from(self.length) * missing as u64;
        let all = u64::from(self.length) * (self.capacity() + missing) as u64;
        let rivals = match self.rivals.as_slice() {
            [] => String::new(),
            some => format!("; ids of {} are given to others as well: {}", self.source, some.join(", ")),
        };
        let more = match self.source {
            PoolSource::User(name) => format!(
                "stop some containers, or give user {name} {ids} more ids in /etc/subuid and as many in /etc/subgid"
            ),
            // Its own entries replace the default range, they do not add to it.
            PoolSource::Default => format!(
                "stop some containers, or give user plywood at least {all} ids in /etc/subuid and as many in \
                 /etc/subgid (plywood:FIRST:COUNT)"
            ),
        };
        more + &rivals
    }
}

/// Entries of others that overlap those of ours, or the default pool if nobody of ours has any.
fn rivals(subuid: &[SubIdEntry], subgid: &[SubIdEntry], ours: impl Fn(&&SubIdEntry) -> bool) -> Vec<String> {
    let mut rivals = Vec::new();
    for (file, entries) in [("/etc/subuid", subuid), ("/etc/subgid", subgid)] {
        let mut own: Vec<IdRange> = entries.iter().filter(&ours).map(|entry| entry.range).collect();
        if own.is_empty() {
            own.push(DEFAULT_POOL);
        }
        let theirs = entries.iter().filter(|entry| !ours(entry));
        for entry in theirs.filter(|entry| own.iter().any(|own| own.overlaps(entry.range))) {
            rivals.push(format!("{} {} in {file}", entry.owner, entry.range));
        }
    }
    rivals
}

fn foreign(entries: impl Iterator<Item = IdRange>, accounts: &str) -> Vec<IdRange> {
    let single = parse_accounts(accounts).into_iter().map(|(_, id)| IdRange { start: id, length: 1 });
    merged(entries.chain(single))
}
