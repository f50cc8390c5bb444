use proptest::prelude::*;

use super::*;

fn range(start: u32, length: u32) -> IdRange {
    IdRange { start, length }
}

fn files(subuid: &str, subgid: &str) -> EtcFiles {
    EtcFiles {
        subuid: subuid.into(),
        subgid: subgid.into(),
        passwd: "root:x:0:0::/root:/bin/sh\nplywood:x:990:990::/:/bin/false\nada:x:1000:1000::/:/bin/sh\n"
            .into(),
        group: "root:x:0:\nada:x:1000:\n".into(),
    }
}

fn overlaps(a: &IdRange, b: &IdRange) -> bool {
    a.overlaps(*b)
}

#[test]
fn comments_blank_lines_and_numeric_owners_are_read() {
    let entries =
        parse_subids("/etc/subuid", "# who\n\n ada:100000:65536\n990:200000:10\nnobody:5:0\n").unwrap();
    let want = [("ada", range(100_000, 65_536)), ("990", range(200_000, 10))];
    assert_eq!(entries.iter().map(|e| (e.owner.as_str(), e.range)).collect::<Vec<_>>(), want);
}

#[test]
fn a_malformed_line_is_named() {
    for (text, line, problem) in [
        ("ada:1:2\nada:x:2\n", 2, "first id"),
        ("ada:1:two\n", 1, "count"),
        ("# c\n\nada:1\n", 3, "three fields"),
        ("ada:1:2:3\n", 1, "three fields"),
        (":1:2\n", 1, "name is empty"),
        ("ada:4294967290:6\n", 1, "beyond the last id"),
        ("ada:-1:6\n", 1, "first id"),
        ("ada:1:4294967296\n", 1, "count"),
    ] {
        let error = parse_subids("/etc/subgid", text).unwrap_err();
        assert_eq!((error.file, error.line), ("/etc/subgid", line), "{text:?}");
        assert!(error.to_string().contains(problem), "{text:?}: {error}");
    }
}

#[test]
fn who_has_our_ids_as_well_is_named() {
    let taken = "plywood:300000:65536\nada:300000:65536\nbob:100000:65536\n";
    let pool = IdPool::new(&files(taken, "plywood:300000:65536\n"), 65_536).unwrap();
    assert_eq!(pool.rivals(), ["ada 300000+65536 in /etc/subuid"]);
    let hint = allocate(&pool, &IdsInUse::default(), 1).unwrap_err().hint;
    assert!(hint.contains("given to others as well: ada 300000+65536 in /etc/subuid"), "{hint}");

    let default = "ada:1900000000:65536\n";
    let pool = IdPool::new(&files(default, default), 65_536).unwrap();
    assert_eq!(pool.rivals().len(), 2);
}

#[test]
fn plywood_comes_before_containers_and_both_before_the_default() {
    let both = "containers:100000:65536\nplywood:300000:131072\n";
    let pool = IdPool::new(&files(both, both), 65_536).unwrap();
    assert_eq!((pool.source(), pool.uids()), (PoolSource::User("plywood"), &[range(300_000, 131_072)][..]));

    let second = "containers:100000:65536\n";
    assert_eq!(IdPool::new(&files(second, second), 65_536).unwrap().source(), PoolSource::User("containers"));

    let neither = "ada:100000:65536\n";
    let pool = IdPool::new(&files(neither, neither), 65_536).unwrap();
    assert_eq!(
        (pool.source(), pool.uids(), pool.capacity()),
        (PoolSource::Default, &[DEFAULT_POOL][..], 4094)
    );
}

#[test]
fn an_entry_by_user_id_is_the_users() {
    let numeric = "990:300000:65536\n";
    assert_eq!(IdPool::new(&files(numeric, numeric), 65_536).unwrap().source(), PoolSource::User("plywood"));
}

#[test]
fn ids_of_others_and_of_accounts_are_cut_out() {
    let text = format!("ada:{}:65536\n", DEFAULT_POOL.start + 65_536);
    let mut files = files(&text, "");
    files.passwd.push_str(&format!("odd:x:{}:1::/:/bin/sh\n", DEFAULT_POOL.start + 4 * 65_536 + 7));
    let pool = IdPool::new(&files, 65_536).unwrap();
    let leases = allocate(&pool, &IdsInUse::default(), 4).unwrap();
    for (lease, slot) in leases.iter().zip([0, 2, 3]) {
        assert_eq!(lease.uid.start, DEFAULT_POOL.start + slot * 65_536);
        assert_eq!(lease.uid, lease.gid, "equal numbers while both are free");
    }
    // After the odd account, user ids are no longer aligned as group ids are.
    assert_eq!(leases[3].uid.start, DEFAULT_POOL.start + 4 * 65_536 + 8);
    assert_eq!(leases[3].gid.start, DEFAULT_POOL.start + 65_536);
}

