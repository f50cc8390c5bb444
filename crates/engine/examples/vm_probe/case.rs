//! One rootfs: assembled, looked at from outside and inside, and taken down.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use plywood_engine::apply::{Rootfs, apply};
use plywood_engine::capabilities::{Capabilities, check_rootfs};
use plywood_engine::lower::{LowerSource, Lowers};
use plywood_engine::mechanism::Mechanism;
use plywood_engine::plan::{Plan, PlanError, Request, plan};
use plywood_kernel::mountns::unshare_current_thread;
use plywood_kernel::{Kind, UnmountFlags, unmount};
use rustix::fs::CWD;

use crate::rig::Rig;
use crate::{Checked, chain, inside};

/// How a check went that did not fail.
pub(crate) enum Outcome {
    Passed(String),
    /// The mechanism cannot do this on this kernel, and the plan says so beforehand.
    Refused(String),
}

/// Assembles a rootfs, uses it as a container would and takes it down.
pub(crate) fn rootfs(
    rig: &Rig,
    capabilities: &Capabilities,
    mechanism: Mechanism,
    lowers: &Lowers,
) -> Checked<Outcome> {
    let request = rig.request(mechanism, lowers)?;
    let plan = match plan(&request, capabilities) {
        Ok(plan) => plan,
        // A page of options is all that old kernels take, and those who are only compared with name whole paths.
        Err(error @ PlanError::OptionsTooLong { .. }) if !Mechanism::AUTOMATIC.contains(&mechanism) => {
            return Ok(Outcome::Refused(chain(&error)));
        }
        Err(error) => return Err(error.into()),
    };
    let detail = rig.leaving_nothing(|| {
        let (rootfs, counts) = Rig::watched(|| Ok(apply(&plan, &rig.context())?))?;
        let planned = plan.mount_ops();
        if let Some(counts) = counts
            && (counts.attached, counts.detached) != (planned.host_attach as u64, planned.host_detach as u64)
        {
            return Err(format!("planned {planned:?} on the host's table, but there were {counts:?}").into());
        }
        used(rig, &request, &plan, &rootfs)?;
        let elapsed = rootfs.done.elapsed;
        drop(rootfs);
        Ok(format!("assembled in {:.1} ms", elapsed.as_secs_f64() * 1e3))
    })?;
    Ok(Outcome::Passed(detail))
}

fn used(rig: &Rig, request: &Request, plan: &Plan, rootfs: &Rootfs) -> Checked {
    check_rootfs(rootfs, Path::new("file"), &plan.idmap, &plan.upper, plan.unshifted_upper)?;
    if request.lowers.source() == LowerSource::Layers {
        every_layer(rootfs, request.lowers.count())?;
    }
    let user_ns = rig.user_ns.as_fd().try_clone_to_owned()?;
    in_launch_namespace(rig, || {
        rootfs.attach(CWD, &rig.anchor())?;
        inside::run(user_ns, &rig.anchor())
    })?;
    on_disk(plan)
}

/// Every layer has a file of its own, and it is where it should be.
fn every_layer(rootfs: &Rootfs, count: usize) -> Checked {
    for n in [0, 1, count / 2, count - 1] {
        let name = format!("layer-{n}");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(rootfs, &*name, flags, rustix::fs::Mode::empty())?;
        let text = std::io::read_to_string(fs::File::from(file))?;
        if text != n.to_string() {
            return Err(format!("{name} holds {text:?}").into());
        }
    }
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root: OwnedFd = rustix::fs::openat(rootfs, ".", flags, rustix::fs::Mode::empty())?;
    let mut found = 0;
    for entry in rustix::fs::Dir::read_from(root)? {
        found += usize::from(entry?.file_name().to_bytes().starts_with(b"layer-"));
    }
    if found == count { Ok(()) } else { Err(format!("{found} layers are seen instead of {count}").into()) }
}

/// Runs something as the supervisor of a launch does: on a thread in a namespace of its own, gone afterwards.
fn in_launch_namespace(rig: &Rig, work: impl FnOnce() -> Checked + Send) -> Checked {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rig.template.enter()?;
            unshare_current_thread()?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What the container has left in its writable directory.
fn on_disk(plan: &Plan) -> Checked {
    for (name, ids) in inside::AFTERWARDS {
        let path = plan.upper.join(name);
        let found = fs::symlink_metadata(&path);
        let Some((uid, gid)) = ids else {
            let whiteout =
                found.as_ref().is_ok_and(|stat| stat.file_type().is_char_device() && stat.rdev() == 0);
            if whiteout || (plan.mechanism == Mechanism::Copy && found.is_err()) {
                continue;
            }
            return Err(format!("{} should be a whiteout: {found:?}", path.display()).into());
        };
        let stored = if plan.unshifted_upper {
            (Some(uid), Some(gid))
        } else {
            (plan.idmap.to_host_uid(uid), plan.idmap.to_host_gid(gid))
        };
        let found = found.map_err(|error| format!("{}: {error}", path.display()))?;
        if (Some(found.uid()), Some(found.gid())) != stored {
            let found = (found.uid(), found.gid());
            return Err(format!("{} belongs to {found:?} on disk, not to {stored:?}", path.display()).into());
        }
    }
    Ok(())
}

/// The last step fails: all that was made goes, and the same directories serve a second try.
pub(crate) fn undo(rig: &Rig, capabilities: &Capabilities, mechanism: Mechanism) -> Checked<Outcome> {
    let (_, lowers) = rig.sets().nth(1).ok_or("no image to use")?;
    let mut request = rig.request(mechanism, lowers)?;
    request.attach = Some(rig.dir().join("no/such/directory"));
    let failing = plan(&request, capabilities)?;
    rig.leaving_nothing(|| match apply(&failing, &rig.context()) {
        Ok(_) => Err("attached to a directory that does not exist".into()),
        Err(error) if error.kind() == Kind::Missing => Ok(()),
        Err(error) => Err(error.into()),
    })?;
    if request.scratch.exists() {
        return Err("the directory for temporary mount points is left".into());
    }
    if fs::read_dir(&request.upper)?.next().is_some() {
        return Err("there is something in the writable directory".into());
    }
    request.attach = Some(rig.anchor());
    let working = plan(&request, capabilities)?;
    rig.leaving_nothing(|| {
        let rootfs = apply(&working, &rig.context())?;
        let file = rig.anchor().join("file");
        let seen = fs::metadata(&file).map(|stat| Some(stat.uid()) == working.idmap.to_host_uid(0));
        // The descriptor keeps the mount busy.
        drop(rootfs);
        unmount(rig.anchor(), UnmountFlags::empty())?;
        if seen? { Ok(()) } else { Err("the attached rootfs has the wrong owners".into()) }
    })?;
    Ok(Outcome::Passed(String::new()))
}
