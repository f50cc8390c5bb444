//! Filesystem contexts, and the kernel's own words when they fail.

use plywood_kernel::testing::require_root;
use plywood_kernel::{FsContext, Kind, MountAttrs};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

#[test]
fn root_a_filesystem_is_made_and_mounted_without_being_attached() {
    require_root();
    let context = FsContext::open("tmpfs").unwrap();
    context.set_string("size", "1M").unwrap();
    context.set_string("mode", "0711").unwrap();
    context.create().unwrap();
    let mount = context.mount(MountAttrs::NOEXEC | MountAttrs::NOSUID).unwrap();
    let stat = rustix::fs::fstat(mount.open_dir("").unwrap()).unwrap();
    assert_eq!(stat.st_mode & 0o777, 0o711);
    rustix::fs::openat(&mount, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
}

#[test]
fn root_a_refused_parameter_comes_with_the_kernels_sentence() {
    require_root();
    let context = FsContext::open("tmpfs").unwrap();
    let error = context.set_string("no_such_option", "x").unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.call().ends_with("FSCONFIG_SET_STRING, \"no_such_option\", \"x\", 0)"), "{error}");
    assert!(error.kernel_log().iter().any(|line| line.contains("no_such_option")), "{error:?}");
    assert!(error.to_string().contains("= -1 EINVAL ["), "{error}");
}

#[test]
fn root_a_refused_overlay_layer_names_the_layer_and_the_kernels_reason() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let layer = std::fs::File::open(&path).unwrap();
    let context = FsContext::open("overlay").unwrap();
    for _ in 0..500 {
        context.set_fd("lowerdir+", &layer).unwrap();
    }
    let error = context.set_fd("lowerdir+", &layer).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.call().contains("FSCONFIG_SET_FD, \"lowerdir+\", NULL, "), "{error}");
    assert!(error.call().contains(path.to_str().unwrap()), "{error}");
    println!("{error}");

    let error = FsContext::open("overlay").unwrap().set_string("redirect_dir", "perhaps").unwrap_err();
    assert_eq!(error.kernel_log(), ["e overlay: Bad value for 'redirect_dir'"]);
}

#[test]
fn root_an_unknown_filesystem_is_unsupported() {
    require_root();
    let error = FsContext::open("no-such-fs").unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.to_string(), "fsopen(\"no-such-fs\", FSOPEN_CLOEXEC) = -1 ENODEV");
}
