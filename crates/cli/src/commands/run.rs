//! `plywood run`: from an image to running containers.
//!
//! ```text
//! settings ─> image (pulled if missing) ─> assembly, trial ─> crew: ids, records, snapshots ─> launch ─> report
//!                                   └─> flat tree, in the background, for the next launch
//! ```
//! A detached run is the same code in a process of its own ([`detached`]), which stays as the containers' supervisor.

mod assembly;
mod crew;
pub mod descriptors;
mod detached;
mod flat;
mod janitor;
mod launch;
mod program;
mod recorder;
mod report;
mod settings;
mod trial;
mod ulimits;
mod wakes;

use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plywood_engine::capabilities::Capabilities;
use plywood_engine::cgroup::Cgroups;
use plywood_engine::launch::LauncherConfig;
use plywood_engine::runtime;
use plywood_image::Platform;
use plywood_kernel::MountWatch;
use plywood_store::{Image, ImageError, Pins, Store};

use crate::args::{PullPolicy, Run};
use crate::commands::{containers, fetch};
use crate::context::Context;
use crate::output;
use crate::remedy::Advised;

use assembly::Assembly;
use crew::Crew;
use detached::Stay;
use launch::{Outcome, Shared};
use report::{HostMounts, Report};
use settings::Settings;

pub use assembly::{lower_names, pick_lower, require_layers, scratch};

/// Launches containers and, unless detached, waits for them.
pub fn run(context: &Context, args: &Run) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::from_args(args, context.json)?;
    Context::require_mounting()?;
    if settings.detached && !args.supervise {
        return detached::start(context, args.until_eof);
    }
    if args.supervise {
        detached::settle_in()?;
    }
    let started = Instant::now();
    let cgroups = Cgroups::detect()?;
    trial::limits(&settings.resources, &cgroups)?;
    descriptors::suffice(
        settings.count,
        settings.concurrency.unwrap_or_else(LauncherConfig::default_starting),
    )?;
    ulimits::make_room(&settings.rlimits)?;
    settings.rlimits = descriptors::raise(settings.rlimits);
    let mut steps = Steps::start();
    let store = context.store()?;
    steps.done("store opened");
    containers::tidy(context, &store)?;
    let pins = store.pins()?;
    let (image, pulled) = obtain(context, &store, &pins, args)?;
    // What a registry takes is no part of a launch, and shown while it lasts.
    let started = started + pulled;
    require_layers(&image, &args.image)?;
    if let Ok(platform) = image.platform.parse::<Platform>()
        && !Platform::host().accepts(&platform)
    {
        let (name, host) = (&args.image, Platform::host());
        tracing::warn!(
            "image {name} is for {platform}, this machine is {host}: its programs need an emulator here"
        );
    }
    steps.done("image found");
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let directories = context.directories();
    let mut watch = MountWatch::start().context("watching the host's mount table")?;
    // Three questions that do not wait for each other: to the runtime, to the kernel, to the image.
    let (runtime, capabilities, program) = std::thread::scope(|scope| {
        let run = &directories.run;
        let runtime =
            scope.spawn(|| runtime::find(settings.runtime.as_deref(), &search_path, cgroups.layout(), run));
        let capabilities = scope.spawn(|| Capabilities::probe(&scratch(&store)));
        let program = program::Program::resolve(context, &store, &image, &settings);
        (runtime.join(), capabilities.join(), program)
    });
    let panicked = |_| anyhow::anyhow!("a thread panicked");
    let (program, runtime) = (program?, runtime.map_err(panicked)??);
    trial::spec(&settings, &program)?;
    let capabilities = capabilities.map_err(panicked)?.context("probing the kernel")?;
    let assembly = Assembly::new(context, &store, &pins, &image, &settings, capabilities)?;
    assembly.check()?;
    steps.done("runtime found, command resolved, kernel probed");
    let builder = flat::Builder::start(context, &store, &image, &settings, assembly.lower());
    let crew = Crew::muster(context, &store, &image, &settings, &program, &assembly, &runtime)?;
    steps.done("containers recorded");
    // From here on the recorded containers hold the image. A supervisor that is about to end must not.
    drop(pins);
    let shared = Arc::new(Shared { settings, program, assembly, directories, store });

    let host = |watch: &mut MountWatch| -> anyhow::Result<HostMounts> {
        let counts = watch.counts().context("counting changes of the host's mount table")?;
        Ok(HostMounts { counts, exact: watch.is_exact() })
    };
    let mut told = false;
    let all_started = |outcome: &Outcome| {
        // A caller for whom nothing runs is told when all has been taken back.
        if !shared.settings.detached || outcome.given_up || outcome.started.is_empty() {
            return Ok(());
        }
        let report = Report::new(&crew, outcome, started, host(&mut watch)?);
        detached::report(context, &report, Stay::Stays)?;
        told = true;
        Ok(())
    };
    let starter = (args.supervise && args.until_eof).then(|| std::io::stdin().as_fd().try_clone_to_owned());
    let starter = starter.transpose().context("keeping standard input")?;
    let launched = launch::launch(context, &crew, &shared, runtime, starter, all_started);
    steps.done("containers ended");
    let outcome = match launched {
        Ok(outcome) => outcome,
        Err(error) => {
            // Containers that somebody has been told of are left to `ps`, `rm` and recovery, whatever has failed.
            if !told && let Err(also) = crew.disband() {
                tracing::error!(error = format!("{also:#}"), "taking the containers back");
            }
            return Err(error);
        }
    };
    // Root file systems go before the snapshots they lie on.
    drop(shared);
    steps.done("root file systems closed");
    if let Err(error) = crew.settle(&outcome) {
        // The containers have run, and their caller wants to know how. What is left of them goes with the next command.
        tracing::warn!(error = format!("{error:#}"), "removing containers that have ended");
    }
    steps.done("containers removed");
    let mut report = Report::new(&crew, &outcome, started, host(&mut watch)?);
    // Host ids and snapshots are given back by now. A tree given up would begin anew with the next run, and a script of
    // short runs would never get one: so the command stays until it is done, and does not count that.
    drop(crew);
    report.flat_tree_built = builder.finish(context);
    steps.done("flat tree built");
    if !args.supervise {
        if context.json {
            output::script_out(&report.json()?)?;
        } else if args.count > 1 || report.status() != 0 {
            output::text_err(&report.summary())?;
        }
    } else if !told {
        detached::report(context, &report, Stay::Ends)?;
    }
    Ok(ExitCode::from(report.status()))
}

