//! What to do about errors of the launch.

use std::error::Error;
use std::io::ErrorKind;

use plywood_engine::idrange::MachineIdsError;
use plywood_engine::launch::{LauncherError, RunDirectories};
use plywood_engine::runtime::{FindError, Refusal};
use rustix::io::Errno;

/// What to do about this one, if it is one of the launch.
pub fn advice(cause: &(dyn Error + 'static)) -> Option<String> {
    let remedy = if let Some(error) = cause.downcast_ref() {
        of_find(error)?
    } else if let Some(error) = cause.downcast_ref() {
        of_launcher(error)?
    } else {
        of_ids(cause.downcast_ref()?)?
    };
    Some(remedy.to_owned())
}

fn of_find(error: &FindError) -> Option<&'static str> {
    Some(match error {
        FindError::Refused { refusal: Refusal::NotInstalled, .. } => {
            "install it, such as `apt-get install runc` or `apt-get install crun`, or give its path: --runtime PATH"
        }
        FindError::Refused { refusal: Refusal::HybridCgroups | Refusal::NoCgroups(_), .. } => {
            "leave --runtime out: `plywood doctor` shows which one is used"
        }
        FindError::Refused { .. } => {
            "give the path of an OCI runtime such as runc or crun, or leave --runtime out"
        }
        // It says so itself.
        FindError::NoneWorks(_) => return None,
    })
}

const RUN: &str = "containers are reached through /run/plywood, whatever the state root is: make /run writable, or mount \
                   a tmpfs there";

/// Not of the state root: all of them use one place.
fn of_launcher(error: &LauncherError) -> Option<&'static str> {
    match error {
        LauncherError::Directory { path, source, .. } if path.starts_with(RunDirectories::ANCHOR) => {
            (source.kind() == ErrorKind::ReadOnlyFilesystem).then_some(RUN)
        }
        _ => None,
    }
}

fn of_ids(error: &MachineIdsError) -> Option<&'static str> {
    match error {
        MachineIdsError::Call(call) if call.errno() == Errno::ROFS => Some(RUN),
        MachineIdsError::Call(call) if matches!(call.errno(), Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            Some(
                "/run/plywood/ids.lock must be a regular file: remove what is there when no container runs; it will be made again",
            )
        }
        _ => None,
    }
}
