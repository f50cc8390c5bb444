//! Merging layer directories into one tree of hard links.
//!
//! A task is one directory of the result and the layers that contribute to it. Its contributors are read from the
//! top down, one at a time, so a thread holds three descriptors whatever the number of layers. Tasks go through a
//! stack shared by a few threads: deep before wide keeps it short.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::copy::{self, Copies, Failure};
use crate::error::{FileError, OnFile};
use crate::merged::{is_opaque, is_whiteout};
use crate::unpack::{Room, RoomError, UnpackLimits};

/// Links in one directory wait for each other, in different ones they do not; more threads than this gain
/// nothing on ext4, whose journal is shared.
const THREADS: usize = 2;

/// Entries between two looks at the flag and two calls of the progress function.
const STEP: u64 = 512;

/// What to merge, and where.
pub(super) struct Job<'a> {
    /// Where `layers` start.
    pub(super) base: BorrowedFd<'a>,
    /// Topmost first.
    pub(super) layers: Vec<PathBuf>,
    /// An empty directory.
    pub(super) out: BorrowedFd<'a>,
    pub(super) background: bool,
    pub(super) progress: Option<&'a (dyn Fn(u64) + Sync)>,
    pub(super) cancel: Option<&'a AtomicBool>,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) entries: u64,
    pub(super) copied_bytes: u64,
}

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that had to be copied does not fit.
    #[error("no room for a copy of {path:?}")]
    Room {
        /// The file.
        path: PathBuf,
        /// What is left.
        #[source]
        source: RoomError,
    },
    /// A worker thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// One directory of the result.
struct Task {
    path: PathBuf,
    /// Indexes into [`Job::layers`], topmost first.
    layers: Vec<usize>,
}

/// What a name in a merged directory became.
enum Name {
    /// Linked, or hidden by a whiteout: lower layers do not matter.
    Settled,
    /// A directory of these layers; `open` while lower ones may still join.
    Dir { layers: Vec<usize>, open: bool },
}

struct Work<'a> {
    job: &'a Job<'a>,
    queue: Mutex<Queue>,
    changed: Condvar,
    entries: AtomicU64,
    copied: AtomicU64,
    copies: Copies,
    room: Room<'a>,
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    /// Threads that work on a task and may add more.
    active: usize,
    stop: bool,
    error: Option<MergeError>,
}

/// None if it was cancelled.
pub(super) fn merge(job: &Job<'_>) -> Result<Option<Merged>, MergeError> {
    let root = Task { path: PathBuf::new(), layers: (0..job.layers.len()).collect() };
    // A tree is made of links as a rule; however many bytes the layers have, they were accepted before.
    let limits = UnpackLimits { layer_bytes: u64::MAX, ..UnpackLimits::default() };
    let work = Work {
        job,
        queue: Mutex::new(Queue { tasks: vec![root], ..Queue::default() }),
        changed: Condvar::new(),
        entries: AtomicU64::new(0),
        copied: AtomicU64::new(0),
        copies: Copies::default(),
        room: limits.room(job.out).on_file("fstatvfs", "flat")?,
    };
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let started =
                std::thread::Builder::new().name(format!("flat-{index}")).spawn_scoped(scope, || work.run());
            if let Err(error) = started {
                // The others, if any, end when they see it.
                work.fail(MergeError::Thread(error));
                break;
            }
        }
    });
    let Work { queue, entries, copied, .. } = work;
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (queue.error, queue.stop) {
        (Some(error), _) => Err(error),
        (None, true) => Ok(None),
        (None, false) => {
            let entries = entries.into_inner();
            if let Some(progress) = job.progress {
                progress(entries);
            }
            Ok(Some(Merged { entries, copied_bytes: copied.into_inner() }))
        }
    }
}