/// Where the time of a run goes, for `PLYWOOD_LOG=plywood=debug`.
struct Steps(Instant);

impl Steps {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn done(&mut self, step: &'static str) {
        let now = Instant::now();
        tracing::debug!(ms = now.duration_since(self.0).as_secs_f64() * 1000.0, "{step}");
        self.0 = now;
    }
}

/// The image, pulled if the policy says so, and how long the pull took; pinned.
fn obtain(context: &Context, store: &Store, pins: &Pins, args: &Run) -> anyhow::Result<(Image, Duration)> {
    let here = match args.pull {
        PullPolicy::Always => None,
        PullPolicy::Never => Some(store.use_image(pins, &args.image)?),
        PullPolicy::Missing => match store.use_image(pins, &args.image) {
            Ok(image) => Some(image),
            Err(ImageError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let wanted = args.fetch.platform.as_ref().map(|_| fetch::platform(&args.fetch)).transpose()?;
    match here {
        Some(image) => match (wanted, image.platform.parse::<Platform>()) {
            (Some(wanted), Ok(here)) if !wanted.accepts(&here) => Err(Advised::new(
                format!("image {} is for {here}, not for {wanted}", args.image),
                "`--pull always` fetches it for that platform",
            )
            .into()),
            _ => Ok((image, Duration::ZERO)),
        },
        None => {
            let begun = Instant::now();
            let pulled = fetch::pull(context, store, pins, &args.image, &args.fetch, &args.registry)?;
            Ok((pulled.image, begun.elapsed()))
        }
    }
}
