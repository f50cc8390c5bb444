//! `plywood storm`: many containers at once, measured.
//!
//! ```text
//! settings ─> output files ─> image ─> arms ─> launchers ─> harness ─> lines ─┬─> raw file
//!                                                                             └─> table, JSON, report
//! ```
//! What is shown is worked out of the lines alone. Whatever ends a storm, its image and its launchers are closed.

mod image;
mod launchers;
pub mod output;
mod saved;
mod settings;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::IdPool;
use plywood_node::Topology;
use plywood_storm::harness::StormError;
use plywood_storm::image::StormImage;
use plywood_storm::record::{self, Line};
use plywood_storm::sweep::{self, Here};
use plywood_storm::{Arm, host};

use super::containers;
use super::run::{descriptors, scratch};
use crate::args::Storm;
use crate::context::Context;
use crate::remedy::{INTERRUPTED, Interrupted};

use launchers::Launchers;
use output::Output;
use settings::Settings;

/// Runs a storm, or compares or shows saved ones.
pub fn run(context: &Context, args: &Storm) -> anyhow::Result<ExitCode> {
    if let [before, after] = args.compare.as_slice() {
        return saved::compare(context, before, after);
    }
    if let Some(path) = &args.show {
        return saved::show(context, args, path);
    }
    let machine = Topology::read();
    let mut settings = Settings::from_args(args, &machine)?;
    Context::require_mounting()?;
    let pool = launchers::pool(args, &settings.sweep)?;
    // A storm of minutes must not end with a file that cannot be written.
    let mut output = Output::open(args)?;
    let locks = args.locks.as_deref().map(saved::locks).transpose()?.unwrap_or_default();
    let store = context.store()?;
    containers::tidy(context, &store)?;
    descriptors::raise(Vec::new());
    let capabilities = Capabilities::probe(&scratch(&store)).context("probing the kernel")?;
    settings.complete(&capabilities);
    let host =
        host::describe(store.root().path(), std::collections::BTreeMap::new(), settings.pinned.clone())
            .context("looking at the machine")?;
    let planned = |image_layers, pods: Option<&str>| {
        sweep::arms(&settings.sweep, &Here { capabilities: &capabilities, image_layers, pods })
            .map_err(settings::refused)
    };
    // Nobody waits for an image to be told that its storm cannot be.
    if let Some(parameters) = settings.generate {
        planned(parameters.layers, None)?;
    }
    let pods =
        launchers::snapshotter_of_pods(context, args).map_err(|error| unless_stopped(context, error))?;
    if let Some(parameters) = settings.generate {
        planned(parameters.layers, pods.as_deref())?;
    }
    let mut image = image::open(context, &store, args, &settings)?;
    let ran = planned(image.layers(), pods.as_deref()).and_then(|arms| {
        let planned =
            Planned { args, settings: &settings, machine: &machine, pool: pool.as_ref(), host, arms, locks };
        storm(context, planned, &store, &capabilities, &mut image, &mut output)
    });
    let closed = image.close().context("removing the storm's image");
    let ran = ran?;
    closed?;
    let failures = output.finish(context)?;
    match ran {
        Ok(()) => Ok(if failures { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
        Err(StormError::Cancelled) => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(settings::advised(error, args)),
    }
}

/// A storm about to be run.
struct Planned<'a> {
    args: &'a Storm,
    settings: &'a Settings,
    machine: &'a Topology,
    pool: Option<&'a IdPool>,
    host: record::Host,
    arms: Vec<Arm>,
    locks: Vec<Line>,
}

/// Opens the launchers and runs all rounds. The inner result is the storm's own, with lines to show.
fn storm(
    context: &Context,
    planned: Planned<'_>,
    store: &plywood_store::Store,
    capabilities: &Capabilities,
    image: &mut StormImage,
    output: &mut Output,
) -> anyhow::Result<Result<(), StormError>> {
    let Planned { args, settings, machine, pool, mut host, arms, locks } = planned;
    let launchers = Launchers::open(
        &launchers::Place { context, args, settings, machine, pool, store, capabilities, arms: &arms },
        image,
    )
    .map_err(|error| unless_stopped(context, error))?;
    host.versions = launchers.versions();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = record::Run {
        version: record::VERSION,
        plywood: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        started_at_ms: u64::try_from(now.as_millis())?,
        image: image.described(),
        arms: arms.clone(),
        repeat: settings.repeat,
        timeout_ms: settings.timeout.as_secs_f64() * 1000.0,
        pace: settings.pace,
        hold_ms: settings.hold.as_secs_f64() * 1000.0,
        program: args.command.clone(),
        host,
    };
    output.begin(context, &run)?;
    let unwritten = |error| settings::advised(StormError::Write(error), args);
    output.write(&Line::Run(Box::new(run))).map_err(unwritten)?;
    locks.iter().try_for_each(|line| output.write(line)).map_err(unwritten)?;
    let harness = settings.harness(arms, WALKS.map(PathBuf::from).to_vec());
    Ok(harness.run(launchers.all(), output, context.cancel.flag()))
}

/// What fails once somebody has asked to stop has been interrupted.
fn unless_stopped(context: &Context, error: anyhow::Error) -> anyhow::Error {
    match context.cancel.requested() {
        true => Interrupted(format!("interrupted: {error:#}")).into(),
        false => error,
    }
}

/// Paths as long as those that programs look up all day; one of them is on every machine, and in every namespace.
const WALKS: [&str; 5] = ["/usr/lib/systemd/system", "/usr/share/doc", "/usr/lib", "/usr", "/"];
