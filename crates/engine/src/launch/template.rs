//! The mount namespace containers are started in: a template with a handful of mounts, and a copy of it per launch.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use plywood_kernel::mountns::unshare_current_thread;
use plywood_kernel::{FsContext, MountAttrs, MountNs, SyscallError, table};
use rustix::fs::CWD;

use super::volume::{self, MAX_VOLUMES};
use super::{LauncherError, Prepared, RunDirectories};
use crate::runtime::Runtime;

/// What every runtime looks at besides its own files: kernel filesystems, device nodes, libraries, name services.
const KEPT: [&str; 8] = ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/usr", "/lib", "/etc", "/tmp"];

/// A mount namespace to copy for each launch.
#[derive(Debug)]
pub struct Template {
    namespace: MountNs,
    rootfs: PathBuf,
}

impl Template {
    /// Copies the few mounts a runtime needs out of the calling thread's namespace, all private, and attaches a small
    /// tmpfs with the places for volumes.
    pub fn new(
        runtime: &Runtime,
        directories: &RunDirectories,
        more: &[PathBuf],
    ) -> Result<Template, LauncherError> {
        let entries = table::list()?;
        let mut keep: Vec<&Path> = KEPT.iter().map(Path::new).collect();
        keep.extend(table::points_below(&entries, Path::new("/sys/fs/cgroup")));
        keep.extend([runtime.path(), directories.anchor.as_path(), directories.run.as_path()]);
        keep.extend(more.iter().map(PathBuf::as_path));
        let namespace = MountNs::minimal(&keep)?;
        let template = Template { namespace, rootfs: directories.rootfs() };
        let volumes = directories.volumes();
        let made = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("plywood-template".to_owned());
            let spawned = thread.spawn_scoped(scope, || template.add_volume_places(&volumes));
            let doing = "making places for volumes";
            match spawned.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(made)) => made,
                Ok(Err(_)) => {
                    Err(LauncherError::Io { doing, source: io::Error::other("the thread panicked") })
                }
                Err(source) => Err(LauncherError::Io { doing, source }),
            }
        });
        made.map(|()| template)
    }

    fn add_volume_places(&self, volumes: &Path) -> Result<(), LauncherError> {
        self.namespace.enter()?;
        let context = FsContext::open("tmpfs")?;
        context.set_string("source", "plywood-volumes")?;
        context.set_string("mode", "0755")?;
        context.create()?;
        context.mount(MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?.attach(CWD, volumes)?;
        let make = || {
            for index in 0..MAX_VOLUMES {
                let directory = volume::directory_place(volumes, index);
                fs::create_dir(&directory)?;
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
                fs::File::create(volume::file_place(volumes, index))?;
            }
            Ok(())
        };
        make().map_err(|source| LauncherError::Directory {
            doing: "filling",
            path: volumes.to_owned(),
            source,
        })
    }

    /// Moves the calling thread into a fresh copy of the template with the container's mounts attached. What the
    /// thread spawns inherits it.
    pub(super) fn enter_with(&self, prepared: &Prepared) -> Result<(), SyscallError> {
        self.namespace.enter()?;
        unshare_current_thread()?;
        prepared.rootfs.attach(&self.rootfs)?;
        for volume in &prepared.volumes {
            volume.mount.attach(CWD, &volume.place)?;
        }
        Ok(())
    }
}
