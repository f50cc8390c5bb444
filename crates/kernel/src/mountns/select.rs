//! Which mounts a path needs: pure functions on a mount table.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::table::MountEntry;

/// The mounts that must exist for every path of `keep` to be reachable, each after its parent; the first is
/// the one at `/`. Of mounts stacked at one point only the topmost counts. Indices into `entries`.
///
/// The paths are absolute and free of symlinks. Empty if the table holds no mount at `/`.
pub fn select(entries: &[MountEntry], keep: &[impl AsRef<Path>]) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut seen = HashSet::new();
    let root = Path::new("/");
    for path in std::iter::once(root).chain(keep.iter().map(AsRef::as_ref)) {
        for index in visible_chain(entries, path) {
            if seen.insert(index) {
                chosen.push(index);
            }
        }
    }
    chosen
}

/// The mounts a walk from `/` to `path` passes, outermost first; the last one covers `path`.
///
/// A walk crosses onto a mount if it stands on its mount point *in its parent mount*; a mount hidden below
/// another one is never reached, whatever its path says.
pub fn visible_chain(entries: &[MountEntry], path: &Path) -> Vec<usize> {
    let is_parent = |id: u64| entries.iter().any(|entry| entry.id == id);
    let root = Path::new("/");
    let Some(bottom) = entries.iter().position(|entry| {
        entry.mount_point == root && (entry.parent_id == entry.id || !is_parent(entry.parent_id))
    }) else {
        return Vec::new();
    };
    let mut chain = vec![bottom];
    let mut prefix = PathBuf::new();
    for component in path.components() {
        prefix.push(component);
        let mut crossed = false;
        // Mounts stacked at one point are each other's children: climb to the top one.
        while let Some(next) = child_at(entries, *chain.last().unwrap_or(&bottom), &prefix) {
            if chain.contains(&next) {
                break;
            }
            if crossed || prefix == root {
                chain.pop();
            }
            chain.push(next);
            crossed = true;
        }
    }
    chain
}

/// Two mounts at one point of one parent cannot be stacked by the kernel, but the later entry is the newer.
fn child_at(entries: &[MountEntry], parent: usize, point: &Path) -> Option<usize> {
    let parent = entries.get(parent)?;
    entries.iter().rposition(|entry| {
        entry.parent_id == parent.id && entry.id != parent.id && entry.mount_point == point
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: u64, parent_id: u64, point: &str) -> MountEntry {
        MountEntry { id, parent_id, mount_point: point.into(), ..MountEntry::default() }
    }

    /// Shaped like a machine whose /dev/pts and /dev/shm were mounted twice.
    fn table() -> Vec<MountEntry> {
        vec![
            entry(22, 27, "/proc"),
            entry(23, 27, "/sys"),
            entry(24, 27, "/dev"),
            entry(25, 24, "/dev/shm"),
            entry(26, 24, "/dev/pts"),
            entry(27, 1, "/"),
            entry(29, 26, "/dev/pts"),
            entry(30, 25, "/dev/shm"),
            entry(31, 23, "/sys/fs/cgroup"),
            entry(32, 31, "/sys/fs/cgroup/cpu"),
        ]
    }

    fn ids(keep: &[&str]) -> Vec<u64> {
        let table = table();
        select(&table, keep).into_iter().map(|index| table[index].id).collect()
    }

    #[test]
    fn the_root_is_always_there_and_first() {
        assert_eq!(ids(&[]), [27]);
        assert_eq!(ids(&["/var/lib/x"]), [27]);
        assert_eq!(ids(&["/"]), [27]);
    }

    #[test]
    fn ancestors_come_before_what_is_in_them() {
        assert_eq!(ids(&["/sys/fs/cgroup/cpu/x", "/proc/self"]), [27, 23, 31, 32, 22]);
    }

    #[test]
    fn of_stacked_mounts_the_top_one_counts() {
        assert_eq!(ids(&["/dev/pts/0", "/dev/shm"]), [27, 24, 29, 30]);
    }

    #[test]
    fn names_are_compared_by_components() {
        assert_eq!(ids(&["/devices", "/proc2"]), [27]);
    }

    #[test]
    fn a_stack_on_the_root_is_climbed() {
        let mut table = table();
        table.push(entry(40, 27, "/"));
        table.push(entry(41, 40, "/proc"));
        let chosen = select(&table, &["/proc", "/sys"]);
        let ids: Vec<u64> = chosen.into_iter().map(|index| table[index].id).collect();
        assert_eq!(ids, [40, 41], "what is mounted below the covered root cannot be seen");
    }

    #[test]
    fn hidden_mounts_are_not_chosen() {
        let table = vec![entry(1, 0, "/"), entry(2, 1, "/a/b"), entry(3, 1, "/a")];
        let chosen = select(&table, &["/a/b"]);
        let ids: Vec<u64> = chosen.into_iter().map(|index| table[index].id).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn a_table_without_a_root_gives_nothing() {
        assert!(select(&[], &["/a"]).is_empty());
        assert!(select(&[entry(5, 4, "/a")], &["/a"]).is_empty());
    }

    /// Mounts a few names deep, in the order they are made.
    fn points() -> impl Strategy<Value = Vec<PathBuf>> {
        let point = proptest::collection::vec("[ab]", 0..4)
            .prop_map(|names| names.iter().fold(PathBuf::from("/"), |path, name| path.join(name)));
        proptest::collection::vec(point, 0..12)
    }

    /// A mount at `p` hides every earlier one at or below `p`.
    fn visible(points: &[PathBuf], index: usize) -> bool {
        !points[index + 1..].iter().any(|later| points[index].starts_with(later))
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_the_order_of_mounting_left_visible(points in points(), at in points()) {
            let mut points = points;
            points.insert(0, PathBuf::from("/"));
            let mut table: Vec<MountEntry> = Vec::new();
            for (number, point) in points.iter().enumerate() {
                // As the kernel does: onto whatever a walk to the point ends on.
                let parent = visible_chain(&table, point).last().map_or(0, |index| table[*index].id);
                table.push(MountEntry {
                    id: number as u64 + 1,
                    parent_id: parent,
                    mount_point: point.clone(),
                    ..MountEntry::default()
                });
            }
            for path in &at {
                let expected = (0..points.len())
                    .filter(|index| visible(&points, *index) && path.starts_with(&points[*index]))
                    .max_by_key(|index| points[*index].components().count());
                prop_assert_eq!(visible_chain(&table, path).last().copied(), expected);
            }
            let chosen = select(&table, &at);
            for (place, index) in chosen.iter().enumerate() {
                prop_assert!(visible(&points, *index));
                let below = |other: &usize| points[*other].starts_with(&points[*index]);
                prop_assert!(!chosen[..place].iter().any(below), "a parent after its child, or a point twice");
            }
        }
    }
}
