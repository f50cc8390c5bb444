//! What to do about errors of the launch.

use std::error::Error;

use plywood_engine::runtime::{FindError, Refusal};

/// What to do about this one, if it is one of the launch.
pub fn advice(cause: &(dyn Error + 'static)) -> Option<String> {
    let remedy = match cause.downcast_ref::<FindError>()? {
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
    };
    Some(remedy.to_owned())
}
