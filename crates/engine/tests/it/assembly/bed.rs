//! A small image on disk, as layers and as a flat tree, and a container's directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use plywood_engine::apply::{ApplyError, Context, PrivateWorker, Rootfs, apply};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Plan, Request, plan};
use plywood_kernel::{IdMap, IdRange, Reaper, UnmountFlags, UserNs, remove_tree, table, unmount};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// The ids of the container; each test has its own directories, so all may share them.
pub(crate) const RANGE: IdRange = IdRange { start: 0x7000_0000 + 65_536, length: 65_536 };
pub(crate) const HOST_ROOT: u32 = RANGE.start;

pub(crate) struct Bed {
    pub(crate) root: PathBuf,
    pub(crate) layers: usize,
    pub(crate) user_ns: UserNs,
    pub(crate) reaper: Reaper,
    worker: Option<PrivateWorker>,
}

impl Bed {
    /// An image of `layers` layers (at least 2), the bottom one with files, the top one with what hides some of them.
    pub(crate) fn new(layers: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plywood-engine-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        for dir in ["flat/1/fs", "upper", "work", "tmp", "mnt"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for n in 1..=layers {
            let layer = root.join(format!("layers/{n}/fs"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("of-layer-{n}")), b"").unwrap();
            fs::write(root.join("flat/1/fs").join(format!("of-layer-{n}")), b"").unwrap();
        }
        let user_ns = UserNs::create(&idmap()).unwrap();
        let bed = Self { root, layers, user_ns, reaper: Reaper::start().unwrap(), worker: None };
        bottom(&bed.layer(1));
        top(&bed.layer(layers));
        merged(&bed.path("flat/1/fs"));
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn layer(&self, n: usize) -> PathBuf {
        self.path(&format!("layers/{n}/fs"))
    }

    pub(crate) fn lowers(&self, source: LowerSource) -> Lowers {
        match source {
            LowerSource::Flat => Lowers::flat(self.path("flat"), LowerRef::new("1/fs").unwrap()).unwrap(),
            LowerSource::Layers => {
                let names = (1..=self.layers).rev().map(|n| LowerRef::new(format!("{n}/fs")).unwrap());
                Lowers::layers(self.path("layers"), names.collect()).unwrap()
            }
        }
    }

    pub(crate) fn request(&self, choice: Choice, source: LowerSource) -> Request {
        let paths = ["upper", "work", "tmp/1"].map(|name| self.path(name));
        let [upper, work, scratch] = paths;
        Request { choice, ..Request::new(self.lowers(source), idmap(), upper, work, scratch) }
    }

    /// Plans with everything assumed to work: the kernel has the last word.
    pub(crate) fn plan(&self, mechanism: Mechanism, source: LowerSource) -> Plan {
        plan(&self.request(Choice::Forced(mechanism), source), &Capabilities::assumed()).unwrap()
    }

    /// Starts the worker of `private` in the calling thread's namespace.
    pub(crate) fn with_worker(mut self) -> Self {
        self.worker = Some(PrivateWorker::start(&[&self.root]).unwrap());
        self
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { user_ns: &self.user_ns, reaper: &self.reaper, worker: self.worker.as_ref() }
    }

    pub(crate) fn apply(&self, plan: &Plan) -> Result<Rootfs, ApplyError> {
        apply(plan, &self.context())
    }

    /// Attaches a rootfs where processes of the container can reach it, and runs a script there as its root.
    pub(crate) fn inside(&self, rootfs: &Rootfs, script: &str) -> String {
        let at = self.path("mnt");
        rootfs.attach(CWD, &at).unwrap();
        let output = in_user_ns(&self.user_ns, &at, script);
        // The rootfs descriptor keeps the mount busy.
        unmount(&at, UnmountFlags::DETACH).unwrap();
        output
    }

    /// Mounts in this namespace that have anything to do with this bed.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let entries = table::list().unwrap();
        entries
            .into_iter()
            .map(|entry| entry.mount_point)
            .filter(|point| point.starts_with(&self.root))
            .collect()
    }

    /// Nothing temporary is left, here or on disk.
    pub(crate) fn assert_no_traces(&self, what: &str) {
        self.reaper.drain();
        assert_eq!(self.mounts(), Vec::<PathBuf>::new(), "{what}: mounts");
        assert_eq!(names(&self.path("tmp")), Vec::<String>::new(), "{what}: mount points");
    }

    /// As if no container had ever been here.
    pub(crate) fn assert_untouched(&self, what: &str) {
        self.assert_no_traces(what);
        for dir in ["upper", "work"] {
            assert_eq!(names(&self.path(dir)), Vec::<String>::new(), "{what}: {dir}");
        }
    }

    /// Gives the next container fresh directories.
    pub(crate) fn empty_snapshot(&self) {
        for dir in ["upper", "work"] {
            remove_tree(fs::File::open(&self.root).unwrap(), Path::new(dir)).unwrap();
            fs::create_dir(self.path(dir)).unwrap();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.worker = None;
        let parent = fs::File::open(self.root.parent().unwrap()).unwrap();
        let removed = remove_tree(&parent, Path::new(self.root.file_name().unwrap()));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

pub(crate) fn idmap() -> IdMap {
    IdMap::from_ranges(RANGE, RANGE)
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs a shell as root of the user namespace, in the calling thread's mount namespace.
pub(crate) fn in_user_ns(ns: &UserNs, dir: &Path, script: &str) -> String {
    use std::os::fd::{AsFd, AsRawFd};
    let ns = format!("--user=/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    let script = format!("cd {} && {script}", dir.display());
    let output = Command::new("nsenter")
        .args([&ns, "--setuid=0", "--setgid=0", "sh", "-ec", &script])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{err}");
    out.trim_end().to_owned()
}

fn write(path: &Path, text: &str, owner: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn bottom(layer: &Path) {
    common(layer);
    write(&layer.join("gone"), "hidden by a whiteout", 0);
    write(&layer.join("opaque/old"), "hidden by an opaque directory", 0);
    write(&layer.join("dir/replaced"), "old", 0);
}

fn top(layer: &Path) {
    rustix::fs::mknodat(CWD, layer.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    write(&layer.join("opaque/new"), "", 0);
    rustix::fs::lsetxattr(layer.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    write(&layer.join("dir/replaced"), "new", 7);
    write(&layer.join("dir/added"), "", 0);
    fs::set_permissions(layer, fs::Permissions::from_mode(0o751)).unwrap();
}

/// What both together show.
fn merged(tree: &Path) {
    common(tree);
    write(&tree.join("opaque/new"), "", 0);
    write(&tree.join("dir/replaced"), "new", 7);
    write(&tree.join("dir/added"), "", 0);
    fs::set_permissions(tree, fs::Permissions::from_mode(0o751)).unwrap();
}

fn common(tree: &Path) {
    write(&tree.join("file"), "from the image\n", 0);
    write(&tree.join("home/user"), "", 1000);
    fs::set_permissions(tree.join("home/user"), fs::Permissions::from_mode(0o4750)).unwrap();
    chown(tree.join("home"), Some(1000), Some(1000)).unwrap();
    write(&tree.join("dir/kept"), "", 0);
    write(&tree.join("links/one"), "linked", 0);
    fs::hard_link(tree.join("links/one"), tree.join("links/two")).unwrap();
    symlink("../file", tree.join("links/soft")).unwrap();
    rustix::fs::mknodat(
        CWD,
        tree.join("null"),
        FileType::CharacterDevice,
        Mode::RWXU,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
}
