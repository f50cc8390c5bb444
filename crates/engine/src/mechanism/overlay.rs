//! The overlay itself, which all mechanisms but `copy` make the same way.

use std::path::{Path, PathBuf};

use crate::capabilities::Capabilities;
use crate::lower::{Lowers, MAX_LOWERS};
use crate::plan::{Durability, Op, Place, PlanError, Request, Slot, StepList};

/// The longest string one `fsconfig` takes.
const MAX_STRING: usize = 255;

/// The most `mount(2)` takes with its terminating zero; it cuts what is longer without a word.
const MAX_OPTIONS: usize = 4095;

/// Parameters every overlay of ours has. The kernel's defaults are build options of distributions, so each is said:
/// no `index` (one upper is used by one overlay), no metadata-only copy-up and no redirects (an upper directory must
/// stay readable as an OCI layer).
const PARAMETERS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];

/// Where the overlay finds its directories.
pub(super) enum Lookup<'a> {
    /// Below this descriptor.
    Below(Slot),
    /// Names as the thread that makes the overlay sees them, topmost first, and a place where an overlay may be
    /// attached for a moment on kernels that cannot do without.
    Named { names: Vec<PathBuf>, attach: &'a Path },
}

/// Whether the overlay is the rootfs or only a look at the image, thrown away afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Rootfs,
    Look,
}

/// Makes an overlay and leaves it in [`Slot::Rootfs`].
pub(super) fn steps(
    list: &mut StepList,
    request: &Request,
    capabilities: &Capabilities,
    lookup: &Lookup<'_>,
    kind: Use,
) -> Result<(), PlanError> {
    match lookup {
        Lookup::Below(parent) => by_descriptor(list, request, capabilities, *parent),
        Lookup::Named { names, .. } if capabilities.append_layers.is_yes() => {
            by_name(list, request, capabilities, names, kind)?;
        }
        Lookup::Named { names, attach } => legacy(list, request, capabilities, names, attach, kind)?,
    }
    Ok(())
}

/// The container's root directory takes its owner and mode from the writable directory, not from the image.
pub(super) fn shape_upper(list: &mut StepList, request: &Request, shifted: bool) {
    list.push(Op::ShapeUpper { like: request.lowers.topmost(), upper: request.upper.clone(), shifted });
}

/// The lower directories' names below some directory.
pub(super) fn names_below(lowers: &Lowers, parent: &Path) -> Vec<PathBuf> {
    lowers.names().iter().map(|lower| parent.join(lower.name())).collect()
}

fn by_descriptor(list: &mut StepList, request: &Request, capabilities: &Capabilities, parent: Slot) {
    list.push(Op::OpenDir { path: request.upper.clone(), out: Slot::Upper });
    list.push(Op::OpenDir { path: request.work.clone(), out: Slot::Work });
    open(list, request, capabilities, Use::Rootfs);
    lowers_below(list, request, capabilities, parent);
    list.push(Op::FsFd { key: "upperdir", value: Slot::Upper });
    list.push(Op::FsFd { key: "workdir", value: Slot::Work });
    list.push(Op::FsCreate);
    list.push(Op::FsMount { out: Slot::Rootfs, attrs: request.attrs });
    list.close(Slot::Upper);
    list.close(Slot::Work);
}

/// Three calls a layer with descriptors, one with names; names are short where the parent is the working directory.
fn lowers_below(list: &mut StepList, request: &Request, capabilities: &Capabilities, parent: Slot) {
    let count = request.lowers.count();
    let name = |n: usize| request.lowers.names()[n].name().to_owned();
    if count > 2 && capabilities.append_layers.is_yes() && (0..count).all(|n| fits(&name(n)).is_ok()) {
        list.push(Op::EnterDir { dir: parent });
        list.for_each_layer(count, |list, n| list.push(Op::FsString { key: "lowerdir+", value: name(n) }));
        list.push(Op::LeaveDir);
        return;
    }
    // The overlay takes its own reference: however many layers, one descriptor at a time is open.
    list.for_each_layer(count, |list, n| {
        list.push(Op::OpenAt { parent, name: name(n), out: Slot::Layer(n) });
        list.push(Op::FsFd { key: "lowerdir+", value: Slot::Layer(n) });
        list.close(Slot::Layer(n));
    });
}

