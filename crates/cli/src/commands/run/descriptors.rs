//! The limit on open files: a launcher needs a few descriptors for each container, containers keep what they had.

use plywood_engine::bundle::Rlimit;
use rustix::process::{Resource, getrlimit, setrlimit};

/// The name of the limit in the runtime's specification, without `RLIMIT_`.
const NAME: &str = "nofile";

/// Raises our own limit to the most we may have, and answers with `wanted` for the containers: unless it says
/// otherwise they get the limit this process was started with.
pub fn raise(mut wanted: Vec<Rlimit>) -> Vec<Rlimit> {
    let found = getrlimit(Resource::Nofile);
    let mut ours = found;
    ours.current = ours.maximum;
    match setrlimit(Resource::Nofile, ours) {
        Ok(()) if !wanted.iter().any(|limit| limit.name == NAME) => wanted.push(Rlimit {
            name: NAME.to_owned(),
            soft: found.current.unwrap_or(u64::MAX),
            hard: found.maximum.unwrap_or(u64::MAX),
        }),
        Ok(()) => {}
        // Enough for most bursts; a launch that runs out says so itself.
        Err(errno) => tracing::debug!(%errno, "the limit on open files stays as it is"),
    }
    wanted
}
