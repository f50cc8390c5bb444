//! What was asked for, read: wrong usage is found here, before anything is done.

use std::path::PathBuf;
use std::time::Duration;

use plywood_engine::capabilities::Capabilities;
use plywood_engine::mechanism::Mechanism;
use plywood_node::{CpuSet, Topology, placement};
use plywood_storm::Arm;
use plywood_storm::admission::Width;
use plywood_storm::harness::{Pace, Seats, Storm as Harness, StormError};
use plywood_storm::image::generate::Parameters;
use plywood_storm::sweep::{Sweep, SweepError};
use plywood_storm::threads::ThreadsError;

use crate::args::Storm;
use crate::remedy::{Advised, Usage, of_file};

/// Containers of a round, unless more are asked for: as in the incident.
const CONTAINERS: usize = 100;
/// Passes of the incident.
const INCIDENT_PASSES: u32 = 2;
/// How long a launch past its timeout is waited for: it holds what has to be taken back.
const GRACE: Duration = Duration::from_secs(60);

/// A checked command line of `storm`.
#[derive(Debug)]
pub struct Settings {
    /// What is compared.
    pub sweep: Sweep,
    /// The image to generate, unless one of the store is used.
    pub generate: Option<Parameters>,
    /// Rounds that count.
    pub repeat: u32,
    /// A launch that takes longer has failed.
    pub timeout: Duration,
    /// Where launching threads run, as the user named it.
    pub pinned: Option<String>,
    /// The incident against whatever is best here.
    incident: bool,
    /// CPUs of launching threads.
    pub seats: Seats,
    /// When containers are due.
    pub pace: Pace,
    /// Containers are kept so long.
    pub hold: Duration,
}

impl Settings {
    /// Checks the arguments.
    ///
    /// # Errors
    /// [`Usage`], naming the argument.
    pub fn from_args(args: &Storm, machine: &Topology) -> anyhow::Result<Self> {
        let most_at_once = args.concurrency.iter().copied().max().unwrap_or(0);
        let containers = match args.containers {
            Some(count) => usize::try_from(count)?,
            None => CONTAINERS.max(most_at_once),
        };
        let incident = is_incident(args);
        let admission = args
            .admission
            .iter()
            .map(|width| width.on(machine).map_err(|error| Usage(format!("--admission {width}: {error}"))))
            .collect::<Result<_, _>>()?;
        let (seats, pinned) = seats(args, machine)?;
        let sweep = Sweep {
            launchers: args.launcher.clone(),
            mechanisms: args.mechanism.clone(),
            lowers: args.lower.clone(),
            snapshotters: args.snapshotter.clone(),
            userns: args.userns.clone(),
            rootfs_only: args.rootfs_only,
            passes: args.passes.unwrap_or(1),
            layers: args.layers.clone(),
            containers,
            concurrency: args.concurrency.clone(),
            admission,
        };
        if args.numa && sweep.admission.iter().any(|width| *width != Width::All) {
            let why = "threads that are admitted keep to no NUMA node";
            return Err(Usage(format!("--numa does not go with --admission: {why}")).into());
        }
        if args.pin.is_some() && sweep.admission.iter().any(|width| width.on_one_cache()) {
            return Err(
                Usage("--pin does not go with --admission llc, which names CPUs itself".to_owned()).into()
            );
        }
        if args.timeout.is_zero() {
            return Err(Usage("--timeout must be longer than nothing".to_owned()).into());
        }
        Ok(Self {
            sweep,
            generate: generate(args)?,
            repeat: args.repeat,
            timeout: args.timeout,
            pinned,
            incident,
            seats,
            pace: Pace { burst: args.burst.map(usize::try_from).transpose()?, rate: args.rate },
            hold: args.hold,
        })
    }

    /// What only the kernel can tell.
    pub fn complete(&mut self, capabilities: &Capabilities) {
        if self.incident {
            self.sweep.mechanisms = vec![Mechanism::PerLayer, capabilities.choose().mechanism];
            self.sweep.passes = INCIDENT_PASSES;
        }
    }

    /// For these arms; bystanders look up the first of `walks` that there is wherever launchers work.
    pub fn harness(&self, arms: Vec<Arm>, walks: Vec<PathBuf>) -> Harness {
        Harness {
            arms,
            repeat: self.repeat,
            pace: self.pace,
            hold: self.hold,
            timeout: self.timeout,
            grace: GRACE,
            seats: self.seats.clone(),
            walks,
        }
    }
}

/// Asked for, or nothing is said of how containers are started.
fn is_incident(args: &Storm) -> bool {
    let told = !args.launcher.is_empty()
        || !args.mechanism.is_empty()
        || !args.lower.is_empty()
        || !args.admission.is_empty()
        || !args.snapshotter.is_empty()
        || !args.userns.is_empty()
        || args.rootfs_only
        || args.passes.is_some();
    args.incident || !told
}

/// The image to generate has as many layers as the sweep asks for.
fn generate(args: &Storm) -> Result<Option<Parameters>, Usage> {
    if args.image.is_some() {
        return Ok(None);
    }
    let mut parameters = args.generate.unwrap_or_default();
    if args.generate.is_none()
        && let Some(most) = args.layers.iter().copied().max()
    {
        parameters.layers = most;
        // As many in each layer as by default, so that a larger image is not a sparser one.
        let usual = Parameters::default();
        parameters.files = usual.files.max(most.saturating_mul(usual.files / usual.layers));
    }
    parameters.check().map_err(|error| Usage(error.to_string()))?;
    Ok(Some(parameters))
}

fn seats(args: &Storm, machine: &Topology) -> Result<(Seats, Option<String>), Usage> {
    if args.numa {
        let nodes = machine.nodes.iter().map(|node| node.cpus.and(&machine.allowed));
        let nodes: Vec<CpuSet> = nodes.filter(|cpus| !cpus.is_empty()).collect();
        if nodes.is_empty() {
            return Err(Usage("--numa: the kernel shows no NUMA node with CPUs here".to_owned()));
        }
        return Ok((Seats::InTurns(nodes), Some("one NUMA node a thread".to_owned())));
    }
    let Some(text) = &args.pin else { return Ok((Seats::Anywhere, None)) };
    let list = text.starts_with(|first: char| first.is_ascii_digit());
    let name = if list { format!("cpus:{text}") } else { text.clone() };
    let placement =
        placement::find(machine, &name).map_err(|error| Usage(format!("--pin {text}: {error}")))?;
    Ok((Seats::On(placement.cpus.iter().copied().collect()), Some(text.clone())))
}

/// A sweep that cannot be run.
pub fn refused(error: SweepError) -> anyhow::Error {
    match error {
        SweepError::Mechanism { .. } => Advised::new(
            error.to_string(),
            "leave it out of --mechanism, or see `plywood doctor` for those that work",
        )
        .into(),
        other => Usage(other.to_string()).into(),
    }
}

/// Why a storm ended, with what to do about it.
pub fn advised(error: StormError, args: &Storm) -> anyhow::Error {
    let error = match (error, &args.raw) {
        (StormError::Write(error), Some(path)) => return of_file(error, "writing the samples", path),
        (error, _) => error,
    };
    match &error {
        StormError::Threads(ThreadsError::NoRoom { .. }) => {
            Advised::new(error.to_string(), "raise the limit, or start fewer at a time: --concurrency").into()
        }
        StormError::Stuck { .. } => Advised::new(
            error.to_string(),
            "see what the kernel says (`dmesg`); the next plywood command takes back what is left",
        )
        .into(),
        _ => error.into(),
    }
}
