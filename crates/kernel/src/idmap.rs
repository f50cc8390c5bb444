//! Id ranges and id maps: pure data.
//!
//! An *inside* id is what a container sees, an *outside* id is what the host sees. Both are `u32`; ends are
//! `u64`, because a range may reach 2^32.

use std::fmt::{self, Write as _};

/// Host ids `start .. start + length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdRange {
    /// The first host id.
    pub start: u32,
    /// How many ids.
    pub length: u32,
}

impl IdRange {
    /// One past the last id.
    pub fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.length)
    }

    /// Whether `id` lies in the range.
    pub fn contains(self, id: u32) -> bool {
        id >= self.start && u64::from(id) < self.end()
    }

    /// Whether the two share an id; an empty range overlaps nothing.
    pub fn overlaps(self, other: IdRange) -> bool {
        self.length > 0
            && other.length > 0
            && u64::from(self.start) < other.end()
            && u64::from(other.start) < self.end()
    }
}

impl fmt::Display for IdRange {
    /// `100000+65536`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.length)
    }
}

/// One line of `/proc/<pid>/uid_map`: `length` inside ids from `inside` are the outside ids from `outside`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdMapping {
    /// First id as the container sees it.
    pub inside: u32,
    /// First id as the host sees it.
    pub outside: u32,
    /// How many ids.
    pub length: u32,
}

/// The user and group id map of one user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdMap {
    /// User ids. The kernel takes at most 340 lines, none overlapping.
    pub uid: Vec<IdMapping>,
    /// Group ids, under the same limits.
    pub gid: Vec<IdMapping>,
}

impl IdMap {
    /// Inside ids from 0 upwards onto the two host ranges.
    pub fn from_ranges(uid: IdRange, gid: IdRange) -> IdMap {
        let whole =
            |range: IdRange| vec![IdMapping { inside: 0, outside: range.start, length: range.length }];
        IdMap { uid: whole(uid), gid: whole(gid) }
    }

    /// The host's user id for an inside one; None if it is not mapped.
    pub fn to_host_uid(&self, inside: u32) -> Option<u32> {
        to_host(&self.uid, inside)
    }

    /// The host's group id for an inside one; None if it is not mapped.
    pub fn to_host_gid(&self, inside: u32) -> Option<u32> {
        to_host(&self.gid, inside)
    }
}

fn to_host(map: &[IdMapping], inside: u32) -> Option<u32> {
    map.iter().find_map(|line| {
        let offset = inside.checked_sub(line.inside)?;
        if offset < line.length { line.outside.checked_add(offset) } else { None }
    })
}

/// The text the kernel wants in `uid_map` and `gid_map`.
pub(crate) fn map_text(map: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping { inside, outside, length } in map {
        writeln!(text, "{inside} {outside} {length}").expect("writing to a String cannot fail");
    }
    text
}

/// The other way, as the kernel writes it. None if it is no such text.
pub(crate) fn parse_map(text: &str) -> Option<Vec<IdMapping>> {
    text.lines()
        .map(|line| {
            let mut fields = line.split_ascii_whitespace().map(|field| field.parse().ok());
            let mapping =
                IdMapping { inside: fields.next()??, outside: fields.next()??, length: fields.next()?? };
            fields.next().is_none().then_some(mapping)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_read_as_they_are_written() {
        let map = vec![
            IdMapping { inside: 0, outside: 100_000, length: 65_536 },
            IdMapping { inside: 70_000, outside: 5, length: 1 },
        ];
        assert_eq!(parse_map(&map_text(&map)), Some(map));
        assert_eq!(parse_map("         0          0 4294967295\n").unwrap()[0].length, u32::MAX);
        assert_eq!(parse_map(""), Some(Vec::new()));
        for bad in ["0 1", "0 1 2 3", "a 1 2", "0 1 4294967296"] {
            assert_eq!(parse_map(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_reach_the_end_of_the_id_space() {
        let last = IdRange { start: u32::MAX, length: 1 };
        assert_eq!(last.end(), 1 << 32);
        assert!(last.contains(u32::MAX));
        assert!(!last.contains(0));
        assert!(!last.overlaps(IdRange { start: 0xffff_0000, length: 0xffff }));
        assert!(last.overlaps(IdRange { start: 0xffff_0000, length: 0x1_0000 }));
    }

    #[test]
    fn empty_ranges_overlap_nothing() {
        let empty = IdRange { start: 5, length: 0 };
        assert!(!empty.overlaps(IdRange { start: 0, length: 10 }));
        assert!(!empty.overlaps(empty));
    }

    #[test]
    fn map_lines_are_looked_up_in_both_tables() {
        let map = IdMap::from_ranges(
            IdRange { start: 100_000, length: 65_536 },
            IdRange { start: 200_000, length: 10 },
        );
        assert_eq!(map.to_host_uid(0), Some(100_000));
        assert_eq!(map.to_host_uid(65_535), Some(165_535));
        assert_eq!(map.to_host_uid(65_536), None);
        assert_eq!(map.to_host_gid(9), Some(200_009));
        assert_eq!(map.to_host_gid(10), None);
        assert_eq!(map_text(&map.uid), "0 100000 65536\n");
    }

    proptest! {
        #[test]
        fn overlap_means_a_common_id(a in 0u32..64, la in 0u32..16, b in 0u32..64, lb in 0u32..16) {
            let (one, two) = (IdRange { start: a, length: la }, IdRange { start: b, length: lb });
            let common = (0..100).any(|id| one.contains(id) && two.contains(id));
            prop_assert_eq!(one.overlaps(two), common);
            prop_assert_eq!(two.overlaps(one), common);
        }
    }
}