#[test]
fn ranges_in_one_file_only_are_refused() {
    let error = IdPool::new(&files("plywood:300000:65536\n", ""), 65_536).unwrap_err();
    assert!(matches!(error, PoolError::OneSided { owner: "plywood", lacks: "/etc/subgid", .. }), "{error}");
}

#[test]
fn too_few_ranges_say_how_many_and_what_to_do() {
    let two = "plywood:300000:131072\n";
    let pool = IdPool::new(&files(two, two), 65_536).unwrap();
    let live = allocate(&pool, &IdsInUse::default(), 1).unwrap();
    let error = allocate(&pool, &live.iter().copied().collect(), 3).unwrap_err();
    assert_eq!((error.wanted, error.free), (3, 1));
    assert!(error.to_string().contains("give user plywood 131072 more ids in /etc/subuid"), "{error}");
}

#[test]
fn a_live_lease_of_another_length_blocks_every_slot_it_touches() {
    let two = "plywood:300000:262144\n";
    let pool = IdPool::new(&files(two, two), 65_536).unwrap();
    let odd = IdLease { uid: range(300_000 + 60_000, 10_000), gid: range(1, 1) };
    let leases = allocate(&pool, &IdsInUse::from_iter([odd]), 2).unwrap();
    assert_eq!(leases[0].uid.start, 300_000 + 131_072);
}

fn entries() -> impl Strategy<Value = Vec<(&'static str, u32, u32)>> {
    let owner = prop::sample::select(vec!["plywood", "containers", "ada", "990"]);
    prop::collection::vec((owner, 0u32..3000, 0u32..900), 0..8)
}

fn text(entries: &[(&str, u32, u32)]) -> String {
    entries.iter().map(|(owner, start, count)| format!("{owner}:{start}:{count}\n")).collect()
}

proptest! {
    #[test]
    fn leases_never_overlap_and_never_touch_what_others_have(
        uids in entries(), gids in entries(), length in 1u32..400, steps in prop::collection::vec(1usize..4, 1..6),
        stray in prop::collection::vec((0u32..4000, 1u32..500), 0..4),
    ) {
        let files = files(&text(&uids), &text(&gids));
        let Ok(pool) = IdPool::new(&files, length) else { return Ok(()) };
        let owner = match pool.source() { PoolSource::User(owner) => Some(owner), PoolSource::Default => None };
        let mine = |name: &str| owner == Some(name) || (owner == Some("plywood") && name == "990");
        let mut live: Vec<IdLease> =
            stray.iter().map(|&(start, len)| IdLease { uid: range(start, len), gid: range(start, len) }).collect();
        for count in steps {
            let Ok(fresh) = allocate(&pool, &live.iter().copied().collect(), count) else { break };
            prop_assert_eq!(fresh.len(), count);
            for lease in fresh {
                prop_assert_eq!((lease.uid.length, lease.gid.length), (length, length));
                for other in &live {
                    prop_assert!(!overlaps(&lease.uid, &other.uid) && !overlaps(&lease.gid, &other.gid));
                }
                for (entries, leased) in [(&uids, lease.uid), (&gids, lease.gid)] {
                    for (name, start, count) in entries {
                        prop_assert!(mine(name) || !overlaps(&leased, &range(*start, *count)));
                    }
                }
                for account in [0, 990, 1000] {
                    prop_assert!(!overlaps(&lease.uid, &range(account, 1)));
                }
                let inside = |pool: &[IdRange], leased: IdRange| pool.iter().any(|part|
                    part.start <= leased.start && leased.start + leased.length <= part.start + part.length);
                prop_assert!(inside(pool.uids(), lease.uid) && inside(pool.gids(), lease.gid));
                live.push(lease);
            }
        }
    }

    #[test]
    fn a_refusal_means_that_fewer_are_free(length in 1u32..400, size in 1u32..3000, taken in 0usize..8, wanted in 1usize..20) {
        let entry = format!("plywood:5000:{size}\n");
        let pool = IdPool::new(&files(&entry, &entry), length).unwrap();
        let live = allocate(&pool, &IdsInUse::default(), taken.min(pool.capacity())).unwrap();
        match allocate(&pool, &live.iter().copied().collect(), wanted) {
            Ok(leases) => prop_assert!(leases.len() == wanted && wanted <= pool.capacity() - live.len()),
            Err(error) => {
                prop_assert_eq!(error.free, pool.capacity() - live.len());
                prop_assert!(error.free < wanted);
            }
        }
    }
}
