//! Every mechanism with every lower source, seen from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use plywood_engine::apply::{Context, apply};
use plywood_engine::capabilities::{Answer, Capabilities, check_rootfs};
use plywood_engine::idrange::UserNsPool;
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{PlanError, Request, plan};
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{MountWatch, table};

use super::bed::{Bed, HOST_ROOT, RANGE, idmap, names};

/// Prints owners as seen inside, writes through, and tries a device.
const LOOK: &str = r#"
stat -c '%n %u:%g %a' . file home home/user dir/replaced links/soft
find . | sort | tr '\n' ' '; echo
test links/one -ef links/two && echo linked
cat file dir/replaced; echo
echo more >> file; mkdir made; touch made/file; chown 5:6 made/file
stat -c '%n %u:%g' file made made/file
rm dir/kept; test ! -e dir/kept
if (: > null) 2>/dev/null; then echo device opened; else echo no devices; fi
"#;

const SEEN: &str = "\
. 0:0 751
file 0:0 644
home 1000:1000 755
home/user 1000:1000 4750
dir/replaced 7:7 644
links/soft 0:0 777
. ./dir ./dir/added ./dir/kept ./dir/replaced ./file ./home ./home/user ./links ./links/one ./links/soft \
./links/two ./null ./of-layer-1 ./of-layer-2 ./of-layer-3 ./opaque ./opaque/new 
linked
from the image
new
file 0:0
made 0:0
made/file 5:6
no devices";

fn run_for_real(mechanism: Mechanism, source: LowerSource, passes: u32) {
    let what = format!("{mechanism}, {source}, {passes} passes");
    let bed = Bed::new(3).with_worker();
    let request = Request { passes, ..bed.request(Choice::Forced(mechanism), source) };
    let plan = plan(&request, &Capabilities::assumed()).unwrap();
    let before = table::count().unwrap();
    let mut watch = MountWatch::start().unwrap();
    let rootfs = bed.apply(&plan).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    bed.reaper.drain();
    let seen = watch.counts().unwrap();
    if watch.is_exact() {
        let planned = plan.mount_ops();
        assert_eq!(
            (seen.attached, seen.detached),
            (planned.host_attach as u64, planned.host_detach as u64),
            "{what}"
        );
    }
    assert_eq!(table::count().unwrap(), before, "{what}");
    bed.assert_no_traces(&what);
    assert_eq!(rootfs.done.mounts, plan.mount_ops(), "{what}");
    assert_eq!(rootfs.done.calls, plan.calls(), "{what}");

    assert_eq!(bed.inside(&rootfs, LOOK), SEEN, "{what}");
    let on_disk = |name: &str| {
        let meta = fs::metadata(bed.path("upper").join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    let shift = if plan.unshifted_upper { 0 } else { HOST_ROOT };
    assert_eq!(on_disk(""), (shift, shift), "{what}");
    assert_eq!(on_disk("file"), (shift, shift), "{what}");
    assert_eq!(on_disk("made/file"), (shift + 5, shift + 6), "{what}");
    let image = fs::metadata(bed.path("layers/1/fs/file")).unwrap();
    assert_eq!((image.uid(), image.len()), (0, 15), "{what}: the layer is as it was");

    check_rootfs(&rootfs, Path::new("of-layer-1"), &plan.idmap, &plan.upper, plan.unshifted_upper).unwrap();
    drop(rootfs);
    bed.assert_no_traces(&what);
}

fn run_both_sources(mechanism: Mechanism, passes: u32) {
    require_root();
    for source in LowerSource::ALL {
        in_private_mount_ns(|| run_for_real(mechanism, source, passes));
    }
}

#[test]
fn root_detached() {
    run_both_sources(Mechanism::Detached, 1);
}

#[test]
fn root_private() {
    run_both_sources(Mechanism::Private, 1);
}

#[test]
fn root_common_parent() {
    run_both_sources(Mechanism::CommonParent, 1);
    run_both_sources(Mechanism::CommonParent, 2);
}

#[test]
fn root_per_layer() {
    run_both_sources(Mechanism::PerLayer, 1);
    run_both_sources(Mechanism::PerLayer, 3);
}

#[test]
fn root_copy() {
    run_both_sources(Mechanism::Copy, 1);
}

#[test]
fn root_idmapped_overlay_works_or_says_what_the_kernel_said() {
    require_root();
    let found = in_private_mount_ns(|| Capabilities::probe(&Bed::new(2).path("tmp"))).unwrap();
    if found.idmapped_overlay.is_yes() {
        return run_both_sources(Mechanism::IdmappedOverlay, 1);
    }
    let bed = Bed::new(2);
    let request = bed.request(Choice::Forced(Mechanism::IdmappedOverlay), LowerSource::Flat);
    let error = plan(&request, &found).unwrap_err();
    assert!(matches!(error, PlanError::Unsupported { mechanism: Mechanism::IdmappedOverlay, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("Linux 7.3") && text.contains("MOUNT_ATTR_IDMAP") && text.contains("EINVAL"),
        "{text}"
    );
    // Asked without asking first, the kernel refuses and nothing is left.
    let error = bed.apply(&bed.plan(Mechanism::IdmappedOverlay, LowerSource::Flat)).unwrap_err();
    assert_eq!(error.errno(), Some(rustix::io::Errno::INVAL));
    bed.assert_untouched("idmapped-overlay");
}

#[test]
fn root_probing_leaves_nothing_and_survives_being_stored() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(2);
        let before = table::count().unwrap();
        let found = Capabilities::probe(&bed.path("tmp")).unwrap();
        bed.assert_untouched("probing");
        assert_eq!(table::count().unwrap(), before);
        for answer in
            [&found.mount_api, &found.append_layers, &found.volatile, &found.private, &found.detached]
        {
            assert!(!matches!(answer, Answer::Error { .. }), "{found:?}");
        }
        let stored = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&stored).unwrap(), found);
    });
}