fn by_name(
    list: &mut StepList,
    request: &Request,
    capabilities: &Capabilities,
    names: &[PathBuf],
    kind: Use,
) -> Result<(), PlanError> {
    let names = with_upper(names, request, kind)?;
    for path in names.iter().chain([&request.upper, &request.work]) {
        fits(path)?;
    }
    open(list, request, capabilities, kind);
    list.for_each_layer(names.len(), |list, n| {
        list.push(Op::FsString { key: "lowerdir+", value: names[n].clone() });
    });
    if kind == Use::Rootfs {
        list.push(Op::FsString { key: "upperdir", value: request.upper.clone() });
        list.push(Op::FsString { key: "workdir", value: request.work.clone() });
    }
    list.push(Op::FsCreate);
    list.push(Op::FsMount { out: Slot::Rootfs, attrs: request.attrs });
    Ok(())
}

/// Before 6.7: one string for all layers, in one `mount(2)`; the mount comes back as a clone of what was attached.
fn legacy(
    list: &mut StepList,
    request: &Request,
    capabilities: &Capabilities,
    names: &[PathBuf],
    attach: &Path,
    kind: Use,
) -> Result<(), PlanError> {
    let names = with_upper(names, request, kind)?;
    let lower: Vec<&str> = names.iter().map(|name| plain(name)).collect::<Result<_, _>>()?;
    let mut options = format!("lowerdir={}", lower.join(":"));
    if kind == Use::Rootfs {
        options += &format!(",upperdir={},workdir={}", plain(&request.upper)?, plain(&request.work)?);
    }
    for (key, value) in PARAMETERS {
        options += &format!(",{key}={value}");
    }
    if volatile(request, capabilities, kind) {
        options += ",volatile";
    }
    if options.len() > MAX_OPTIONS {
        return Err(PlanError::OptionsTooLong { layers: names.len(), length: options.len() });
    }
    list.make_dir(attach);
    list.push(Op::MountOverlay { options, path: attach.to_owned(), attrs: request.attrs });
    list.open_tree(attach, Slot::Rootfs);
    list.unmount(attach);
    list.remove_dir(attach);
    Ok(())
}

fn open(list: &mut StepList, request: &Request, capabilities: &Capabilities, kind: Use) {
    list.push(Op::FsOpen { out: Slot::Overlay });
    list.push(Op::FsString { key: "source", value: "overlay".into() });
    for (key, value) in PARAMETERS {
        list.push(Op::FsString { key, value: value.into() });
    }
    if volatile(request, capabilities, kind) {
        list.push(Op::FsFlag { key: "volatile" });
    }
}

fn volatile(request: &Request, capabilities: &Capabilities, kind: Use) -> bool {
    kind == Use::Rootfs && request.durability == Durability::Volatile && capabilities.volatile.is_yes()
}

/// A look is read-only: the writable directory is its topmost lower one, as containerd has it.
fn with_upper(names: &[PathBuf], request: &Request, kind: Use) -> Result<Vec<PathBuf>, PlanError> {
    if kind == Use::Rootfs {
        return Ok(names.to_vec());
    }
    if names.len() >= MAX_LOWERS {
        return Err(PlanError::NoRoomToLook { layers: names.len() });
    }
    Ok(std::iter::once(&request.upper).chain(names).cloned().collect())
}

fn fits(path: &Path) -> Result<(), PlanError> {
    let length = path.as_os_str().len();
    if length > MAX_STRING {
        return Err(PlanError::PathTooLong { path: path.to_owned(), length });
    }
    plain(path).map(|_| ())
}

/// Paths with the separators of overlay's own syntax would have to be escaped, differently by each kernel.
fn plain(path: &Path) -> Result<&str, PlanError> {
    path.to_str()
        .filter(|text| text.is_ascii() && !text.contains([',', ':', '\\']))
        .ok_or_else(|| PlanError::PathSyntax { path: path.to_owned() })
}

/// Attaches an idmapped clone and unmounts it again on the way out; between the two, `inside` makes the overlay.
pub(super) fn while_attached(
    list: &mut StepList,
    clone: Slot,
    at: &Path,
    inside: impl FnOnce(&mut StepList) -> Result<(), PlanError>,
) -> Result<(), PlanError> {
    list.attach(clone, at);
    list.close(clone);
    inside(list)?;
    list.unmount(at);
    Ok(())
}

/// Throws a look away: attached, so that its users can be read, and unmounted.
pub(super) fn discard_look(list: &mut StepList, at: &Path) {
    list.make_dir(at);
    list.attach(Slot::Rootfs, at);
    list.close(Slot::Rootfs);
    list.unmount(at);
    list.remove_dir(at);
}

/// Attaches the finished rootfs where the request wants it.
pub(super) fn attach_rootfs(list: &mut StepList, request: &Request) {
    if let Some(path) = &request.attach {
        list.at(Place::Caller);
        list.attach(Slot::Rootfs, path);
    }
}
