//! Who contends and who runs beside, spread over the machine alike; pure.
//!
//! ```text
//! mount    one half contends, the other walks: threads of one CPU are paired first, then what is left over of each
//!          core, cache, node and socket, so that nowhere are there two more of the one than of the other
//! seqlock  one writes: a thread of the socket, node, cache and core that has most of them, so that readers are left
//!          where threads were
//! others   all contend
//! ```

use std::collections::BTreeMap;

use super::LockKind;
use crate::Placement;
use crate::placement::LEVELS;

/// Where a thread is: socket, node, cache, core, CPU.
type Seat = [usize; LEVELS + 1];

/// What each thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roles(Vec<bool>);

impl Roles {
    /// Of so many threads under this lock, put where the placement says.
    pub(super) fn new(lock: LockKind, placement: &Placement, threads: usize) -> Self {
        let seats: Vec<Seat> = (0..threads).map(|thread| seat(placement, thread)).collect();
        let mut contends = vec![true; threads];
        let all: Vec<usize> = (0..threads).collect();
        match lock {
            LockKind::Mount => {
                pair(&seats, &all, 0, &mut contends);
            }
            LockKind::Seqlock if threads > 1 => contends[fullest(&seats, all)] = false,
            LockKind::Seqlock | LockKind::Cas | LockKind::Ticket | LockKind::Mcs | LockKind::Mutex => {}
        }
        Self(contends)
    }

    /// Whether the thread is one of those that are measured.
    pub(super) fn contends(&self, thread: usize) -> bool {
        self.0[thread]
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.0.len()
    }
}

fn seat(placement: &Placement, thread: usize) -> Seat {
    let at = thread.checked_rem(placement.cpus.len()).unwrap_or(0);
    let mut seat = [at; LEVELS + 1];
    seat[..LEVELS].copy_from_slice(&placement.places.get(at).copied().unwrap_or_default());
    seat
}

fn groups(seats: &[Seat], threads: &[usize], level: usize) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &thread in threads {
        groups.entry(seats[thread][level]).or_default().push(thread);
    }
    groups.into_values().collect()
}

/// Gives one of each two threads that are near each other another role, and returns the one that is left over.
fn pair(seats: &[Seat], threads: &[usize], level: usize, contends: &mut [bool]) -> Option<usize> {
    let left: Vec<usize> = if level <= LEVELS {
        let groups = groups(seats, threads, level);
        groups.iter().filter_map(|group| pair(seats, group, level + 1, contends)).collect()
    } else {
        threads.to_vec()
    };
    left.chunks_exact(2).for_each(|pair| contends[pair[1]] = false);
    left.chunks_exact(2).remainder().first().copied()
}

