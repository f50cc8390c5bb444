//! Steps that fail, and what is left afterwards: nothing.

use plywood_engine::apply::{ApplyError, Context, StepError, apply};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Request, plan};
use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{Kind, table};
use rustix::fs::OFlags;

use super::bed::Bed;

const MADE_HERE: [Mechanism; 5] =
    [Mechanism::Detached, Mechanism::Private, Mechanism::CommonParent, Mechanism::PerLayer, Mechanism::Copy];

#[test]
fn root_a_missing_layer_is_named_and_everything_taken_back() {
    require_root();
    for mechanism in MADE_HERE {
        in_private_mount_ns(|| {
            let bed = Bed::new(4).with_worker();
            let names = ["4/fs", "3/fs", "not-there/fs", "1/fs"].map(|name| LowerRef::new(name).unwrap());
            let lowers = Lowers::layers(bed.path("layers"), names.to_vec()).unwrap();
            let request =
                Request { lowers, passes: 2, ..bed.request(Choice::Forced(mechanism), LowerSource::Layers) };
            let before = table::count().unwrap();
            let home = std::env::current_dir().unwrap();
            let error = bed.apply(&plan(&request, &Capabilities::assumed()).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Missing, "{mechanism}: {error:?}");
            let ApplyError::Step { left, source, .. } = &error else { panic!("{error:?}") };
            assert!(left.is_empty(), "{mechanism}: {error}");
            let source = format!("{source:?}");
            assert!(source.contains("not-there") || source.contains("lowerdir"), "{mechanism}: {source}");
            assert_eq!(table::count().unwrap(), before, "{mechanism}");
            assert_eq!(std::env::current_dir().unwrap(), home, "{mechanism}");
            bed.assert_untouched(mechanism.name());
            // The same directories serve the next container.
            bed.apply(&bed.plan(mechanism, LowerSource::Layers)).unwrap();
        });
    }
}

/// A kind of call to refuse.
struct Refusal {
    what: &'static str,
    call: libc::c_long,
    argument: Option<(usize, u32)>,
    /// The worker's own start needs the call, so it starts before.
    worker_first: bool,
    /// Taking back needs the call, too: it says what is left.
    undo_too: bool,
}

/// Every kind of call refused, in every mechanism: a failure at any point is taken back.
#[test]
fn root_any_refused_call_is_taken_back() {
    require_root();
    let refuse = |what, call| Refusal { what, call, argument: None, worker_first: false, undo_too: false };
    let with = |what, call, index, value| Refusal { argument: Some((index, value)), ..refuse(what, call) };
    let worker_first = |refusal| Refusal { worker_first: true, ..refusal };
    let undo_too = |refusal| Refusal { undo_too: true, ..refusal };
    // Large files are rustix's own addition.
    let reference = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::LARGEFILE;
    for refusal in [
        worker_first(refuse("open_tree", libc::SYS_open_tree)),
        refuse("mount_setattr", libc::SYS_mount_setattr),
        worker_first(refuse("move_mount", libc::SYS_move_mount)),
        refuse("fsopen", libc::SYS_fsopen),
        with("fsconfig flag", libc::SYS_fsconfig, 1, 0),
        with("fsconfig string", libc::SYS_fsconfig, 1, 1),
        with("fsconfig descriptor", libc::SYS_fsconfig, 1, 5),
        with("fsconfig create", libc::SYS_fsconfig, 1, 6),
        refuse("fsmount", libc::SYS_fsmount),
        with("openat of a reference", libc::SYS_openat, 2, reference.bits()),
        refuse("mkdirat", libc::SYS_mkdirat),
        worker_first(refuse("fchdir", libc::SYS_fchdir)),
        worker_first(with("unshare", libc::SYS_unshare, 0, libc::CLONE_FS.cast_unsigned())),
        refuse("symlinkat", libc::SYS_symlinkat),
        refuse("linkat", libc::SYS_linkat),
        refuse("mknodat", libc::SYS_mknodat),
        refuse("fchownat", libc::SYS_fchownat),
        refuse("fchmodat", libc::SYS_fchmodat),
        undo_too(with("umount2", libc::SYS_umount2, 1, libc::UMOUNT_NOFOLLOW.cast_unsigned())),
        undo_too(with("unlinkat", libc::SYS_unlinkat, 2, libc::AT_REMOVEDIR.cast_unsigned())),
    ] {
        let failed = MADE_HERE.iter().filter(|&&mechanism| fails(&refusal, mechanism)).count();
        assert!(failed > 0, "no mechanism makes the call {}", refusal.what);
    }
}

