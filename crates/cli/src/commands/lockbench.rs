//! `plywood lockbench`: what a contended global lock costs on this machine.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use plywood_node::lockbench::{self, Config, LockKind, LockbenchError, Matrix, MatrixConfig};
use plywood_node::placement::{self, Placement, PlacementError};
use plywood_node::threads::ThreadsError;
use plywood_node::topology::Topology;
use plywood_storm::host;
use plywood_storm::record::{Line, LockEnd, LockRun, VERSION};

use crate::args::Lockbench;
use crate::context::Context;
use crate::output;
use crate::remedy::{self, Advised, Usage};

mod record;
mod show;

use record::Record;

/// Measures, then prints. Exit code 130 if somebody stopped it; what was measured until then is printed.
pub fn run(context: &Context, args: &Lockbench) -> anyhow::Result<ExitCode> {
    let machine = Topology::read();
    let mut notes = Vec::new();
    let config = config(&machine, args, &mut notes)?;
    let plan = lockbench::plan(&config).map_err(|error| advise(error, args))?;
    lockbench::suffice(&plan).map_err(|error| advise(error, args))?;
    let mut record = Record::open(args)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    notes.extend(show::warnings(&machine, &config, &plan, &load));

    record.add(Line::LockRun(Box::new(asked(context, &machine, &config)?)));
    let bar = context.progress.count("measuring", (plan.points.len() * config.rounds) as u64);
    let outcome = lockbench::run(&config, context.cancel.flag(), &mut |sample| {
        bar.inc(1);
        record.add(Line::LockSample(Box::new(sample.clone())));
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(|error| advise(error, args))?;
    // A page shows both.
    let matrix = (args.matrix || args.html.is_some()).then(|| matrix(context, &machine));
    let stopped = outcome.cancelled || context.cancel.requested();
    outcome.points.iter().for_each(|point| record.add(Line::LockPoint(Box::new(point.clone()))));
    matrix.iter().for_each(|matrix| record.add(Line::Matrix(Box::new(matrix.clone()))));
    outcome.fits.iter().for_each(|fit| record.add(Line::LockFit(Box::new(fit.clone()))));
    record.add(Line::LockEnd(Box::new(LockEnd {
        complete: !stopped,
        clock_ns: outcome.clock_ns,
        left_out: outcome.left_out.clone(),
        notes: notes.clone(),
    })));

    if context.json {
        record.lines().iter().try_for_each(output::json)?;
    } else {
        output::text_out(&show::text(&machine, &config, &outcome, matrix.as_ref(), &notes))?;
        if stopped {
            output::text_err("plywood: stopped; not all of it was measured\n")?;
        }
    }
    record.finish()?;
    Ok(if stopped { ExitCode::from(remedy::INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn config(machine: &Topology, args: &Lockbench, notes: &mut Vec<String>) -> anyhow::Result<Config> {
    let placements = match &args.placement[..] {
        [] => placement::all(machine),
        names => chosen(machine, names, notes)?,
    };
    let mut config = Config::new(placements);
    config.locks = if args.lock.is_empty() {
        let root = rustix::process::geteuid().is_root();
        let locks: Vec<LockKind> =
            LockKind::ALL.into_iter().filter(|lock| root || !lock.needs_root()).collect();
        if locks.len() < LockKind::ALL.len() {
            notes.push("lock mount was left out: it needs root".to_owned());
        }
        locks
    } else {
        let mut locks = args.lock.clone();
        locks.sort_unstable();
        locks.dedup();
        locks
    };
    config.threads = (!args.threads.is_empty()).then(|| args.threads.clone());
    config.duration = args.duration;
    config.rounds = args.rounds;
    config.section = args.section;
    config.think = args.think;
    config.oversubscribe = args.oversubscribe;
    config.seed = args.seed;
    Ok(config)
}

/// The placements asked for, each once: two names may mean the same here. A list of CPUs has commas of its own.
fn chosen(machine: &Topology, names: &[String], notes: &mut Vec<String>) -> anyhow::Result<Vec<Placement>> {
    let mut whole: Vec<String> = Vec::new();
    for name in names {
        match whole.last_mut() {
            Some(list) if list.starts_with("cpus:") && name.starts_with(|c: char| c.is_ascii_digit()) => {
                *list += &format!(",{name}");
            }
            _ => whole.push(name.clone()),
        }
    }
    let mut placements: Vec<Placement> = Vec::new();
    for name in whole {
        let mut found = placement::find(machine, &name).map_err(|error| match error {
            PlacementError::Unknown { .. } | PlacementError::Cpus(_) => {
                anyhow::Error::from(Usage(remedy::chain(&error)))
            }
            other => {
                let known: Vec<String> = placement::all(machine).into_iter().map(|one| one.name).collect();
                Advised::new(other.to_string(), format!("choose among {}", known.join(", "))).into()
            }
        })?;
        if let Some(same) = placements.iter().find(|one| one.cpus == found.cpus) {
            notes.push(format!("{name} is the same as {} on this machine", same.name));
        } else {
            // As it was called, so that scripts find it again.
            found.aliases.retain(|alias| *alias != name);
            if found.name != name {
                found.aliases.insert(0, std::mem::replace(&mut found.name, name));
            }
            placements.push(found);
        }
    }
    Ok(placements)
}

fn advise(error: LockbenchError, args: &Lockbench) -> anyhow::Error {
    match &error {
        LockbenchError::TooManyThreads { cpus, .. } => {
            let remedy = format!(
                "ask for at most --threads {cpus}, or for --oversubscribe: spin locks then collapse, since the thread \
                 that holds the lock loses its CPU to one that waits for it; mutex and mount do not"
            );
            Advised::new(error.to_string(), remedy).of_usage().into()
        }
        LockbenchError::NeedsRoot(_) => {
            let others: Vec<&str> =
                LockKind::ALL.iter().filter(|lock| !lock.needs_root()).map(|lock| lock.name()).collect();
            let remedy = format!("run it with sudo, or measure the others: --lock {}", others.join(","));
            Advised::new(error.to_string(), remedy).into()
        }
        LockbenchError::Threads(ThreadsError::NoRoom { .. })
        | LockbenchError::Call { source: ThreadsError::NoRoom { .. }, .. } => {
            Advised::new(remedy::chain(&error), "raise the limit, or ask for fewer: --threads").into()
        }
        LockbenchError::Nothing(_) if args.threads.contains(&0) => {
            Usage("--threads counts from 1".to_owned()).into()
        }
        LockbenchError::Nothing(_) => Usage(error.to_string()).into(),
        LockbenchError::Threads(_) | LockbenchError::Call { .. } => error.into(),
    }
}

fn matrix(context: &Context, machine: &Topology) -> Matrix {
    let cpus: Vec<u32> = machine.allowed.iter().collect();
    let pairs = cpus.len() * cpus.len().saturating_sub(1) / 2;
    let bar = context.progress.count("pairs of CPUs", pairs as u64);
    let cancel = context.cancel.flag();
    let matrix = lockbench::matrix::measure(&cpus, MatrixConfig::default(), cancel, &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    matrix
}

/// What is measured, and where.
fn asked(context: &Context, machine: &Topology, config: &Config) -> anyhow::Result<LockRun> {
    let host = host::describe(&context.root, BTreeMap::new(), None).context("looking at the machine")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(LockRun {
        version: VERSION,
        plywood: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        started_at_ms: u64::try_from(now.as_millis())?,
        host,
        topology: machine.clone(),
        placements: config.placements.clone(),
        duration_ms: config.duration.as_secs_f64() * 1e3,
        rounds: config.rounds,
        section_ns: u64::try_from(config.section.as_nanos())?,
        think_ns: u64::try_from(config.think.as_nanos())?,
        seed: config.seed,
        optimised: !cfg!(debug_assertions),
    })
}
