//! The steps of a plan: one kernel call each, or a few that belong together, printed as strace would show them.

use std::fmt;
use std::path::{Path, PathBuf};

use plywood_kernel::mount::MountAttrs;

/// Who makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The thread that launches, in its own mount namespace: the host's, unless somebody moved it.
    Caller,
    /// The worker thread, in its private mount namespace.
    Worker,
    /// The reaper thread, after the launch went on.
    Reaper,
}

/// A descriptor a step makes and later steps use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The idmapped clone: of the common parent (0), or of layer n in `per-layer`.
    Clone(usize),
    /// The common parent itself.
    Parent,
    /// The n-th lower directory, topmost first.
    Layer(usize),
    /// The writable directory.
    Upper,
    /// The overlay's work directory.
    Work,
    /// The file system context of the overlay.
    Overlay,
    /// The rootfs.
    Rootfs,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clone(0) => f.write_str("clone"),
            Self::Clone(n) => write!(f, "clone{n}"),
            Self::Parent => f.write_str("parent"),
            Self::Layer(n) => write!(f, "layer{n}"),
            Self::Upper => f.write_str("upper"),
            Self::Work => f.write_str("work"),
            Self::Overlay => f.write_str("overlay"),
            Self::Rootfs => f.write_str("rootfs"),
        }
    }
}

/// One step, and who takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Who.
    pub place: Place,
    /// The lower directory this step is for, where a step is taken once for each.
    pub layer: Option<usize>,
    /// What.
    pub op: Op,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A detached clone of the mount at `path`, showing the tree from there on.
    OpenTree {
        /// The directory.
        path: PathBuf,
        /// The clone.
        out: Slot,
    },
    /// Maps ids on a mount nobody has attached yet.
    SetIdmap {
        /// The mount.
        mount: Slot,
    },
    /// Sets attributes of a mount nobody has attached yet.
    SetAttrs {
        /// The mount.
        mount: Slot,
        /// What to set.
        attrs: MountAttrs,
    },
    /// Opens a directory below another as a bare reference.
    OpenAt {
        /// Where to start.
        parent: Slot,
        /// A plain relative name.
        name: PathBuf,
        /// The directory.
        out: Slot,
    },
    /// Opens a directory as a bare reference.
    OpenDir {
        /// The directory.
        path: PathBuf,
        /// The descriptor.
        out: Slot,
    },
    /// Gives the writable directory the owner (shifted, unless told otherwise) and mode of the image's root.
    ShapeUpper {
        /// The topmost lower directory, unshifted.
        like: PathBuf,
        /// The writable directory.
        upper: PathBuf,
        /// Whether to shift the owner.
        shifted: bool,
    },
    /// Makes a directory to mount on.
    MakeDir {
        /// The directory.
        path: PathBuf,
    },
    /// Attaches a mount to the table of the namespace the step runs in.
    Attach {
        /// The mount.
        mount: Slot,
        /// Where.
        path: PathBuf,
    },
    /// Changes the working directory of the worker thread.
    ChangeDir {
        /// The directory.
        path: PathBuf,
    },
    /// Makes a directory the working directory of the calling thread alone, until [`Op::LeaveDir`].
    EnterDir {
        /// The directory.
        dir: Slot,
    },
    /// Goes back to where the thread was.
    LeaveDir,
    /// Starts an overlay.
    FsOpen {
        /// The context.
        out: Slot,
    },
    /// A parameter without value.
    FsFlag {
        /// The parameter.
        key: &'static str,
    },
    /// A parameter with a string.
    FsString {
        /// The parameter.
        key: &'static str,
        /// The value, at most 255 bytes.
        value: PathBuf,
    },
    /// A parameter that is a descriptor.
    FsFd {
        /// The parameter.
        key: &'static str,
        /// The descriptor.
        value: Slot,
    },
    /// Makes the overlay.
    FsCreate,
    /// Makes the overlay a detached mount, and ends the context.
    FsMount {
        /// The mount.
        out: Slot,
        /// Its attributes.
        attrs: MountAttrs,
    },
    /// Makes and attaches an overlay in one call, on kernels whose `fsconfig` cannot take layers one by one.
    MountOverlay {
        /// All parameters; below one page, which the kernel would cut without a word.
        options: String,
        /// Where.
        path: PathBuf,
        /// Its attributes.
        attrs: MountAttrs,
    },
    /// Removes a mount from the table.
    Unmount {
        /// Where.
        path: PathBuf,
    },
    /// Removes a directory made for mounting.
    RemoveDir {
        /// The directory.
        path: PathBuf,
    },
    /// Closes a descriptor.
    Close {
        /// Which.
        slot: Slot,
    },
    /// Attaches a directory somewhere else, on kernels without detached clones.
    Bind {
        /// The directory.
        from: PathBuf,
        /// Where.
        path: PathBuf,
        /// Attributes of the new mount.
        attrs: MountAttrs,
    },
    /// Copies the merged lower directories into the writable directory, owners shifted.
    CopyTree {
        /// Common parent of the lower directories.
        parent: PathBuf,
        /// Their names, topmost first.
        names: Vec<PathBuf>,
        /// Where to.
        upper: PathBuf,
    },
}

