//! Every lock keeps threads apart, with as many threads as CPUs and with more.

use std::time::Duration;

use plywood_kernel::testing::require_root;
use plywood_kernel::{MountWatch, table};

use super::*;
use crate::lockbench::section::Pace;

fn roles(kind: LockKind, threads: usize) -> Roles {
    let cpus = (0..4).collect();
    let places = vec![Default::default(); 4];
    let placement =
        crate::Placement { name: String::new(), aliases: Vec::new(), what: String::new(), cpus, places };
    Roles::new(kind, &placement, threads)
}

/// How often the data was written if `threads` did `operations` each.
fn contend<L: Lock>(kind: LockKind, threads: usize, operations: usize) -> Option<u64> {
    let section = Section::new(Pace::measure(), Duration::from_nanos(20), Duration::ZERO);
    let lock = L::new(&roles(kind, threads)).unwrap();
    let start = std::sync::Barrier::new(threads);
    std::thread::scope(|scope| {
        for me in 0..threads {
            let (lock, section, start) = (&lock, &section, &start);
            scope.spawn(move || {
                lock.join().unwrap();
                start.wait();
                (0..operations).for_each(|_| lock.operate(me, section).unwrap());
            });
        }
    });
    section.consistent_writes()
}

#[test]
fn no_lock_lets_two_in() {
    for (threads, operations) in [(1, 1000), (2, 50_000), (5, 200)] {
        let all = Some((threads * operations) as u64);
        assert_eq!(contend::<Cas>(LockKind::Cas, threads, operations), all);
        assert_eq!(contend::<Ticket>(LockKind::Ticket, threads, operations), all);
        assert_eq!(contend::<Mcs>(LockKind::Mcs, threads, operations), all);
        assert_eq!(contend::<Mutex>(LockKind::Mutex, threads, operations), all);
        let writes = if threads == 1 { 0 } else { operations as u64 };
        assert_eq!(
            contend::<Seqlock>(LockKind::Seqlock, threads, operations),
            Some(writes),
            "one writes, the others see whole data"
        );
    }
}

/// The test above would find a lock that does nothing.
#[test]
fn a_lock_that_does_nothing_is_found_out() {
    struct Nothing;
    impl Lock for Nothing {
        fn new(_roles: &Roles) -> Result<Self, SyscallError> {
            Ok(Self)
        }

        fn operate(&self, _me: usize, section: &Section) -> Result<(), SyscallError> {
            section.write();
            Ok(())
        }
    }
    let found = (0..20).any(|_| contend::<Nothing>(LockKind::Cas, 4, 200_000) != Some(800_000));
    assert!(found || std::thread::available_parallelism().unwrap().get() == 1);
}

#[test]
fn root_mounting_leaves_nothing_and_is_seen_by_nobody() {
    require_root();
    plywood_kernel::testing::in_private_mount_ns(|| {
        let before = table::list().unwrap();
        let mut watch = MountWatch::start().unwrap();
        contend::<Mount>(LockKind::Mount, 4, 50);
        assert_eq!(watch.counts().unwrap().total(), 0);
        assert_eq!(table::list().unwrap(), before);
    });
}

#[test]
fn every_lock_is_found_by_its_name() {
    for lock in LockKind::ALL {
        assert_eq!(lock.name().parse(), Ok(lock));
        assert_eq!(serde_json::to_value(lock).unwrap(), lock.name());
    }
    assert!("spin".parse::<LockKind>().unwrap_err().to_string().contains("ticket"));
}