impl Work<'_> {
    fn run(&self) {
        if self.job.background {
            // 0 names the calling thread, not the process (setpriority(2), "C library/kernel differences").
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(%error, "flat tree is built at normal priority");
            }
        }
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        while let Some(task) = self.next() {
            let _active = Active(self);
            if let Err(error) = self.directory(&task, &mut buffer) {
                self.fail(error);
            }
        }
    }

    /// The next task, once there is one; None when all is done or something failed.
    fn next(&self) -> Option<Task> {
        let mut queue = self.lock();
        loop {
            if queue.stop {
                return None;
            }
            if let Some(task) = queue.tasks.pop() {
                queue.active += 1;
                return Some(task);
            }
            if queue.active == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn directory(&self, task: &Task, buffer: &mut [MaybeUninit<u8>]) -> Result<(), MergeError> {
        let out = open_dir(self.job.out, &task.path)?;
        let mut names: HashMap<CString, Name> = HashMap::new();
        let mut metadata = None;
        for &layer in &task.layers {
            let source = open_dir(self.job.base, &self.job.layers[layer].join(&task.path))?;
            let directory =
                Directory { work: self, source: source.as_fd(), out: out.as_fd(), path: &task.path };
            let mut reader = RawDir::new(&source, &mut *buffer);
            while let Some(entry) = reader.next() {
                let entry = entry.on_file("getdents64", &task.path)?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                directory.entry(&mut names, layer, name, entry.file_type())?;
                if self.stopped() {
                    return Ok(());
                }
            }
            let opaque = is_opaque(&source).on_file("fgetxattr", &task.path)?;
            if metadata.is_none() {
                metadata = Some(source);
            }
            if opaque {
                break;
            }
        }
        self.push(names.into_iter().filter_map(|(name, state)| match state {
            Name::Dir { layers, .. } => {
                Some(Task { path: task.path.join(OsStr::from_bytes(name.as_bytes())), layers })
            }
            Name::Settled => None,
        }));
        // Last, because making entries changes the times. Tasks below change their own directories only.
        if let Some(source) = metadata {
            copy_dir_metadata(source.as_fd(), out.as_fd()).on_file("copy metadata", &task.path)?;
        }
        Ok(())
    }

    fn push(&self, tasks: impl Iterator<Item = Task>) {
        let mut queue = self.lock();
        queue.tasks.extend(tasks);
        self.changed.notify_all();
    }

    fn fail(&self, error: MergeError) {
        let mut queue = self.lock();
        queue.stop = true;
        queue.error.get_or_insert(error);
        self.changed.notify_all();
    }

    fn count(&self) {
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        if !entries.is_multiple_of(STEP) {
            return;
        }
        if let Some(progress) = self.job.progress {
            progress(entries);
        }
        if self.stopped() {
            self.lock().stop = true;
            self.changed.notify_all();
        }
    }

    /// Whether a file may be copied so far.
    fn may_copy(&self, bytes: u64) -> Result<(), Failure> {
        if self.stopped() {
            return Err(Failure::Cancelled);
        }
        let total = self.copied.load(Ordering::Relaxed).saturating_add(bytes);
        self.room.check(total).map_err(Failure::Room)
    }

    fn stopped(&self) -> bool {
        self.job.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at work; gives up its place even when it panics, so that the others do not wait for ever.
struct Active<'a, 'b>(&'a Work<'b>);

impl Drop for Active<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.active -= 1;
        queue.stop |= std::thread::panicking() || self.0.stopped();
        self.0.changed.notify_all();
    }
}

/// One contributor of one directory.
struct Directory<'a> {
    work: &'a Work<'a>,
    source: BorrowedFd<'a>,
    out: BorrowedFd<'a>,
    path: &'a Path,
}

impl Directory<'_> {
    fn entry(
        &self,
        names: &mut HashMap<CString, Name>,
        layer: usize,
        name: &CStr,
        listed: FileType,
    ) -> Result<(), MergeError> {
        if let Some(known) = names.get_mut(name) {
            if let Name::Dir { layers, open: open @ true } = known {
                match self.file_type(name, listed)? {
                    FileType::Directory => layers.push(layer),
                    _ => *open = false,
                }
            }
            return Ok(());
        }
        let state = match self.file_type(name, listed)? {
            FileType::Directory => {
                rustix::fs::mkdirat(self.out, name, Mode::RWXU).on_file("mkdirat", self.shown(name))?;
                self.work.count();
                Name::Dir { layers: vec![layer], open: true }
            }
            FileType::CharacterDevice if self.whiteout(name)? => Name::Settled,
            _ => {
                self.link(name)?;
                self.work.count();
                Name::Settled
            }
        };
        names.insert(name.to_owned(), state);
        Ok(())
    }

    fn link(&self, name: &CStr) -> Result<(), MergeError> {
        match rustix::fs::linkat(self.source, name, self.out, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            // No more links to this file, or, between two projects of a quota, none at all.
            Err(Errno::MLINK | Errno::XDEV) => {
                let path = self.shown(name);
                let work = self.work;
                let go_on = |bytes| work.may_copy(bytes);
                match copy::copy(self.source, self.out, name, work.job.out, &path, &work.copies, &go_on) {
                    Ok(bytes) => {
                        work.copied.fetch_add(bytes, Ordering::Relaxed);
                        Ok(())
                    }
                    Err(Failure::Errno(errno)) => Err(FileError::new("copy", path, errno).into()),
                    Err(Failure::Room(source)) => Err(MergeError::Room { path, source }),
                    // What is half done goes with the tree; who called sees that it is given up.
                    Err(Failure::Cancelled) => Ok(()),
                }
            }
            Err(errno) => Err(FileError::new("linkat", self.shown(name), errno).into()),
        }
    }

    fn file_type(&self, name: &CStr, listed: FileType) -> Result<FileType, MergeError> {
        if listed != FileType::Unknown {
            return Ok(listed);
        }
        Ok(FileType::from_raw_mode(self.stat(name)?.st_mode))
    }

    fn whiteout(&self, name: &CStr) -> Result<bool, MergeError> {
        Ok(is_whiteout(&self.stat(name)?))
    }

    fn stat(&self, name: &CStr) -> Result<rustix::fs::Stat, MergeError> {
        Ok(rustix::fs::statat(self.source, name, AtFlags::SYMLINK_NOFOLLOW)
            .on_file("statat", self.shown(name))?)
    }

    fn shown(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }
}

fn open_dir(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, FileError> {
    let shown = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(
        base,
        shown,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
    )
    .on_file("openat2", shown)
}

/// Owner, extended attributes, mode, times, in the order in which one does not undo another: a change of owner
/// clears set-id bits, an access control list changes the mode.
fn copy_dir_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    for name in copy::fd_xattr_names(from)? {
        let value = copy::fd_xattr(from, &name)?;
        rustix::fs::fsetxattr(to, &*name, &value, rustix::fs::XattrFlags::empty())?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(to, &times(&stat))
}

pub(super) fn times(stat: &rustix::fs::Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
