//! What stands at each name of a layer, without keeping the names.
//!
//! A layer may have millions of names, and each could be 4 KiB long. Kept of one are 128 bits of its keyed hash: the keys
//! are random and new for each layer, so nobody can prepare two names of one hash, and of four million names chance makes
//! two alike once in 10^25 layers. That would refuse a good layer, not let in a bad one: whoever makes the files never
//! replaces any.
//!
//! The table is many small ones, because one that grows is there twice for a moment.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

const SHARDS: usize = 64;

/// Most bytes of the tables a name. An entry has 20 bytes and one of the table's own, and a table that has just grown is
/// little more than seven sixteenths full.
pub(super) const BYTES: usize = 48;

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A directory, by its place in the tracker's list.
    Directory(usize),
    /// Anything else, by its name for messages.
    Other(&'static str),
}

/// [`Seen`] in four bytes.
#[derive(Debug, Clone, Copy)]
struct Slot(u32);

/// A file of the layers below that a hard link of this layer is another name of.
pub(super) const LINK_TARGET: &str = "target of a hard link";
/// At the names of markers, which no node can have.
pub(super) const WHITEOUT: &str = "whiteout";
/// The same.
pub(super) const OPAQUE_MARK: &str = "opaque mark";

/// All that a slot can say beside the place of a directory, from the highest number down.
const OTHERS: [&str; 10] = [
    "file",
    "symbolic link",
    "hard link",
    "character device",
    "block device",
    "fifo",
    LINK_TARGET,
    WHITEOUT,
    OPAQUE_MARK,
    "non-directory",
];

impl Slot {
    fn new(seen: Seen) -> Slot {
        match seen {
            Seen::Directory(place) => Slot(u32::try_from(place).unwrap_or(u32::MAX >> 1)),
            Seen::Other(what) => {
                let place = OTHERS.iter().position(|other| *other == what).unwrap_or(OTHERS.len() - 1);
                Slot(u32::MAX - place as u32)
            }
        }
    }

    fn seen(self) -> Seen {
        match OTHERS.get((u32::MAX - self.0) as usize) {
            Some(what) => Seen::Other(what),
            None => Seen::Directory(self.0 as usize),
        }
    }
}

type Shard = HashMap<[u32; 4], Slot, BuildHasherDefault<Hashed>>;

/// The table.
#[derive(Debug)]
pub(super) struct Names {
    keys: [RandomState; 2],
    shards: Vec<Shard>,
}

impl Default for Names {
    fn default() -> Names {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Names { keys: [RandomState::new(), RandomState::new()], shards }
    }
}

impl Names {
    /// What stands at a name.
    pub(super) fn get(&self, name: &[u8]) -> Option<Seen> {
        let (shard, key) = self.place(name);
        self.shards[shard].get(&key).map(|slot| slot.seen())
    }

    /// Notes what stands at a name from now on.
    pub(super) fn insert(&mut self, name: &[u8], seen: Seen) {
        let (shard, key) = self.place(name);
        self.shards[shard].insert(key, Slot::new(seen));
    }

    /// Forgets what stood at a name.
    pub(super) fn remove(&mut self, name: &[u8]) {
        let (shard, key) = self.place(name);
        self.shards[shard].remove(&key);
    }

    fn place(&self, name: &[u8]) -> (usize, [u32; 4]) {
        let [a, b] = [0, 1].map(|key: usize| self.keys[key].hash_one(name));
        (b as usize % SHARDS, [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }
}

/// The keys are hashes: they need none.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8).take(1) {
            let mut value = [0; 8];
            value[..word.len()].copy_from_slice(word);
            self.0 = u64::from_ne_bytes(value);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut names = Names::default();
        for (number, what) in OTHERS.into_iter().enumerate() {
            names.insert(what.as_bytes(), Seen::Other(what));
            names.insert(format!("{what}/").as_bytes(), Seen::Directory(number * 1000));
        }
        names.insert(b"file", Seen::Directory(1));
        assert_eq!(names.shards.iter().map(HashMap::len).sum::<usize>(), 2 * OTHERS.len());
        assert_eq!(names.get(b"file"), Some(Seen::Directory(1)));
        assert_eq!(names.get(b"fifo"), Some(Seen::Other("fifo")));
        assert_eq!(names.get(b"fifo/"), Some(Seen::Directory(5000)));
        assert_eq!(names.get(b"nothing"), None);
        names.remove(b"fifo");
        assert_eq!((names.get(b"fifo"), names.get(b"fifo/")), (None, Some(Seen::Directory(5000))));
    }

    #[test]
    fn every_kind_of_node_has_its_slot() {
        use crate::layer::NodeKind;
        use crate::tar::Device;

        let target = crate::layer::EntryPath::root();
        for kind in [
            NodeKind::File { size: 0, sparse: None },
            NodeKind::Symlink { target: vec![] },
            NodeKind::HardLink { target },
            NodeKind::CharDevice(Device::default()),
            NodeKind::BlockDevice(Device::default()),
            NodeKind::Fifo,
        ] {
            assert!(OTHERS.contains(&kind.name()), "{}", kind.name());
        }
        assert!(OTHERS.contains(&"target of a hard link"));
    }

    /// What [`BYTES`] promises, at sizes where the tables have just grown.
    #[test]
    fn a_name_costs_what_is_charged() {
        let mut names = Names::default();
        for number in 0..300_000_u32 {
            names.insert(&number.to_ne_bytes(), Seen::Other("file"));
            if number % 10_000 == 9_999 {
                // The buckets a table has, of which seven eighths may be used, and their control bytes.
                let buckets: usize =
                    names.shards.iter().map(|s| (s.capacity() * 8 / 7).next_power_of_two()).sum();
                let bytes = buckets * (size_of::<([u32; 4], Slot)>() + 1);
                assert!(bytes <= (number as usize + 1) * BYTES, "{number}: {bytes}");
            }
        }
    }
}
