//! Process id files as they appear: the runtimes' word that a container runs.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::LauncherError;

/// A watched directory of process id files, named by container.
#[derive(Debug)]
pub(super) struct PidInbox {
    directory: PathBuf,
    pub(super) watch: OwnedFd,
}

/// Which files may have appeared.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrivals {
    /// These.
    Of(Vec<String>),
    /// The kernel dropped events: any.
    Unknown,
}

impl PidInbox {
    pub(super) fn open(directory: PathBuf) -> Result<PidInbox, LauncherError> {
        let failed = |errno: Errno| LauncherError::Directory {
            doing: "watching",
            path: directory.clone(),
            source: errno.into(),
        };
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        // runc renames a finished file into place, crun writes it there.
        inotify::add_watch(&watch, &directory, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)
            .map_err(failed)?;
        Ok(PidInbox { directory, watch })
    }

    /// Reads all that is there to read.
    pub(super) fn arrivals(&self) -> Result<Arrivals, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        let mut names = Vec::new();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    return Ok(Arrivals::Unknown);
                }
                Ok(event) => {
                    names.extend(event.file_name().and_then(|name| name.to_str().ok()).map(str::to_owned));
                }
                Err(Errno::AGAIN) => return Ok(Arrivals::Of(names)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The process id of container `id`, if its file is there and whole. An error means that there may be one.
    pub(super) fn pid(&self, id: &str) -> io::Result<Option<i32>> {
        match fs::read_to_string(self.file(id)) {
            Ok(text) => Ok(text.trim().parse().ok().filter(|&pid| pid > 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets container `id`.
    pub(super) fn remove(&self, id: &str) {
        match fs::remove_file(self.file(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, id, "removing a process id file");
            }
            _ => {}
        }
    }

    fn file(&self, id: &str) -> PathBuf {
        Path::new(&self.directory).join(id)
    }
}
