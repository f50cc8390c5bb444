//! Images on disk, and everything containers need beforehand.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plywood_engine::apply::{Context, PrivateWorker, Rootfs, apply};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::UserNsPool;
use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Request, plan};
use plywood_kernel::{
    FsContext, IdMap, IdRange, MountAttrs, Reaper, UnmountFlags, UserNs, remove_tree, unmount,
};
use rustix::fs::{CWD, IFlags};

/// Image sizes, in layers.
pub(crate) const LAYERS: [usize; 3] = [1, 50, 500];

/// Containers with a range and a user namespace of their own.
pub(crate) const CONTAINERS: usize = 1_100;

/// A directory that every layer has, and the files in it: as many in every image, however many layers they are
/// spread over, so that the size of directories is not taken for the number of layers.
pub(crate) const SHARED_DIR: &str = "usr/lib";
const FILES: usize = 500;

/// One way to make a rootfs.
#[derive(Clone, Copy)]
pub(crate) struct Arm {
    pub(crate) mechanism: Mechanism,
    pub(crate) source: LowerSource,
    pub(crate) layers: usize,
    pub(crate) passes: u32,
}

impl Arm {
    pub(crate) fn name(self) -> String {
        let Self { mechanism, source, layers, passes } = self;
        let times = if passes > 1 { format!(" x {passes}") } else { String::new() };
        format!("{mechanism}{times}, {source}, {layers}")
    }
}

pub(crate) struct Bed {
    pub(crate) root: PathBuf,
    pub(crate) capabilities: Capabilities,
    pub(crate) reaper: Reaper,
    worker: PrivateWorker,
    user_ns: Vec<Arc<UserNs>>,
    next: AtomicUsize,
    snapshots: PathBuf,
}

/// A container about to be assembled: its directories exist.
pub(crate) struct Prepared<'a> {
    bed: &'a Bed,
    index: usize,
    lowers: Lowers,
    arm: Arm,
    snapshot: PathBuf,
}

impl Bed {
    pub(crate) fn new(dir: &Path) -> Self {
        let root = dir.join(format!("plywood-bench-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        spread(&root);
        let snapshots = root.join(format!("snapshots-{}", std::process::id()));
        fs::create_dir(&snapshots).unwrap();
        fs::create_dir_all(root.join("rootfs")).unwrap();
        // Temporary mount points lie in memory, as in /run: the journal of a disk would be held against the mechanisms
        // that need many.
        let scratch = root.join("tmp");
        fs::create_dir(&scratch).unwrap();
        let memory = FsContext::open("tmpfs").unwrap();
        memory.create().unwrap();
        memory.mount(MountAttrs::NONE).unwrap().attach(CWD, &scratch).unwrap();
        for layers in LAYERS {
            let flat = root.join(format!("flat/{layers}/fs"));
            for n in 1..=layers {
                fill(&root.join(format!("layers-{layers}/{n}/fs")), n, layers);
                fill(&flat, n, layers);
            }
        }
        // Nothing of the images is written back while something is measured.
        plywood_kernel::syncfs(File::open(&root).unwrap()).unwrap();
        let capabilities = Capabilities::probe(&root).unwrap();
        let pool = UserNsPool::new();
        let maps: Vec<_> = (0..CONTAINERS).map(idmap).collect();
        pool.prepare(&maps).unwrap();
        let user_ns = maps.iter().map(|map| pool.get(map).unwrap()).collect();
        Self {
            worker: PrivateWorker::start(&[&root, &scratch]).unwrap(),
            reaper: Reaper::start().unwrap(),
            next: AtomicUsize::new(0),
            snapshots,
            root,
            capabilities,
            user_ns,
        }
    }

    /// The mechanism a launch here would use.
    pub(crate) fn chosen(&self) -> Mechanism {
        self.capabilities.choose().mechanism
    }

    pub(crate) fn default_arm(&self, source: LowerSource, layers: usize) -> Arm {
        Arm { mechanism: self.chosen(), source, layers, passes: 1 }
    }

    /// Makes a container's directories, which is not measured.
    pub(crate) fn prepare(&self, arm: Arm) -> Prepared<'_> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let snapshot = self.snapshots.join(index.to_string());
        for dir in ["fs", "work"] {
            fs::create_dir_all(snapshot.join(dir)).unwrap();
        }
        let name = |n: usize| LowerRef::new(format!("{n}/fs")).unwrap();
        let lowers = match arm.source {
            LowerSource::Flat => Lowers::flat(self.root.join("flat"), name(arm.layers)),
            LowerSource::Layers => {
                let parent = self.root.join(format!("layers-{}", arm.layers));
                Lowers::layers(parent, (1..=arm.layers).rev().map(name).collect())
            }
        };
        Prepared { bed: self, index: index % CONTAINERS, lowers: lowers.unwrap(), arm, snapshot }
    }

    /// Ends a round: nothing of it is still being closed or written while the next one is measured.
    ///
    /// The containers' directories stay until the end. ext4 without a journal does not give out an inode again for
    /// minutes after its deletion, and looks at each of them whenever it makes a file: removing thousands of files
    /// between rounds would make every later overlay slower by milliseconds.
    pub(crate) fn settle(&self) {
        self.reaper.drain();
        plywood_kernel::syncfs(File::open(&self.root).unwrap()).unwrap();
    }
}

impl Prepared<'_> {
    /// What is measured: the plan and everything it says.
    pub(crate) fn assemble(self) -> Rootfs {
        let (bed, arm) = (self.bed, self.arm);
        let snapshot = |name: &str| self.snapshot.join(name);
        let scratch = bed.root.join("tmp").join(self.index.to_string());
        let mut request =
            Request::new(self.lowers, idmap(self.index), snapshot("fs"), snapshot("work"), scratch);
        request.choice = Choice::Forced(arm.mechanism);
        request.passes = arm.passes;
        let plan = plan(&request, &bed.capabilities).unwrap();
        let context =
            Context { user_ns: &bed.user_ns[self.index], reaper: &bed.reaper, worker: Some(&bed.worker) };
        apply(&plan, &context).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        unmount(self.root.join("tmp"), UnmountFlags::DETACH).unwrap();
        let parent = File::open(self.root.parent().unwrap()).unwrap();
        let removed = remove_tree(&parent, Path::new(self.root.file_name().unwrap()));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// Asks ext4 to put what is made here elsewhere on the disk than what earlier runs have deleted.
fn spread(root: &Path) {
    let root = File::open(root).unwrap();
    if let Ok(flags) = rustix::fs::ioctl_getflags(&root) {
        rustix::fs::ioctl_setflags(&root, flags | IFlags::TOPDIR).unwrap();
    }
}

fn idmap(index: usize) -> IdMap {
    let index = u32::try_from(index).unwrap();
    let range = IdRange { start: 0x7000_0000 + index * 65_536, length: 65_536 };
    IdMap::from_ranges(range, range)
}

fn fill(tree: &Path, layer: usize, layers: usize) {
    for dir in [SHARED_DIR, "usr/bin", "etc"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for n in 0..FILES / layers {
        fs::write(tree.join(SHARED_DIR).join(format!("lib-{layer}-{n}.so")), b"content of a library")
            .unwrap();
    }
}
