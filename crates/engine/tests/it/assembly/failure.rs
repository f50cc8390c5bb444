//! Steps that fail, and what is left afterwards: nothing.

use plywood_engine::apply::{ApplyError, Context, StepError, apply};
use plywood_engine::capabilities::Capabilities;
use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{Request, plan};
use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{Kind, table};

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

/// Every kind of call refused once, in every mechanism: a failure at any point is taken back.
#[test]
fn root_any_refused_call_is_taken_back() {
    require_root();
    let refused = |call, argument| Denied { call, argument, errno: libc::EIO };
    let create = Some((1, 6)); // FSCONFIG_CMD_CREATE
    let set_flag = Some((1, 0)); // FSCONFIG_SET_FLAG: volatile
    for (what, rule) in [
        ("open_tree", refused(libc::SYS_open_tree, None)),
        ("mount_setattr", refused(libc::SYS_mount_setattr, None)),
        ("move_mount", refused(libc::SYS_move_mount, None)),
        ("fsopen", refused(libc::SYS_fsopen, None)),
        ("fsconfig flag", refused(libc::SYS_fsconfig, set_flag)),
        ("fsconfig create", refused(libc::SYS_fsconfig, create)),
        ("fsmount", refused(libc::SYS_fsmount, None)),
        ("symlinkat", refused(libc::SYS_symlinkat, None)),
        ("fchownat", refused(libc::SYS_fchownat, None)),
    ] {
        for mechanism in MADE_HERE {
            in_private_mount_ns(|| {
                let bed = Bed::new(3);
                let request = Request {
                    attach: Some(bed.path("mnt")),
                    ..bed.request(Choice::Forced(mechanism), LowerSource::Layers)
                };
                let plan = plan(&request, &Capabilities::assumed()).unwrap();
                // Filters are inherited: the worker's thread is refused the same, unless its own start needs the call.
                let bed = if ["open_tree", "move_mount"].contains(&what) {
                    let bed = bed.with_worker();
                    deny(&[rule]);
                    bed
                } else {
                    deny(&[rule]);
                    bed.with_worker()
                };
                match bed.apply(&plan) {
                    // Not every mechanism makes every call.
                    Ok(rootfs) => {
                        drop(rootfs);
                        let target = bed.path("mnt");
                        plywood_kernel::unmount(&target, plywood_kernel::UnmountFlags::empty()).unwrap();
                        bed.assert_no_traces(&format!("{what}, {mechanism}"));
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Failed, "{what}, {mechanism}: {error:?}");
                        let ApplyError::Step { left, .. } = &error else { panic!("{error:?}") };
                        assert!(left.is_empty(), "{what}, {mechanism}: {error}");
                        bed.assert_untouched(&format!("{what}, {mechanism}"));
                    }
                }
            });
        }
    }
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
