//! Whether what was asked for is possible here, found out before anything is recorded or started. Whatever is not is
//! refused with the flag that asked for it.

use std::path::PathBuf;

use plywood_engine::bundle::{self, BundleError, Limit, Resources};
use plywood_engine::cgroup::Cgroups;
use plywood_engine::launch::MAX_VOLUMES;
use plywood_kernel::{IdMap, IdRange};

use super::launch::bundle_request;
use super::program::Program;
use super::settings::Settings;
use crate::remedy::Advised;

/// Whether the limits are possible on this host; needs no image.
pub fn limits(resources: &Resources, cgroups: &Cgroups) -> Result<(), Advised> {
    resources.check().and_then(|()| resources.within(&cgroups.cpusets())).map_err(|error| {
        Advised::new(named(&error), "give one that is, or leave it out; `plywood run --help` explains it")
    })
}

/// Fewer open files than this, and the runtime cannot start a container: it is under the limit by then. runc 1.1 needs 12.
const FEWEST_FILES: u64 = 16;

/// Whether there is a runtime spec for the program: made as for a container, with a range of the right length.
pub fn spec(settings: &Settings, program: &Program) -> anyhow::Result<()> {
    if let Some(limit) =
        settings.rlimits.iter().find(|limit| limit.name == "nofile" && limit.soft < FEWEST_FILES)
    {
        let few = limit.soft;
        let what = format!(
            "--ulimit: nofile={few} is too small: the runtime starts the container under it, and needs {FEWEST_FILES}"
        );
        let remedy = format!("give more, and lower it inside: -- sh -c 'ulimit -n {few}; exec COMMAND'");
        return Err(Advised::new(what, remedy).into());
    }
    let count = settings.volumes.len();
    if count > MAX_VOLUMES {
        let what = format!("--volume: {count} volumes; {MAX_VOLUMES} is the most a container can have");
        return Err(Advised::new(what, "mount a directory above several of them instead").into());
    }
    let range = IdRange { start: 1, length: settings.id_range_length };
    let mut request = bundle_request(settings, program, IdMap::from_ranges(range, range));
    request.volumes = settings.volumes.iter().map(|volume| volume.mount(PathBuf::from("/"))).collect();
    match bundle::spec(&request) {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(error, settings)),
    }
}

fn refused(error: BundleError, settings: &Settings) -> anyhow::Error {
    match &error {
        BundleError::IdOutsideRange { id, .. } => {
            let whose = if settings.overrides.user.is_some() { "--user" } else { "the image's user" };
            let enough = (u64::from(*id) + 1).next_multiple_of(65_536);
            Advised::new(format!("{whose}: {error}"), format!("give it more ids: --id-range-length {enough}"))
                .into()
        }
        BundleError::VolumeInTheWay(_) => {
            Advised::new(named(&error), "give each volume a destination of its own").into()
        }
        _ => error.into(),
    }
}

/// The error, the flag that asked for it in front.
pub fn named(error: &BundleError) -> String {
    let flag = match error {
        BundleError::VolumeInTheWay(_) => "--volume",
        BundleError::BadLimit { limit, .. } => match limit {
            Limit::Memory | Limit::Size => "--memory",
            Limit::Cpus => "--cpus",
            Limit::Pids => "--pids-limit",
            Limit::CpusetCpus => "--cpuset-cpus",
            Limit::CpusetMems => "--cpuset-mems",
            Limit::Process => "--ulimit",
        },
        _ => return error.to_string(),
    };
    format!("{flag}: {error}")
}
