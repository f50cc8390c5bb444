//! What the running kernel and filesystem can do, found out by doing it.
//!
//! Each probe answers yes, no, or an error: *no* only for the errnos that are known to mean "not this kernel"
//! or "not this filesystem"; a missing privilege or a used-up limit is an error, never a no.
//!
//! Probes that take a directory work in a scratch directory of their own below it, on a thread in a mount
//! namespace of their own, and leave neither files nor mounts. That directory must be on the filesystem in
//! question and not on an overlay.

use std::path::Path;

use rustix::io::Errno;

use crate::error::{Result, SyscallError};
use crate::{FsContext, MountNs, MountWatch, table};

mod overlay;
mod scratch;

pub use overlay::{
    detached_layers, idmapped_layers, idmapped_mounts, idmapped_overlay, overlay_layer_fds,
    overlay_lower_append,
};

/// The mount API (`fsopen` and friends, 5.2).
pub fn mount_api() -> Result<bool> {
    answer(FsContext::open("tmpfs").map(drop), &[Errno::NOSYS])
}

/// `listmount` and `statmount` with everything a table entry holds (6.15).
pub fn listmount() -> Result<bool> {
    Ok(table::unique_ids()?.is_some() && table::list()?.iter().all(|entry| entry.unique_id.is_some()))
}

/// Mount events of a namespace by fanotify (6.15): one attach in a namespace of our own is reported as one.
pub fn fanotify_mount_events() -> Result<bool> {
    scratch::in_private_namespace(|| {
        let Some(mut watch) = MountWatch::start_events(&MountNs::current()?)? else {
            return Ok(false);
        };
        crate::MountFd::clone_tree(rustix::fs::CWD, "/", false)?.attach(rustix::fs::CWD, "/")?;
        Ok(watch.counts()?.attached == 1)
    })
}

/// Everything at once, for those who want to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// [`mount_api`]
    pub mount_api: bool,
    /// [`idmapped_mounts`]
    pub idmapped_mounts: bool,
    /// [`idmapped_layers`]
    pub idmapped_layers: bool,
    /// [`overlay_lower_append`]
    pub overlay_lower_append: bool,
    /// [`overlay_layer_fds`]
    pub overlay_layer_fds: bool,
    /// [`detached_layers`]
    pub detached_layers: bool,
    /// [`idmapped_overlay`]
    pub idmapped_overlay: bool,
    /// [`listmount`]
    pub listmount: bool,
    /// [`fanotify_mount_events`]
    pub fanotify_mount_events: bool,
}

/// Runs every probe; `dir` as described in the module's documentation.
pub fn all(dir: &Path) -> Result<Abilities> {
    Ok(Abilities {
        mount_api: mount_api()?,
        idmapped_mounts: idmapped_mounts(dir)?,
        idmapped_layers: idmapped_layers(dir)?,
        overlay_lower_append: overlay_lower_append(dir)?,
        overlay_layer_fds: overlay_layer_fds(dir)?,
        detached_layers: detached_layers(dir)?,
        idmapped_overlay: idmapped_overlay(dir)?,
        listmount: listmount()?,
        fanotify_mount_events: fanotify_mount_events()?,
    })
}

/// Yes for success, no for one of `no`, else the error.
fn answer(result: Result<()>, no: &[Errno]) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if no.contains(&error.errno()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A result that can only be wrong if the kernel did something else than asked: reported as EIO.
fn expect(condition: bool, what: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(SyscallError::new(format!("probe: {what}"), Errno::IO)) }
}