#[test]
fn root_an_attach_in_the_plan_is_done_and_stays() {
    require_root();
    for mechanism in [Mechanism::Detached, Mechanism::Private, Mechanism::CommonParent, Mechanism::Copy] {
        in_private_mount_ns(|| {
            let bed = Bed::new(2).with_worker();
            let at = bed.path("mnt");
            let request = Request {
                attach: Some(at.clone()),
                ..bed.request(Choice::Forced(mechanism), LowerSource::Layers)
            };
            let rootfs = bed.apply(&plan(&request, &Capabilities::assumed()).unwrap()).unwrap();
            assert_eq!(rootfs.attached.as_deref(), Some(&*at));
            drop(rootfs);
            assert_eq!(bed.mounts(), std::slice::from_ref(&at), "{mechanism}");
            assert_eq!(fs::read(at.join("file")).unwrap(), b"from the image\n");
            plywood_kernel::unmount(&at, plywood_kernel::UnmountFlags::empty()).unwrap();
        });
    }
}

#[test]
fn root_five_hundred_layers() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(500).with_worker();
        for mechanism in [
            Mechanism::Detached,
            Mechanism::Private,
            Mechanism::CommonParent,
            Mechanism::PerLayer,
            Mechanism::Copy,
        ] {
            let rootfs = bed.apply(&bed.plan(mechanism, LowerSource::Layers)).unwrap();
            let seen = bed.inside(&rootfs, "ls of-layer-* | wc -l; cat dir/replaced");
            assert_eq!(seen, "500\nnew", "{mechanism}");
            drop(rootfs);
            bed.assert_no_traces(mechanism.name());
            bed.empty_snapshot();
        }
    });
}

#[test]
fn root_many_at_once_share_a_worker_and_a_pool() {
    require_root();
    in_private_mount_ns(|| {
        let bed = Bed::new(8).with_worker();
        let pool = UserNsPool::new();
        pool.prepare(&[idmap(), idmap()]).unwrap();
        assert_eq!(pool.len(), 1);
        let user_ns = pool.get(&idmap()).unwrap();
        let context = Context { user_ns: &user_ns, ..bed.context() };
        thread::scope(|scope| {
            let launches: Vec<_> = (0..20)
                .map(|n| {
                    let mechanism = [Mechanism::Private, Mechanism::Detached][n % 2];
                    let own = |name: &str| bed.path("tmp").join(format!("{name}-{n}"));
                    for name in ["upper", "work"] {
                        fs::create_dir(own(name)).unwrap();
                    }
                    let mut request = Request::new(
                        bed.lowers(LowerSource::Layers),
                        idmap(),
                        own("upper"),
                        own("work"),
                        own("scratch"),
                    );
                    request.choice = Choice::Forced(mechanism);
                    let plan = plan(&request, &Capabilities::assumed()).unwrap();
                    scope.spawn(move || {
                        let rootfs = apply(&plan, &context).unwrap();
                        check_rootfs(&rootfs, Path::new("file"), &plan.idmap, &plan.upper, false).unwrap();
                    })
                })
                .collect();
            launches.into_iter().for_each(|launch| launch.join().unwrap());
        });
        assert_eq!(bed.mounts().len(), 0);
        assert_eq!(names(&bed.path("tmp")).len(), 40, "upper and work directories, no mount points");
        assert!(RANGE.contains(HOST_ROOT));
        pool.forget(&idmap());
        assert!(pool.is_empty());
    });
}
