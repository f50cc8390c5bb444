//! What steps cost: operations on mount tables, and work under the kernel's global locks.

use serde::{Deserialize, Serialize};

use super::{Op, Place, Step};

/// Operations on mount tables; those on the host's own table are counted in both pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountOps {
    /// Mounts attached to any table.
    pub attach: usize,
    /// Mounts detached from any table.
    pub detach: usize,
    /// Mounts attached to the host's table.
    pub host_attach: usize,
    /// Mounts detached from the host's table.
    pub host_detach: usize,
}

impl MountOps {
    /// Operations on any table.
    pub fn total(self) -> usize {
        self.attach + self.detach
    }

    /// Operations on the host's table.
    pub fn host(self) -> usize {
        self.host_attach + self.host_detach
    }
}

impl std::ops::Add for MountOps {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            attach: self.attach + other.attach,
            detach: self.detach + other.detach,
            host_attach: self.host_attach + other.host_attach,
            host_detach: self.host_detach + other.host_detach,
        }
    }
}

/// How often the global mount locks are taken, as read in the kernel's source (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LockWork {
    /// `namespace_sem` for writing: everybody else's mounts wait.
    pub namespace_sem_write: usize,
    /// `namespace_sem` for reading.
    pub namespace_sem_read: usize,
    /// `mount_lock`: every path walk on the machine waits.
    pub mount_lock: usize,
}

impl Step {
    /// What this step does to mount tables.
    pub fn mount_ops(&self) -> MountOps {
        let host = usize::from(self.place == Place::Caller);
        match self.op {
            Op::Attach { .. } | Op::MountOverlay { .. } | Op::Bind { .. } => {
                MountOps { attach: 1, host_attach: host, ..MountOps::default() }
            }
            Op::Unmount { .. } => MountOps { detach: 1, host_detach: host, ..MountOps::default() },
            _ => MountOps::default(),
        }
    }
}

/// The locks taken by the steps, and by the end of every overlay they make. `layers` is the number of lower
/// directories of each overlay.
pub(super) fn lock_work(steps: &[Step], layers: usize) -> LockWork {
    let mut work = LockWork::default();
    for step in steps {
        let (write, read, lock) = match step.op {
            Op::OpenTree { .. } | Op::Attach { .. } | Op::Unmount { .. } => (1, 0, 1),
            Op::Bind { .. } => (1, 0, 2),
            Op::SetIdmap { .. } | Op::SetAttrs { .. } | Op::FsMount { .. } => (0, 0, 1),
            // A private clone of every lower directory's mount and of the upper's, made now, dropped with the overlay.
            Op::FsCreate => (0, layers + 1, 2 * (layers + 1)),
            Op::MountOverlay { .. } => (1, layers + 1, 2 + 2 * (layers + 1)),
            // A detached mount never attached is unmounted by its close.
            Op::Close { .. } if step.place == Place::Reaper => (1, 0, 1),
            _ => (0, 0, 0),
        };
        work.namespace_sem_write += write;
        work.namespace_sem_read += read;
        work.mount_lock += lock;
    }
    work
}
