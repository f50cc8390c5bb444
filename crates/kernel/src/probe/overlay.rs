//! Probes with a real overlay of two layers: owners as seen through it, and a write into its upper directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::scratch::{Scratch, in_private_namespace};
use super::{answer, expect};
use crate::error::{self, Result, SyscallError};
use crate::{FsContext, IdMap, IdRange, MountAttrs, MountFd, UserNs};

/// The host id that inside id 0 becomes in the probes: beyond what distributions and we give to containers. Nothing is
/// ever stored with it.
const HOST_ID: u32 = 0xfffe_0000;

/// What "this kernel has it not" looks like: unknown call, unknown parameter, parameter of the wrong type
/// (EOPNOTSUPP on 6.1, EINVAL elsewhere), descriptor of a kind not accepted (EBADF on 6.12).
const NO: &[Errno] = &[Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP, Errno::BADF];

/// Whether the filesystem of `dir` can be mounted with an id map (kernel 5.12; each filesystem in its time).
pub fn idmapped_mounts(dir: &Path) -> Result<bool> {
    let scratch = Scratch::new(dir)?;
    let namespace = user_namespace()?;
    let shifted = clone_layers(&scratch).and_then(|layers| {
        layers.set_idmap(&namespace)?;
        let layer = layers.open_dir("a")?;
        expect(owner(&layer, "file")? == HOST_ID, "an idmapped mount does not show shifted owners")
    });
    answer(shifted, &[Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP])
}

/// Whether overlay takes idmapped mounts as layers (5.19), the idmapped mount being attached.
pub fn idmapped_layers(dir: &Path) -> Result<bool> {
    if !idmapped_mounts(dir)? {
        return Ok(false);
    }
    let scratch = Scratch::new(dir)?;
    let namespace = user_namespace()?;
    let shifted = in_private_namespace(|| {
        let layers = clone_layers(&scratch)?;
        layers.set_idmap(&namespace)?;
        layers.attach(CWD, scratch.path("at"))?;
        let context = FsContext::open("overlay")?;
        // Relative names, as the mechanism for kernels before 6.7 uses them: a value has at most 255 bytes.
        rustix::process::chdir(scratch.path("at"))
            .map_err(|errno| SyscallError::new("chdir(\"at\")", errno))?;
        context.set_string("lowerdir", "a:b")?;
        let overlay = mount_overlay(context, None)?;
        rustix::process::chdir("/").map_err(|errno| SyscallError::new("chdir(\"/\")", errno))?;
        expect(owner(&overlay, "file")? == HOST_ID, "an overlay of idmapped layers shows unshifted owners")
    });
    answer(shifted, NO)
}

/// Whether overlay takes its lower layers one by one, by name (`lowerdir+`, 6.7).
pub fn overlay_lower_append(dir: &Path) -> Result<bool> {
    let scratch = Scratch::new(dir)?;
    let mounted = FsContext::open("overlay").and_then(|context| {
        for layer in ["layers/a", "layers/b"] {
            // Two real names here may be longer than 255 bytes; the descriptor's own name never is.
            let layer = open_dir(&scratch.path(layer))?;
            context.set_string("lowerdir+", format!("/proc/self/fd/{}", raw(&layer)))?;
        }
        mount_overlay(context, None).map(drop)
    });
    answer(mounted, NO)
}

/// Whether overlay takes its layers as descriptors (`FSCONFIG_SET_FD`, 6.13), the mount being attached.
pub fn overlay_layer_fds(dir: &Path) -> Result<bool> {
    let scratch = Scratch::new(dir)?;
    let mounted = FsContext::open("overlay").and_then(|context| {
        for layer in ["layers/a", "layers/b"] {
            context.set_fd("lowerdir+", open_dir(&scratch.path(layer))?)?;
        }
        let overlay = mount_overlay(context, Some(&scratch))?;
        expect(owner(&overlay, "file")? == 0, "an overlay of descriptors shows wrong owners")?;
        write_through(&overlay, &scratch)
    });
    answer(mounted, NO)
}

/// Whether overlay takes layers from a detached, idmapped mount (6.15): mechanism `detached`.
pub fn detached_layers(dir: &Path) -> Result<bool> {
    if !idmapped_mounts(dir)? {
        return Ok(false);
    }
    let scratch = Scratch::new(dir)?;
    let namespace = user_namespace()?;
    let mounted = clone_layers(&scratch).and_then(|layers| {
        layers.set_idmap(&namespace)?;
        let context = FsContext::open("overlay")?;
        for layer in ["a", "b"] {
            context.set_fd("lowerdir+", layers.open_dir(layer)?)?;
        }
        let overlay = mount_overlay(context, Some(&scratch))?;
        expect(owner(&overlay, "file")? == HOST_ID, "an overlay of detached layers shows unshifted owners")?;
        write_through(&overlay, &scratch)
    });
    answer(mounted, NO)
}

/// Whether an overlay mount can itself be idmapped (7.3): mechanism `idmapped-overlay`.
pub fn idmapped_overlay(dir: &Path) -> Result<bool> {
    if !overlay_layer_fds(dir)? {
        return Ok(false);
    }
    let scratch = Scratch::new(dir)?;
    let namespace = user_namespace()?;
    let mounted = FsContext::open("overlay").and_then(|context| {
        for layer in ["layers/a", "layers/b"] {
            context.set_fd("lowerdir+", open_dir(&scratch.path(layer))?)?;
        }
        let overlay = mount_overlay(context, Some(&scratch))?;
        overlay.set_idmap(&namespace)?;
        expect(owner(&overlay, "file")? == HOST_ID, "an idmapped overlay shows unshifted owners")
    });
    answer(mounted, &[Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP])
}

fn user_namespace() -> Result<UserNs> {
    let range = IdRange { start: HOST_ID, length: 65_536 };
    UserNs::create(&IdMap::from_ranges(range, range))
}

fn clone_layers(scratch: &Scratch) -> Result<MountFd> {
    MountFd::clone_tree(CWD, scratch.path("layers"), false)
}

/// With an upper directory if `writable` names the scratch directory to take it from.
fn mount_overlay(context: FsContext, writable: Option<&Scratch>) -> Result<MountFd> {
    if let Some(scratch) = writable {
        context.set_fd("upperdir", open_dir(&scratch.path("upper"))?)?;
        context.set_fd("workdir", open_dir(&scratch.path("work"))?)?;
    }
    context.create()?;
    context.mount(MountAttrs::NONE)
}

/// Creates a file through the overlay and looks for it in the upper directory: overlay turns read-only
/// silently when it does not like its upper directory.
fn write_through(overlay: &MountFd, scratch: &Scratch) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(overlay, "written", flags, Mode::from_raw_mode(0o600)).map_err(|errno| {
        SyscallError::new(
            format!("openat({}, \"written\", O_WRONLY|O_CREAT|O_EXCL)", error::fd(overlay)),
            errno,
        )
    })?;
    expect(
        scratch.path("upper/written").exists(),
        "a file written to an overlay is not in its upper directory",
    )
}

fn owner(dir: impl AsFd, name: &str) -> Result<u32> {
    rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_uid).map_err(|errno| {
        SyscallError::new(format!("newfstatat({}, {name:?}, AT_SYMLINK_NOFOLLOW)", error::fd(&dir)), errno)
    })
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |errno| {
            SyscallError::new(format!("openat(AT_FDCWD, {path:?}, O_RDONLY|O_DIRECTORY|O_CLOEXEC)"), errno)
        },
    )
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}