/// The first thread of the fullest group of the fullest group.
fn fullest(seats: &[Seat], mut threads: Vec<usize>) -> usize {
    for level in 0..=LEVELS {
        let groups = groups(seats, &threads, level);
        let most = groups.iter().map(Vec::len).max();
        threads = groups.into_iter().find(|group| Some(group.len()) == most).unwrap_or_default();
    }
    threads.first().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Topology, placement};

    /// Machines of two sockets, of eight caches, of one cache, and one that shows nothing.
    const MACHINES: [&str; 4] = [
        include_str!("../../tests/fixtures/emulated-2-sockets.txt"),
        include_str!("../../tests/fixtures/xeon-2-sockets-snc.txt"),
        include_str!("../../tests/fixtures/epyc-8-cache-domains.txt"),
        include_str!("../../tests/fixtures/vm-hides-all.txt"),
    ];

    /// How many of each role there are in each group of a level, by the machine's own lists of CPUs.
    fn counts(groups: &[Vec<u32>], cpus: &[u32], roles: &Roles) -> Vec<(usize, usize)> {
        let of = |group: &Vec<u32>, contends| {
            let here = cpus.iter().enumerate().filter(|(_, cpu)| group.contains(cpu));
            here.filter(|(thread, _)| roles.contends(*thread) == contends).count()
        };
        groups.iter().map(|group| (of(group, true), of(group, false))).collect()
    }

    fn levels(machine: &Topology) -> Vec<Vec<Vec<u32>>> {
        let list = |cpus: &crate::CpuSet| cpus.iter().collect();
        vec![
            machine.sockets.iter().map(|one| list(&one.cpus)).collect(),
            machine.nodes.iter().map(|one| list(&one.cpus)).collect(),
            machine.caches.iter().map(|one| list(&one.cpus)).collect(),
            machine.cores.iter().map(|one| list(&one.cpus)).collect(),
        ]
    }

    /// Threads alternate between sockets; had every second one contended, all contenders would be on one of them.
    #[test]
    fn contenders_and_walkers_are_spread_over_all_groups_alike() {
        for text in MACHINES {
            let machine = Topology::parse(&text.parse().unwrap());
            for placement in placement::all(&machine) {
                for threads in 1..=2 * placement.cpus.len() {
                    let roles = Roles::new(LockKind::Mount, &placement, threads);
                    let cpus: Vec<u32> = (0..threads).filter_map(|thread| placement.cpu(thread)).collect();
                    let every: Vec<Vec<u32>> = vec![cpus.clone()];
                    assert_eq!(
                        counts(&every, &cpus, &roles),
                        [(LockKind::Mount.contenders(threads), threads / 2)]
                    );
                    for level in levels(&machine) {
                        for (contend, walk) in counts(&level, &cpus, &roles) {
                            assert!(
                                contend.abs_diff(walk) <= 1,
                                "{contend} and {walk} of {threads} on {}",
                                placement.name
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn on_two_sockets_both_contend_on_both() {
        let machine = Topology::parse(&MACHINES[0].parse().unwrap());
        let sockets = &levels(&machine)[0];
        for name in ["all", "two-sockets", "one-per-core"] {
            let placement = placement::find(&machine, name).unwrap();
            let half = placement.cpus.len() / 4;
            let roles = Roles::new(LockKind::Mount, &placement, placement.cpus.len());
            assert_eq!(counts(sockets, &placement.cpus, &roles), [(half, half); 2], "{name}");
        }
    }

    #[test]
    fn readers_are_where_threads_are_and_one_writes() {
        for text in MACHINES {
            let machine = Topology::parse(&text.parse().unwrap());
            let all = placement::find(&machine, "all").unwrap();
            for threads in 2..=all.cpus.len() {
                let roles = Roles::new(LockKind::Seqlock, &all, threads);
                let cpus = &all.cpus[..threads];
                assert_eq!(
                    counts(&[cpus.to_vec()], cpus, &roles),
                    [(LockKind::Seqlock.contenders(threads), 1)]
                );
                for level in levels(&machine).into_iter().take(3).filter(|level| !level.is_empty()) {
                    let readers = counts(&level, cpus, &roles).into_iter().map(|(readers, _)| readers);
                    let (least, most) = (readers.clone().min().unwrap(), readers.max().unwrap());
                    assert!(most - least <= 1, "{least} to {most} readers of {threads} threads");
                }
            }
        }
        // Of a socket with one thread, the only one does not write.
        let mut machine = Topology::parse(&MACHINES[0].parse().unwrap());
        machine.allowed = "0,8-15".parse().unwrap();
        let all = placement::find(&machine, "all").unwrap();
        let roles = Roles::new(LockKind::Seqlock, &all, 3);
        assert_eq!(all.cpus[0], 0);
        assert!(roles.contends(0));
    }

    #[test]
    fn one_thread_contends_whatever_the_lock() {
        let machine = Topology::parse(&MACHINES[0].parse().unwrap());
        let all = placement::find(&machine, "all").unwrap();
        for lock in LockKind::ALL {
            assert!(Roles::new(lock, &all, 1).contends(0));
            assert_eq!(lock.contenders(1), 1);
            let eight = Roles::new(lock, &all, 8);
            assert_eq!((0..8).filter(|me| eight.contends(*me)).count(), lock.contenders(8), "{lock}");
        }
    }
}
