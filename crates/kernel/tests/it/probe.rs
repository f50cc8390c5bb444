//! Probes: what this kernel can do, and each "no" and "error" forced by a filter.
//!
//! The expected answers are those of a kernel from 6.15 on.

use plywood_kernel::testing::{Denied, deny, deny_syscalls, on_own_thread, require_root};
use plywood_kernel::{FsContext, IdMap, IdRange, Kind, MountAttrs, MountFd, Result, UserNs, probe, table};

const SYS_LISTMOUNT: libc::c_long = 458;
const FSCONFIG_SET_FD: u32 = 5;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// New in 7.3: tried here without the probe, by two layers that are directories at hand.
fn an_overlay_takes_an_id_map() -> Result<()> {
    let layers = [scratch(), scratch()];
    let mount = || -> Result<MountFd> {
        let context = FsContext::open("overlay")?;
        for layer in &layers {
            context.set_string("lowerdir+", layer.path())?;
        }
        context.create()?;
        context.mount(MountAttrs::NONE)
    };
    let range = IdRange { start: 0x7000_0000, length: 65_536 };
    mount().unwrap().set_idmap(&UserNs::create(&IdMap::from_ranges(range, range)).unwrap())
}

#[test]
fn root_what_this_kernel_can_do() {
    require_root();
    let dir = scratch();
    let before = table::count().unwrap();
    assert!(probe::mount_api().unwrap());
    assert!(probe::idmapped_mounts(dir.path()).unwrap());
    assert!(probe::idmapped_layers(dir.path()).unwrap());
    assert!(probe::overlay_lower_append(dir.path()).unwrap());
    assert!(probe::overlay_layer_fds(dir.path()).unwrap());
    assert!(probe::detached_layers(dir.path()).unwrap());
    assert_eq!(probe::idmapped_overlay(dir.path()).unwrap(), an_overlay_takes_an_id_map().is_ok());
    assert!(probe::listmount().unwrap());
    assert!(probe::fanotify_mount_events().unwrap());
    assert_eq!(table::count().unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "probes leave nothing");
}

#[test]
fn root_all_gathers_the_same_answers() {
    require_root();
    let dir = scratch();
    let all = probe::all(dir.path()).unwrap();
    assert!(all.detached_layers && all.idmapped_layers && all.fanotify_mount_events && all.mount_api);
    assert_eq!(all.idmapped_overlay, probe::idmapped_overlay(dir.path()).unwrap());
}

type Probe = fn(&std::path::Path) -> Result<bool>;

#[test]
fn root_a_call_the_kernel_lacks_makes_a_no() {
    require_root();
    let dir = scratch();
    let cases: &[(&str, libc::c_long, Probe)] = &[
        ("mount_api", libc::SYS_fsopen, |_| probe::mount_api()),
        ("idmapped_mounts", libc::SYS_mount_setattr, probe::idmapped_mounts),
        ("idmapped_mounts", libc::SYS_open_tree, probe::idmapped_mounts),
        ("idmapped_layers", libc::SYS_mount_setattr, probe::idmapped_layers),
        ("idmapped_layers", libc::SYS_fsopen, probe::idmapped_layers),
        ("overlay_lower_append", libc::SYS_fsconfig, probe::overlay_lower_append),
        ("overlay_layer_fds", libc::SYS_fsconfig, probe::overlay_layer_fds),
        ("detached_layers", libc::SYS_fsconfig, probe::detached_layers),
        ("detached_layers", libc::SYS_open_tree, probe::detached_layers),
        ("idmapped_overlay", libc::SYS_mount_setattr, probe::idmapped_overlay),
        ("listmount", SYS_LISTMOUNT, |_| probe::listmount()),
        ("fanotify_mount_events", libc::SYS_fanotify_init, |_| probe::fanotify_mount_events()),
        ("fanotify_mount_events", libc::SYS_fanotify_mark, |_| probe::fanotify_mount_events()),
    ];
    for (name, call, probe) in cases {
        let answer = on_own_thread(|| {
            deny_syscalls(&[*call]);
            probe(dir.path())
        });
        assert!(!answer.unwrap(), "{name} without system call {call}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{name} leaves nothing");
    }
}

#[test]
fn root_layers_as_descriptors_alone_can_be_missing() {
    require_root();
    let dir = scratch();
    for errno in [libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF] {
        on_own_thread(|| {
            deny(&[Denied { call: libc::SYS_fsconfig, argument: Some((1, FSCONFIG_SET_FD)), errno }]);
            assert!(!probe::overlay_layer_fds(dir.path()).unwrap());
            assert!(!probe::detached_layers(dir.path()).unwrap());
            assert!(probe::overlay_lower_append(dir.path()).unwrap());
            assert!(probe::idmapped_layers(dir.path()).unwrap(), "what older kernels do still works");
        });
    }
}

#[test]
fn root_a_denied_call_is_an_error_and_never_a_no() {
    require_root();
    let dir = scratch();
    for (errno, kind) in [(libc::EPERM, Kind::Denied), (libc::ENOSPC, Kind::Exhausted)] {
        on_own_thread(|| {
            deny(&[Denied { call: libc::SYS_fsopen, argument: None, errno }]);
            assert_eq!(probe::mount_api().unwrap_err().kind(), kind);
            assert_eq!(probe::overlay_layer_fds(dir.path()).unwrap_err().kind(), kind);
            assert_eq!(probe::detached_layers(dir.path()).unwrap_err().kind(), kind);
            assert_eq!(probe::idmapped_layers(dir.path()).unwrap_err().kind(), kind);
        });
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn root_a_filesystem_without_id_maps_makes_a_no() {
    require_root();
    // proc cannot be idmapped, and no directory can be made there: that is an error, not a no.
    let error = probe::idmapped_mounts("/proc/self".as_ref()).unwrap_err();
    assert!(error.call().starts_with("mkdir("), "{error}");
    let missing = probe::idmapped_mounts("/no/such".as_ref()).unwrap_err();
    assert_eq!(missing.kind(), Kind::Missing);
}
