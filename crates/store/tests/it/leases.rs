//! Leases: never overlapping, whatever the allocator says.

use std::convert::Infallible;

use plywood_kernel::IdRange;
use plywood_store::{LeaseError, NewLease, Store};

use crate::support::store;

fn range(start: u32, length: u32) -> IdRange {
    IdRange { start, length }
}

fn take(store: &Store, ranges: &[(IdRange, IdRange)]) -> Result<(), LeaseError<Infallible>> {
    let new = |&(uid, gid): &(IdRange, IdRange)| NewLease { uid, gid, container: None };
    store.lease_ranges(|_| Ok(ranges.iter().map(new).collect())).map(|_| ())
}

#[test]
fn overlaps_in_either_id_space_are_refused_whole() {
    let (_scratch, store) = store();
    take(&store, &[(range(1000, 100), range(5000, 100))]).unwrap();
    let free = range(100_000, 10);
    for (case, uid, gid) in [
        ("same", range(1000, 100), range(5000, 100)),
        ("same users", range(1000, 100), free),
        ("same groups", free, range(5000, 100)),
        ("last id", range(1099, 10), free),
        ("first id", range(991, 10), free),
        ("inside", range(1050, 1), free),
        ("around", range(0, 100_000), free),
        ("groups around", free, range(0, 1_000_000)),
        ("empty", range(7, 0), free),
        ("beyond the end", range(u32::MAX, 2), free),
    ] {
        let both = [(range(200_000, 10), range(200_000, 10)), (uid, gid)];
        let error = take(&store, &both).unwrap_err();
        assert!(matches!(error, LeaseError::Overlap { .. }), "{case}: {error:?}");
        assert_eq!(store.leases().unwrap().len(), 1, "{case}");
    }
    take(&store, &[(range(1100, 10), range(5100, 10)), (range(990, 10), range(4990, 10))]).unwrap();
    take(&store, &[(range(u32::MAX, 1), range(u32::MAX, 1))]).unwrap();
    assert_eq!(store.leases().unwrap().len(), 4);
}

#[test]
fn overlaps_among_the_new_ones_are_refused() {
    let (_scratch, store) = store();
    let twice = [(range(10, 5), range(10, 5)), (range(12, 5), range(20, 5))];
    assert!(matches!(take(&store, &twice), Err(LeaseError::Overlap { .. })));
    assert!(store.leases().unwrap().is_empty());
}

#[test]
fn released_ranges_can_be_taken_again() {
    let (_scratch, store) = store();
    take(&store, &[(range(10, 5), range(10, 5))]).unwrap();
    let ids: Vec<_> = store.leases().unwrap().iter().map(|lease| lease.id).collect();
    store.release_leases(&ids).unwrap();
    store.release_leases(&ids).unwrap();
    take(&store, &[(range(12, 5), range(12, 5))]).unwrap();
}

/// A number given out twice let whoever released its lease late release another's.
#[test]
fn a_lease_released_again_takes_no_newer_one_with_it() {
    let (_scratch, store) = store();
    let newest = |store: &Store| store.leases().unwrap().iter().map(|lease| lease.id).collect::<Vec<_>>();
    take(&store, &[(range(10, 5), range(10, 5))]).unwrap();
    let old = newest(&store);
    store.release_leases(&old).unwrap();
    take(&store, &[(range(20, 5), range(20, 5))]).unwrap();
    store.release_leases(&old).unwrap();
    assert_eq!(store.leases().unwrap().len(), 1);
    assert_ne!(newest(&store), old);
}

#[test]
fn an_allocator_that_fails_takes_nothing() {
    #[derive(Debug, thiserror::Error)]
    #[error("no free range")]
    struct Full;
    let (_scratch, store) = store();
    take(&store, &[(range(10, 5), range(10, 5))]).unwrap();
    let error = store
        .lease_ranges(|live| {
            assert_eq!(live.len(), 1);
            assert_eq!(live[0].uid, range(10, 5));
            Err(Full)
        })
        .unwrap_err();
    assert!(matches!(error, LeaseError::Allocate(Full)));
}
