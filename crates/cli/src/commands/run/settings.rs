//! What was asked for, read: wrong usage is found here, before anything is done. Whether it is possible, [`trial`]
//! finds out.

use anyhow::Context as _;
use plywood_engine::bundle::{
    self, CapabilityChange, Limit, Overrides, Resources, Rlimit, Volume, check_id_list, parse_bytes,
};
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;

use super::trial;
use crate::args::{Net, Run};
use crate::remedy::Usage;

/// A checked command line of `run`.
#[derive(Debug)]
pub struct Settings {
    /// How many containers.
    pub count: usize,
    /// They outlive the command.
    pub detached: bool,
    /// Name, or prefix of the names.
    pub name: Option<String>,
    /// What the user called the image.
    pub image: String,
    /// Host directories to show inside.
    pub volumes: Vec<Volume>,
    /// Network.
    pub net: Net,
    /// Cgroup limits.
    pub resources: Resources,
    /// Process limits.
    pub rlimits: Vec<Rlimit>,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// What replaces the image's configuration.
    pub overrides: Overrides,
    /// Changes to the capabilities.
    pub capabilities: CapabilityChange,
    /// OCI runtime by name or path.
    pub runtime: Option<String>,
    /// Runtimes starting at once.
    pub concurrency: Option<usize>,
    /// How long a runtime may take to start a container.
    pub start_timeout: std::time::Duration,
    /// Forced mechanism.
    pub mechanism: Option<Mechanism>,
    /// Forced lower source.
    pub lower: Option<LowerSource>,
    /// Ids of each container.
    pub id_range_length: u32,
    /// Do not build a flat tree.
    pub no_flat: bool,
    /// Standard output is for JSON alone; the containers write to standard error.
    pub output_to_stderr: bool,
}

impl Settings {
    /// Checks the arguments.
    ///
    /// # Errors
    /// [`Usage`], naming the argument.
    pub fn from_args(args: &Run, json: bool) -> anyhow::Result<Self> {
        let volumes =
            args.volumes.iter().map(|text| Volume::parse(text).map_err(usage)).collect::<Result<_, _>>()?;
        let rlimits =
            args.ulimit.iter().map(|text| Rlimit::parse(text).map_err(usage)).collect::<Result<_, _>>()?;
        if let Some(name) = &args.name {
            check_name(name)?;
        }
        let pids = match args.pids_limit {
            None | Some(-1) => None,
            Some(limit) => Some(u64::try_from(limit).context("--pids-limit: give a number, or -1 for none")?),
        };
        let memory = args.memory.as_deref().map(parse_bytes).transpose();
        let lists = [(Limit::CpusetCpus, &args.cpuset_cpus), (Limit::CpusetMems, &args.cpuset_mems)];
        for (limit, list) in lists {
            if let Some(list) = list {
                check_id_list(limit, list).map_err(|error| usage(trial::named(&error)))?;
            }
        }
        let overrides = Overrides {
            command: (!args.command.is_empty()).then(|| args.command.clone()),
            // An empty one takes the image's away.
            entrypoint: args.entrypoint.as_ref().map(|program| {
                Some(program.clone()).filter(|program| !program.is_empty()).into_iter().collect()
            }),
            env: environment(&args.env),
            user: args.user.clone(),
            workdir: args.workdir.clone(),
            hostname: args.hostname.clone(),
        };
        let capabilities = CapabilityChange { add: args.cap_add.clone(), drop: args.cap_drop.clone() };
        bundle::check(&overrides, &capabilities).map_err(usage)?;
        Ok(Self {
            count: usize::try_from(args.count)?,
            detached: args.detach,
            name: args.name.clone(),
            image: args.image.clone(),
            volumes,
            net: args.net,
            resources: Resources {
                memory_bytes: memory.map_err(|error| usage(format!("--memory: {error}")))?,
                cpus: args.cpus,
                pids,
                cpuset_cpus: args.cpuset_cpus.clone(),
                cpuset_mems: args.cpuset_mems.clone(),
            },
            rlimits,
            read_only: args.read_only,
            overrides,
            capabilities,
            runtime: args.runtime.clone(),
            concurrency: args.concurrency.map(usize::try_from).transpose()?,
            start_timeout: args.start_timeout,
            mechanism: args.assembly.mechanism,
            lower: args.assembly.lower,
            id_range_length: args.assembly.id_range_length,
            no_flat: args.fetch.no_flat,
            output_to_stderr: json,
        })
    }
}

fn usage(error: impl std::fmt::Display) -> Usage {
    Usage(error.to_string())
}

/// A `NAME` alone takes the caller's value, and is left out if the caller has none.
fn environment(wanted: &[String]) -> Vec<String> {
    let with_value = |variable: &String| {
        // One without a name is for the check to refuse.
        if variable.contains('=') || variable.is_empty() {
            return Some(variable.clone());
        }
        std::env::var(variable).ok().map(|value| format!("{variable}={value}"))
    };
    wanted.iter().filter_map(with_value).collect()
}

/// As container engines name containers.
fn check_name(name: &str) -> Result<(), Usage> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= 200 && name.bytes().all(good) {
        return Ok(());
    }
    Err(Usage(format!(
        "`{name}` is no container name: letters, digits, `_`, `.` and `-`, the first a letter or digit"
    )))
}
