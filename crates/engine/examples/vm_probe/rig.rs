//! What all checks share: images, a user namespace, the threads a launch has, and the comparison of before and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use plywood_engine::apply::{Context, PrivateWorker};
use plywood_engine::lower::{Lowers, MAX_LOWERS};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::Request;
use plywood_kernel::{IdMap, IdRange, MountCounts, MountEntry, MountNs, MountWatch, Reaper, UserNs, table};

use crate::{Checked, tree};

/// Host ids of the containers.
const RANGE: IdRange = IdRange { start: 500_000, length: 65_536 };

pub(crate) struct Rig {
    dir: PathBuf,
    sets: Vec<tree::Named>,
    pub(crate) user_ns: UserNs,
    /// What launches start from: a namespace with a handful of mounts.
    pub(crate) template: MountNs,
    reaper: Reaper,
    worker: PrivateWorker,
    next: AtomicU32,
}

impl Rig {
    pub(crate) fn new(dir: &Path) -> Checked<Self> {
        fs::create_dir_all(dir.join("containers"))?;
        fs::create_dir_all(dir.join("rootfs"))?;
        Ok(Self {
            dir: dir.to_owned(),
            sets: tree::make(&dir.join("images"))?,
            user_ns: UserNs::create(&Self::idmap())?,
            template: MountNs::minimal(&[dir, Path::new("/proc")])?,
            reaper: Reaper::start()?,
            worker: PrivateWorker::start(&[dir])?,
            next: AtomicU32::new(0),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The images, each with the name of its case.
    pub(crate) fn sets(&self) -> impl Iterator<Item = (&'static str, &Lowers)> {
        self.sets.iter().map(|(name, lowers)| (*name, lowers))
    }

    /// Where a container's rootfs is attached, in whatever namespace.
    pub(crate) fn anchor(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn idmap() -> IdMap {
        IdMap::from_ranges(RANGE, RANGE)
    }

    /// A request for a new container's rootfs, its directories made.
    pub(crate) fn request(&self, mechanism: Mechanism, lowers: &Lowers) -> Checked<Request> {
        let own = self.dir.join("containers").join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let [upper, work, scratch] = ["upper", "work", "scratch"].map(|name| own.join(name));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let mut request = Request::new(lowers.clone(), Self::idmap(), upper, work, scratch);
        request.choice = Choice::Forced(mechanism);
        // What containerd does, where a mechanism can be made to do it. A look has the writable directory among its
        // lower ones, so at the kernel's limit there is no room for it.
        request.passes = if lowers.count() < MAX_LOWERS { 2 } else { 1 };
        Ok(request)
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { user_ns: &self.user_ns, reaper: &self.reaper, worker: Some(&self.worker) }
    }

    /// Runs a check; the mount table and the descriptors afterwards must be those of before.
    pub(crate) fn leaving_nothing<T>(&self, check: impl FnOnce() -> Checked<T>) -> Checked<T> {
        let (mounts, descriptors) = (mounts()?, descriptors()?);
        let value = check()?;
        self.reaper.drain();
        let (mounts_now, descriptors_now) = (self::mounts()?, self::descriptors()?);
        if mounts_now != mounts {
            return Err(format!("the mount table was {mounts:?} and is {mounts_now:?}").into());
        }
        if descriptors_now != descriptors {
            return Err(format!("descriptors were {descriptors:?} and are {descriptors_now:?}").into());
        }
        Ok(value)
    }

    /// Runs something and counts what it did to this namespace's table; `None` where the kernel does not tell.
    pub(crate) fn watched<T>(work: impl FnOnce() -> Checked<T>) -> Checked<(T, Option<MountCounts>)> {
        let mut watch = MountWatch::start()?;
        let value = work()?;
        let counts = watch.counts()?;
        Ok((value, watch.is_exact().then_some(counts)))
    }
}

/// The table as the kernel's text has it, which every kernel writes the same way.
fn mounts() -> Checked<Vec<(u64, PathBuf, String)>> {
    let entry = |entry: MountEntry| (entry.id, entry.mount_point, entry.source);
    Ok(table::list_mountinfo()?.into_iter().map(entry).collect())
}

fn descriptors() -> Checked<Vec<String>> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        // The directory being read is in its own list and gone before it is looked at.
        let path = entry?.path();
        if let Ok(target) = fs::read_link(&path)
            && !target.starts_with("/proc")
        {
            open.push(format!("{} {}", path.display(), target.display()));
        }
    }
    open.sort();
    Ok(open)
}
