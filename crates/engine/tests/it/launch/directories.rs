//! The directories every container is reached through.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use plywood_engine::launch::{LauncherError, RunDirectories};
use plywood_engine::runtime::RunMode;
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{FsContext, MountAttrs};

use super::support::{Host, command};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs `test` where `/run` is empty, as on a machine that has never seen us.
fn with_an_empty_run(test: impl FnOnce() + Send) {
    require_root();
    in_private_mount_ns(|| {
        let context = FsContext::open("tmpfs").unwrap();
        context.set_string("mode", "0755").unwrap();
        context.create().unwrap();
        context.mount(MountAttrs::NOSUID).unwrap().attach(rustix::fs::CWD, "/run").unwrap();
        test();
    });
}

/// The default state root has its run directory at the anchor. Made private as a run directory, it could not be
/// walked through by any container's root, so that on a fresh machine no container started at all.
#[test]
fn root_the_default_run_directory_is_the_anchor_and_lets_containers_through() {
    with_an_empty_run(|| {
        let anchor = Path::new(RunDirectories::ANCHOR);
        let host = Host::with_directories(|_| RunDirectories::with_run(anchor));
        for _ in 0..2 {
            assert_eq!(host.run(RunMode::Attached, command(&["true"])).0, 0);
            assert_eq!((mode(anchor), mode(&anchor.join("rootfs"))), (0o711, 0o755));
            assert_eq!((mode(&anchor.join("bundles")), mode(&anchor.join("pids"))), (0o700, 0o700));
            // As the release before left it: opened again.
            fs::set_permissions(anchor, Permissions::from_mode(0o700)).unwrap();
        }
        assert_eq!(host.run(RunMode::Detached, command(&["true"])).0, 0);
        assert_eq!(mode(anchor), 0o711);
    });
}

#[test]
fn root_an_anchor_of_somebody_else_is_refused() {
    with_an_empty_run(|| {
        let anchor = Path::new(RunDirectories::ANCHOR);
        let directories = RunDirectories::with_run(anchor);
        fs::create_dir(anchor).unwrap();
        chown(anchor, Some(1000), Some(1000)).unwrap();
        let error = directories.create().unwrap_err();
        assert!(matches!(&error, LauncherError::NotOurs { path, .. } if path == anchor), "{error}");
        assert!(error.to_string().contains("belongs to user 1000"), "{error}");
        // Not at any time: with it goes the register of ids in use.
        assert!(error.to_string().contains("remove it when no container runs"), "{error}");

        fs::remove_dir(anchor).unwrap();
        fs::create_dir("/run/elsewhere").unwrap();
        symlink("/run/elsewhere", anchor).unwrap();
        let error = directories.create().unwrap_err();
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
        assert_eq!(fs::read_dir("/run/elsewhere").unwrap().count(), 0, "nothing is made behind the link");
    });
}
