//! `plywood lockbench`: what a contended global lock costs on this machine.

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use plywood_node::lockbench::{self, Config, LockKind, LockbenchError, Matrix, MatrixConfig, Outcome};
use plywood_node::placement::{self, Placement, PlacementError};
use plywood_node::topology::Topology;
use serde_json::{Value, json};

use crate::args::Lockbench;
use crate::context::Context;
use crate::output;
use crate::remedy::{self, Advised, Usage};

mod show;

/// Measures, then prints. Exit code 130 if somebody stopped it; what was measured until then is printed.
pub fn run(context: &Context, args: &Lockbench) -> anyhow::Result<ExitCode> {
    let machine = Topology::read();
    let mut notes = Vec::new();
    let config = config(&machine, args, &mut notes)?;
    let plan = lockbench::plan(&config).map_err(|error| advise(error, args))?;
    let mut raw = match &args.raw {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("writing samples to {}", path.display()))?)
        }
        None => None,
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    notes.extend(show::warnings(&machine, &config, &plan, &load));

    let bar = context.progress.count("measuring", (plan.points.len() * config.rounds) as u64);
    let mut lost = None;
    let outcome = lockbench::run(&config, context.cancel.flag(), &mut |sample| {
        bar.inc(1);
        if let Some(file) = &mut raw
            && lost.is_none()
        {
            lost = serde_json::to_vec(sample)
                .map_err(std::io::Error::from)
                .and_then(|mut line| {
                    line.push(b'\n');
                    file.write_all(&line)
                })
                .err();
        }
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(|error| advise(error, args))?;
    if let Some(error) = lost {
        let path = args.raw.as_deref().unwrap_or(std::path::Path::new(""));
        return Err(error).with_context(|| format!("writing samples to {}", path.display()));
    }
    let matrix = args.matrix.then(|| matrix(context, &machine));
    let stopped = outcome.cancelled || context.cancel.requested();

    if context.json {
        // A line a point, then the rest, each under its own name.
        outcome.points.iter().try_for_each(output::json)?;
        matrix.iter().try_for_each(|matrix| output::json(&json!({ "matrix": matrix })))?;
        outcome.fits.iter().try_for_each(|fit| output::json(&json!({ "fit": fit })))?;
        outcome.left_out.iter().try_for_each(|left_out| output::json(&json!({ "left_out": left_out })))?;
        let conditions = conditions(&machine, &config, &outcome, &load, &notes, stopped);
        output::json(&json!({ "conditions": conditions }))?;
    } else {
        output::text_out(&show::text(&machine, &config, &outcome, matrix.as_ref(), &notes))?;
        if stopped {
            output::text_err("plywood: stopped; not all of it was measured\n")?;
        }
    }
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
    let remedy = match &error {
        LockbenchError::TooManyThreads { cpus, .. } => format!(
            "ask for at most --threads {cpus}, or for --oversubscribe: spin locks then collapse, since the thread \
             that holds the lock loses its CPU to one that waits for it; mutex and mount do not"
        ),
        LockbenchError::NeedsRoot(_) => {
            let others: Vec<&str> =
                LockKind::ALL.iter().filter(|lock| !lock.needs_root()).map(|lock| lock.name()).collect();
            format!("run it with sudo, or measure the others: --lock {}", others.join(","))
        }
        LockbenchError::Nothing(_) if args.threads.contains(&0) => {
            return Usage("--threads counts from 1".to_owned()).into();
        }
        LockbenchError::Nothing(_) | LockbenchError::Call { .. } => return error.into(),
    };
    Advised::new(error.to_string(), remedy).into()
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

fn conditions(
    machine: &Topology,
    config: &Config,
    outcome: &Outcome,
    load: &str,
    notes: &[String],
    stopped: bool,
) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "kernel": kernel.trim(),
        "load": load.trim(),
        "topology": machine,
        "placements": config.placements,
        "duration_ms": config.duration.as_secs_f64() * 1e3,
        "rounds": config.rounds,
        "section_ns": config.section.as_nanos() as u64,
        "think_ns": config.think.as_nanos() as u64,
        "seed": config.seed,
        "clock_ns": outcome.clock_ns,
        "optimised": !cfg!(debug_assertions),
        "cancelled": stopped,
        "notes": notes,
    })
}
