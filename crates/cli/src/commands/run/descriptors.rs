//! The limit on open files: a launcher needs a descriptor for each container and a few more for each that is starting;
//! containers keep the limit this process had.

use plywood_engine::bundle::Rlimit;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::remedy::Advised;

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

/// What a run holds whatever the number of containers: about 25 for the store, the threads and their namespaces, the
/// rest for a flat tree that is built meanwhile.
const OURS: u64 = 128;
/// For a container that is starting: its user namespace, root file system, volumes, log and pipes to its runtime.
const STARTING: u64 = 8;
/// For a container that runs: its process, to be waited for.
const RUNNING: u64 = 1;

/// Refuses more containers than the hard limit on open files lets one run hold, `starting` of them at once.
pub fn suffice(count: usize, starting: usize) -> Result<(), Advised> {
    let Some(limit) = getrlimit(Resource::Nofile).maximum else { return Ok(()) };
    let (count, starting) = (count as u64, starting as u64);
    let needed = needed(count, starting);
    if needed <= limit {
        return Ok(());
    }
    let fitting = fitting(limit, starting);
    Err(Advised::new(
        format!(
            "--count {count} needs {needed} open files at once, and this process may have {limit}: \
             {fitting} containers fit"
        ),
        match fitting {
            0 => {
                "raise the hard limit that `ulimit -Hn` shows, to 1024 or more: `ulimit -n 65536`, in a unit LimitNOFILE=65536"
            }
            _ => "start no more than that in one run, or raise the hard limit that `ulimit -Hn` shows",
        },
    ))
}

fn needed(count: u64, starting: u64) -> u64 {
    OURS + RUNNING * count + STARTING * starting.min(count)
}

fn fitting(limit: u64, starting: u64) -> u64 {
    let rest = limit.saturating_sub(OURS);
    let all_starting = rest / (RUNNING + STARTING);
    if all_starting < starting { all_starting } else { (rest - STARTING * starting) / RUNNING }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_the_most_that_is_enough() {
        for starting in [1, 16, 1000] {
            for limit in (129..3000).step_by(7) {
                let most = fitting(limit, starting);
                assert!(most == 0 || needed(most, starting) <= limit, "{limit} {starting}");
                assert!(needed(most + 1, starting) > limit, "{limit} {starting}");
            }
        }
        assert_eq!(fitting(100, 16), 0);
    }
}
