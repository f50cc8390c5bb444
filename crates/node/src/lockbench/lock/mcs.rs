//! The queue lock of Mellor-Crummey and Scott: each waiter reads a line of its own, a release writes one other line.
//!
//! Nodes lie in a slab and point to each other by index, one node a thread; 0 means none.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use plywood_kernel::SyscallError;

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::{Padded, Section};

#[derive(Default)]
struct Node {
    next: AtomicUsize,
    waiting: AtomicBool,
}

pub(in crate::lockbench) struct Mcs {
    /// The last of the queue.
    tail: Padded<AtomicUsize>,
    /// The node of thread `me` is at `me + 1`.
    nodes: Vec<Padded<Node>>,
}

impl Lock for Mcs {
    fn new(roles: &Roles) -> Result<Self, SyscallError> {
        let nodes = std::iter::repeat_with(Padded::default).take(roles.threads() + 1).collect();
        Ok(Self { tail: Padded::default(), nodes })
    }

    fn operate(&self, me: usize, section: &Section) -> Result<(), SyscallError> {
        let (index, node) = (me + 1, &self.nodes[me + 1]);
        node.next.store(0, Ordering::Relaxed);
        node.waiting.store(true, Ordering::Relaxed);
        let before = self.tail.swap(index, Ordering::AcqRel);
        if before != 0 {
            self.nodes[before].next.store(index, Ordering::Release);
            while node.waiting.load(Ordering::Acquire) {
                spin_loop();
            }
        }
        section.write();
        let alone = || self.tail.compare_exchange(index, 0, Ordering::Release, Ordering::Relaxed).is_ok();
        let mut next = node.next.load(Ordering::Acquire);
        if next == 0 && alone() {
            return Ok(());
        }
        // Somebody has taken the tail and is about to say who it is.
        while next == 0 {
            spin_loop();
            next = node.next.load(Ordering::Acquire);
        }
        self.nodes[next].waiting.store(false, Ordering::Release);
        Ok(())
    }
}