/// Whether the mechanism needs the call; either way nothing is left that is not said.
fn fails(refusal: &Refusal, mechanism: Mechanism) -> bool {
    let what = format!("{}, {mechanism}", refusal.what);
    in_private_mount_ns(|| {
        let bed = Bed::new(3);
        let request = Request {
            attach: Some(bed.path("mnt")),
            ..bed.request(Choice::Forced(mechanism), LowerSource::Layers)
        };
        let plan = plan(&request, &Capabilities::assumed()).unwrap();
        let rule = Denied { call: refusal.call, argument: refusal.argument, errno: libc::EIO };
        // Filters stay with their thread, and are inherited: the worker is refused the same.
        let (bed, result) = on_own_thread(|| {
            let bed = if refusal.worker_first {
                let bed = bed.with_worker();
                deny(&[rule]);
                bed
            } else {
                deny(&[rule]);
                bed.with_worker()
            };
            let result = bed.apply(&plan);
            (bed, result)
        });
        let error = match result {
            // Not every mechanism makes every call.
            Ok(rootfs) => {
                drop(rootfs);
                plywood_kernel::unmount(bed.path("mnt"), plywood_kernel::UnmountFlags::empty()).unwrap();
                bed.assert_no_traces(&what);
                return false;
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), Kind::Failed, "{what}: {error:?}");
        let ApplyError::Step { left, .. } = &error else { panic!("{error:?}") };
        if refusal.undo_too {
            assert!(left.iter().any(|left| left.to_string().contains(refusal.what)), "{what}: {error}");
            for mount in bed.mounts().iter().rev() {
                plywood_kernel::unmount(mount, plywood_kernel::UnmountFlags::empty()).unwrap();
            }
        } else {
            assert!(left.is_empty(), "{what}: {error}");
            bed.assert_untouched(&what);
        }
        true
    })
}

#[test]
fn root_what_cannot_be_taken_back_is_said() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(2);
        let plan = bed.plan(Mechanism::CommonParent, LowerSource::Layers);
        let error = on_own_thread(|| {
            deny(&[Denied { call: libc::SYS_umount2, argument: None, errno: libc::EBUSY }]);
            bed.apply(&plan).unwrap_err()
        });
        assert_eq!(error.kind(), Kind::Busy);
        let text = error.to_string();
        assert!(text.contains("could not be undone: umount2(") && text.contains("EBUSY"), "{text}");
        let left = bed.path("tmp/1/lower");
        assert_eq!(bed.mounts(), std::slice::from_ref(&left));
        plywood_kernel::unmount(&left, plywood_kernel::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn root_an_owner_outside_the_range_is_named() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(2);
        std::os::unix::fs::chown(bed.layer(2), Some(70_000), Some(0)).unwrap();
        let error = bed.apply(&bed.plan(Mechanism::Detached, LowerSource::Layers)).unwrap_err();
        let ApplyError::Step { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(*source, StepError::Unmapped { uid: 70_000, .. }), "{source:?}");
        assert!(source.to_string().contains("use a longer range"), "{source}");
        bed.assert_untouched("an owner outside the range");
    });
}

#[test]
fn root_private_without_a_worker_is_refused() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(2);
        let plan = bed.plan(Mechanism::Private, LowerSource::Flat);
        let error = apply(&plan, &Context { worker: None, ..bed.context() }).unwrap_err();
        assert!(matches!(error, ApplyError::NoWorker { .. }), "{error:?}");
        bed.assert_untouched("private without a worker");
    });
}