impl Op {
    /// Kernel calls this step stands for; nothing is said about the copying of files.
    pub(crate) fn calls(&self) -> usize {
        match self {
            Self::ShapeUpper { .. } => 3,
            Self::Bind { .. } | Self::EnterDir { .. } | Self::LeaveDir => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTree { path, out } => {
                write!(f, "open_tree(AT_FDCWD, {path:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC) = {out}")
            }
            Self::SetIdmap { mount } => {
                write!(
                    f,
                    "mount_setattr({mount}, \"\", AT_EMPTY_PATH, {{attr_set=MOUNT_ATTR_IDMAP, userns_fd=userns}})"
                )
            }
            Self::SetAttrs { mount, attrs } => {
                write!(f, "mount_setattr({mount}, \"\", AT_EMPTY_PATH, {{attr_set={attrs}}})")
            }
            Self::OpenAt { parent, name, out } => {
                write!(f, "openat({parent}, {name:?}, O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC) = {out}")
            }
            Self::OpenDir { path, out } => {
                write!(f, "openat(AT_FDCWD, {path:?}, O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC) = {out}")
            }
            Self::ShapeUpper { like, upper, shifted } => {
                let owner = if *shifted { "shifted owner" } else { "owner" };
                write!(f, "statx({like:?}), fchownat({upper:?}, {owner}), fchmodat({upper:?}, mode)")
            }
            Self::MakeDir { path } => write!(f, "mkdirat(AT_FDCWD, {path:?}, 0700)"),
            Self::Attach { mount, path } => {
                write!(f, "move_mount({mount}, \"\", AT_FDCWD, {path:?}, MOVE_MOUNT_F_EMPTY_PATH)")
            }
            Self::ChangeDir { path } => write!(f, "chdir({path:?})"),
            Self::EnterDir { dir } => {
                write!(f, "openat(AT_FDCWD, \".\", O_PATH|O_DIRECTORY|O_CLOEXEC) = home, fchdir({dir})")
            }
            Self::LeaveDir => write!(f, "fchdir(home), close(home)"),
            Self::FsOpen { out } => write!(f, "fsopen(\"overlay\", FSOPEN_CLOEXEC) = {out}"),
            Self::FsFlag { key } => {
                write!(f, "fsconfig({}, FSCONFIG_SET_FLAG, {key:?}, NULL, 0)", Slot::Overlay)
            }
            Self::FsString { key, value } => {
                write!(f, "fsconfig({}, FSCONFIG_SET_STRING, {key:?}, {value:?}, 0)", Slot::Overlay)
            }
            Self::FsFd { key, value } => {
                write!(f, "fsconfig({}, FSCONFIG_SET_FD, {key:?}, NULL, {value})", Slot::Overlay)
            }
            Self::FsCreate => write!(f, "fsconfig({}, FSCONFIG_CMD_CREATE, NULL, NULL, 0)", Slot::Overlay),
            Self::FsMount { out, attrs } => {
                write!(f, "fsmount({}, FSMOUNT_CLOEXEC, {attrs}) = {out}", Slot::Overlay)
            }
            Self::MountOverlay { options, path, attrs } => {
                write!(f, "mount(\"overlay\", {path:?}, \"overlay\", {attrs}, {options:?})")
            }
            Self::Bind { from, path, attrs } => {
                write!(
                    f,
                    "mount({from:?}, {path:?}, NULL, MS_BIND, NULL), mount(NULL, {path:?}, NULL, MS_REMOUNT|MS_BIND, {attrs})"
                )
            }
            Self::Unmount { path } => write!(f, "umount2({path:?}, UMOUNT_NOFOLLOW)"),
            Self::RemoveDir { path } => write!(f, "unlinkat(AT_FDCWD, {path:?}, AT_REMOVEDIR)"),
            Self::Close { slot } => write!(f, "close({slot})"),
            Self::CopyTree { parent, names, upper } => {
                let parent = parent.display();
                write!(
                    f,
                    "copy of {} director{} below {parent} into {}, owners shifted",
                    names.len(),
                    if names.len() == 1 { "y" } else { "ies" },
                    upper.display()
                )
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        match self.place {
            Place::Caller => Ok(()),
            Place::Worker => f.write_str("  // private namespace"),
            Place::Reaper => f.write_str("  // later, on the reaper thread"),
        }
    }
}

/// A list of steps that grows in one place.
#[derive(Debug)]
pub(crate) struct StepList {
    place: Place,
    layer: Option<usize>,
    steps: Vec<Step>,
}

impl StepList {
    pub(crate) fn new() -> Self {
        Self { place: Place::Caller, layer: None, steps: Vec::new() }
    }

    /// The steps that follow are taken there.
    pub(crate) fn at(&mut self, place: Place) {
        self.place = place;
    }

    /// Takes the steps that `each` adds for every one of `count` lower directories.
    pub(crate) fn for_each_layer(&mut self, count: usize, mut each: impl FnMut(&mut Self, usize)) {
        for layer in 0..count {
            self.layer = Some(layer);
            each(self, layer);
        }
        self.layer = None;
    }

    pub(crate) fn push(&mut self, op: Op) {
        self.steps.push(Step { place: self.place, layer: self.layer, op });
    }

    pub(crate) fn open_tree(&mut self, path: impl Into<PathBuf>, out: Slot) {
        self.push(Op::OpenTree { path: path.into(), out });
    }

    pub(crate) fn idmapped_clone(&mut self, path: impl Into<PathBuf>, out: Slot) {
        self.open_tree(path, out);
        self.push(Op::SetIdmap { mount: out });
    }

    pub(crate) fn make_dir(&mut self, path: &Path) {
        self.push(Op::MakeDir { path: path.to_owned() });
    }

    pub(crate) fn remove_dir(&mut self, path: &Path) {
        self.push(Op::RemoveDir { path: path.to_owned() });
    }

    pub(crate) fn attach(&mut self, mount: Slot, path: &Path) {
        self.push(Op::Attach { mount, path: path.to_owned() });
    }

    pub(crate) fn unmount(&mut self, path: &Path) {
        self.push(Op::Unmount { path: path.to_owned() });
    }

    pub(crate) fn close(&mut self, slot: Slot) {
        self.push(Op::Close { slot });
    }

    /// Closing a clone that nobody attached waits for a grace period: not on the launch path.
    pub(crate) fn close_later(&mut self, slot: Slot) {
        self.steps.push(Step { place: Place::Reaper, layer: None, op: Op::Close { slot } });
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}
