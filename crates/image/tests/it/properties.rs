//! Properties that hold for every archive.

use plywood_image::layer::{DiffEntry, EntryPath, NodeKind, Tracker, classify};
use plywood_image::testing::{RawHeader, TarBuilder};
use proptest::prelude::*;

use super::{expand, read_all};

/// One entry to write and to find again.
#[derive(Debug, Clone)]
struct Entry {
    name: Vec<u8>,
    data: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop::collection::vec(prop::collection::vec(1_u8..=255, 1..60), 1..8).prop_map(|parts| {
        let parts: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|part| part.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect())
            .collect();
        parts.join(&b'/')
    });
    let xattrs =
        prop::collection::vec(("user\\.[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..40)), 0..3);
    (
        name,
        prop::collection::vec(any::<u8>(), 0..1500),
        0_u32..0o10000,
        any::<(u32, u32)>(),
        any::<i64>(),
        xattrs,
    )
        .prop_map(|(name, data, mode, owner, mtime, xattrs)| Entry {
            name,
            data,
            mode,
            owner,
            mtime,
            xattrs,
        })
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut builder = TarBuilder::new();
    for entry in entries {
        let mut header = RawHeader::new(b'0');
        header.name(&entry.name).mode(entry.mode.into()).size(entry.data.len() as u64).mtime(entry.mtime);
        header.owner(entry.owner.0.into(), entry.owner.1.into());
        if entry.name.len() > 100 {
            builder = builder.pax("path", &entry.name);
        }
        for (name, value) in &entry.xattrs {
            builder = builder.xattr(name, value);
        }
        builder = builder.entry(&header, &entry.data);
    }
    builder.finish()
}

/// Runs all of the crate that a layer passes through.
fn digest(bytes: &[u8]) -> usize {
    let Ok(entries) = read_all(bytes) else { return 0 };
    let mut tracker = Tracker::new();
    for (header, _) in entries {
        if let Ok(Some(entry)) = classify(header) {
            let _ = tracker.add(&entry);
        }
    }
    tracker.finish().map_or(0, |marks| marks.implied.len())
}

/// Whether a path stays where it is, by a definition of its own.
fn stays_inside(path: &EntryPath) -> bool {
    use std::path::Component;
    let path = path.as_path();
    path.is_relative()
        && path.components().all(|part| matches!(part, Component::Normal(_)) || path.as_os_str() == ".")
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..5)) {
        let found = read_all(&write(&entries)).unwrap();
        prop_assert_eq!(found.len(), entries.len());
        for ((header, data), entry) in found.iter().zip(&entries) {
            prop_assert_eq!(&header.path, &entry.name);
            prop_assert_eq!(data, &entry.data);
            prop_assert_eq!((header.mode, header.mtime.seconds), (entry.mode, entry.mtime));
            prop_assert_eq!((header.uid, header.gid), (entry.owner.0.into(), entry.owner.1.into()));
            for (name, _) in &entry.xattrs {
                let last = entry.xattrs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| &**value);
                prop_assert_eq!(header.xattrs.get(name.as_bytes()).map(|value| &**value), last);
            }
        }
    }

    #[test]
    fn cut_and_changed_archives_never_panic(
        entries in prop::collection::vec(entry(), 1..4),
        cut: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = write(&entries);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        digest(&bytes);
        digest(&bytes[..cut.index(bytes.len())]);
    }

    /// Every header valid by its checksum, everything else at random: this gets past the first check.
    #[test]
    fn random_sealed_headers_never_panic(
        blocks in prop::collection::vec((prop::collection::vec(any::<u8>(), 512), "[0-7xgLKSDMV]", 0_u64..2000, any::<bool>()), 1..8),
        data in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let mut builder = TarBuilder::new();
        for (bytes, flag, size, gnu) in blocks {
            let mut header = RawHeader::default();
            header.bytes(0, &bytes).bytes(257, b"ustar\x0000").bytes(156, flag.as_bytes()).size(size);
            header.octal(100, 8, 0).octal(108, 8, 0).octal(116, 8, 0).octal(136, 12, 0);
            if gnu {
                header.gnu();
            }
            builder = builder.entry(&header, &data[..data.len().min(size as usize)]);
        }
        digest(&builder.finish());
    }

    #[test]
    fn random_pax_records_never_panic(
        records in prop::collection::vec(("(path|linkpath|size|uid|mtime|atime|GNU\\.sparse\\.(map|size|major|minor|offset|numbytes|name)|SCHILY\\.xattr\\.a)", "[-0-9.,a/\\n]{0,12}"), 0..8),
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut builder = TarBuilder::new();
        for (key, value) in records {
            builder = builder.pax(&key, value);
        }
        digest(&builder.file("f", data).finish());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        digest(&bytes);
    }

    #[test]
    fn no_path_leaves_its_layer(name in prop::collection::vec(prop::sample::select(b"./ab\\\0".to_vec()), 0..16)) {
        if let Ok(path) = EntryPath::new(&name) {
            prop_assert!(stays_inside(&path), "{path:?}");
            prop_assert!(!name.starts_with(b"/") || path.is_root());
            prop_assert_eq!(&EntryPath::new(path.as_path().as_os_str().as_encoded_bytes()).unwrap(), &path);
            if let Some(parent) = path.parent() {
                prop_assert!(stays_inside(&parent));
            }
        }
    }

    /// Whiteouts, hard links and nodes alike: every path that comes out of the rules stays inside.
    #[test]
    fn no_entry_leaves_its_layer(
        name in "(\\.wh\\.|\\.\\./|\\./|/|a|b|\\.wh\\.\\.wh\\.opq){1,5}",
        link in "(\\.\\./|\\./|/|a|b){0,5}",
        flag in "[0-6]",
    ) {
        // A file named like a directory is refused by the reader.
        let flag = if flag == "0" && name.ends_with('/') { 0 } else { flag.as_bytes()[0] };
        let mut header = RawHeader::new(flag);
        header.name(&name).link(&link).device(1, 3);
        for (header, _) in read_all(&TarBuilder::new().entry(&header, b"").finish()).unwrap() {
            match classify(header) {
                Ok(Some(DiffEntry::Whiteout { path })) => prop_assert!(stays_inside(&path) && !path.is_root()),
                Ok(Some(DiffEntry::Opaque { dir })) => prop_assert!(stays_inside(&dir)),
                Ok(Some(DiffEntry::Node(node))) => {
                    prop_assert!(stays_inside(&node.path));
                    if let NodeKind::HardLink { target } = &node.kind {
                        prop_assert!(stays_inside(target) && *target != node.path);
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Any two entries of a layer fit together, or the layer is refused, whatever stands between them.
    #[test]
    fn no_name_is_given_twice(
        entries in prop::collection::vec(("(\\./)?[ab](/(\\./)?[ab]){0,2}", any::<bool>(), any::<bool>()), 0..7),
    ) {
        let fit = |one: &(String, bool, bool), other: &(String, bool, bool)| {
            let parts = |name: &str| -> Vec<String> {
                name.split('/').filter(|part| *part != ".").map(str::to_owned).collect()
            };
            let (first, second) = (parts(&one.0), parts(&other.0));
            match (first == second, first.starts_with(&second), second.starts_with(&first)) {
                (true, ..) => one.1 && other.1 && one.2 == other.2,
                (_, true, _) => other.1,
                (_, _, true) => one.1,
                _ => true,
            }
        };
        let sound = entries.iter().enumerate().all(|(at, one)| entries[..at].iter().all(|other| fit(other, one)));
        let mut archive = TarBuilder::new();
        for (name, is_dir, private) in &entries {
            let mode = if *private { 0o700 } else { 0o755 };
            archive = if *is_dir { archive.dir(name, mode) } else { archive.file(name, b"") };
        }
        let mut tracker = Tracker::new();
        let accepted = read_all(&archive.finish()).unwrap().into_iter().all(|(header, _)| {
            tracker.add(&classify(header).unwrap().unwrap()).is_ok()
        });
        prop_assert_eq!(accepted, sound, "{:?}", entries);
    }

    #[test]
    fn sparse_files_expand_to_themselves(runs in prop::collection::vec((0_u64..2000, 1_u64..700), 0..20), tail in 0_u64..500) {
        let (mut at, mut map, mut content, mut data) = (0, String::new(), Vec::new(), Vec::new());
        let count = runs.len();
        for (gap, length) in runs {
            at += gap;
            content.resize(at as usize, 0);
            let run = vec![b'd'; length as usize];
            map += &format!("{at}\n{length}\n");
            content.extend_from_slice(&run);
            data.extend_from_slice(&run);
            at += length;
        }
        content.resize((at + tail) as usize, 0);
        let size = content.len().to_string();
        let mut stored = format!("{count}\n{map}").into_bytes();
        stored.resize(stored.len().next_multiple_of(512), 0);
        stored.extend_from_slice(&data);
        let v1 = TarBuilder::new()
            .pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "real").pax("GNU.sparse.realsize", &size)
            .file("GNUSparseFile.1/real", &stored).finish();
        let list = map.trim_end().replace('\n', ",");
        let mut v0 = TarBuilder::new().pax("GNU.sparse.size", &size);
        if count > 0 {
            v0 = v0.pax("GNU.sparse.map", &list);
        }
        let v0 = v0.pax("GNU.sparse.name", "real").file("x", &data).finish();
        for archive in [v1, v0] {
            let entries = read_all(&archive).unwrap();
            prop_assert_eq!(&entries[0].0.path, b"real");
            prop_assert_eq!(&expand(&entries[0].0, &entries[0].1), &content);
        }
    }
}
