//! The overlay of a snapshot without an id mapping, mounted by the one call that containerd's client and shims make of it.
//!
//! `mount(2)` takes a page of options. Where they come near it, containerd goes into the directory with all snapshots and
//! leaves that directory out of the layers' names: "3/fs" takes the place of a hundred bytes. So it is done here, and what
//! is too long even then is too long for containerd.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use plywood_kernel::{SyscallError, UnmountFlags, unmount};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// What containerd leaves of the page before it shortens names.
const RESERVE: usize = 512;

/// A snapshot's overlay, as its snapshotter answered.
#[derive(Debug)]
pub(super) struct Overlay {
    /// Topmost first.
    pub(super) lower: Vec<PathBuf>,
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// All other options.
    pub(super) options: Vec<String>,
}

/// One call of `mount(2)`.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// The working directory it takes, where names were shortened.
    inside: Option<PathBuf>,
    flags: MountFlags,
    data: String,
}

impl Overlay {
    /// Mounts it, on a thread with a working directory of its own, which may be another one afterwards.
    pub(super) fn mount(&self, target: &Path) -> Result<(), SyscallError> {
        let mut own = vec![name("workdir=", &self.work), name("upperdir=", &self.upper)];
        own.extend(self.options.iter().cloned());
        call(own, self.lower.iter().collect(), rustix::param::page_size()).make(target)
    }

    /// Mounts it as containerd does to find a user in it, and unmounts it again: read-only, the writable directory being
    /// its topmost lower one.
    pub(super) fn look(&self, target: &Path) -> Result<(), SyscallError> {
        // The kernel refuses a volatile overlay without a writable directory.
        let kept = |option: &&String| !["volatile", "fsync=volatile"].contains(&option.as_str());
        let own = self.options.iter().filter(kept).cloned().collect();
        let lower = std::iter::once(&self.upper).chain(&self.lower).collect();
        call(own, lower, rustix::param::page_size()).make(target)?;
        unmount(target, UnmountFlags::empty())
    }
}

/// How containerd mounts an overlay with these options and layers.
fn call(own: Vec<String>, lower: Vec<&PathBuf>, page: usize) -> Call {
    let joined = |names: Vec<&Path>| {
        let names: Vec<_> = names.into_iter().map(Path::to_string_lossy).collect();
        format!("lowerdir={}", names.join(":"))
    };
    let whole = joined(lower.iter().map(|path| path.as_path()).collect());
    let size = own.iter().map(String::len).sum::<usize>() + whole.len();
    let shorter = if size >= page.saturating_sub(RESERVE) { shortened(&lower) } else { None };
    let (inside, lower) = match shorter {
        Some((inside, names)) => (Some(inside), joined(names)),
        None => (None, whole),
    };
    let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
    for option in own {
        match flag(&option) {
            Some((flag, true)) => flags |= flag,
            Some((flag, false)) => flags &= !flag,
            None => data.push(option),
        }
    }
    data.push(lower);
    Call { inside, flags, data: data.join(",") }
}

/// The directory that all layers are below, and their names in it; none of a single layer.
fn shortened<'a>(lower: &[&'a PathBuf]) -> Option<(PathBuf, Vec<&'a Path>)> {
    let (first, others) = lower.split_first().filter(|(_, others)| !others.is_empty())?;
    let mut inside = first.parent()?;
    while !others.iter().all(|path| path.starts_with(inside)) {
        inside = inside.parent()?;
    }
    let names = lower.iter().map(|path| path.strip_prefix(inside).ok()).collect::<Option<_>>()?;
    inside.parent().map(|_| (inside.to_owned(), names))
}

/// Options that are flags of `mount(2)`, and whether they set them.
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    let (flag, sets) = match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "defaults" => (MountFlags::empty(), true),
        _ => return None,
    };
    Some((flag, sets))
}

fn name(key: &str, path: &Path) -> String {
    format!("{key}{}", path.display())
}

impl Call {
    fn make(&self, target: &Path) -> Result<(), SyscallError> {
        let Self { inside, flags, data } = self;
        if let Some(inside) = inside {
            rustix::process::chdir(inside)
                .map_err(|errno| SyscallError::new(format!("chdir({inside:?})"), errno))?;
        }
        let failed = |errno| {
            let flags = flags.bits();
            SyscallError::new(
                format!("mount(\"overlay\", {target:?}, \"overlay\", {flags:#x}, {data:?})"),
                errno,
            )
        };
        // The kernel takes a page with the zero at its end, and cuts what is longer without a word.
        if data.len() >= rustix::param::page_size() {
            return Err(failed(Errno::TOOBIG));
        }
        let data = CString::new(data.as_str()).map_err(|_| failed(Errno::INVAL))?;
        rustix::mount::mount("overlay", target, "overlay", *flags, data.as_c_str()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(count: usize) -> Vec<PathBuf> {
        (1..=count).rev().map(|n| format!("/var/lib/containerd/snapshots/{n}/fs").into()).collect()
    }

    fn of(own: &[&str], layers: &[PathBuf]) -> Call {
        call(own.iter().map(ToString::to_string).collect(), layers.iter().collect(), 4096)
    }

    #[test]
    fn few_layers_are_named_in_full() {
        let call = of(&["index=off", "ro", "nodev", "rw"], &layers(2));
        assert_eq!((call.inside, call.flags), (None, MountFlags::NODEV));
        let lower = "lowerdir=/var/lib/containerd/snapshots/2/fs:/var/lib/containerd/snapshots/1/fs";
        assert_eq!(call.data, format!("index=off,{lower}"));
    }

    /// 3,584 bytes are where containerd begins.
    #[test]
    fn many_layers_are_named_below_the_directory_with_all_snapshots() {
        let call = of(&["workdir=/w", "upperdir=/u"], &layers(110));
        assert_eq!(call.inside.as_deref(), Some(Path::new("/var/lib/containerd/snapshots")));
        assert!(call.data.starts_with("workdir=/w,upperdir=/u,lowerdir=110/fs:109/fs:"), "{}", call.data);
        assert!(call.data.ends_with(":2/fs:1/fs"), "{}", call.data);
        let (below, from) = (of(&[], &layers(99)), of(&[], &layers(100)));
        assert!(below.inside.is_none() && below.data.len() < 3584, "{}", below.data.len());
        assert!(from.inside.is_some());
    }

    #[test]
    fn layers_that_have_nothing_in_common_keep_their_names() {
        let long = |top: &str| PathBuf::from(format!("/{top}/{}", "x/".repeat(1000)));
        let call = of(&[], &[long("a"), long("b")]);
        assert!(call.inside.is_none() && call.data.starts_with("lowerdir=/a/x"));
        assert!(of(&[], &[PathBuf::from(format!("/{}", "x/".repeat(2000)))]).inside.is_none());
    }
}
