//! A plan, printed.

use std::fmt;

use super::{Plan, Step};

/// Prints every step; what is done for each layer is printed for the first only, unless `{:#}` asks for all.
pub(super) fn plan(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let s = if plan.layers == 1 { "y" } else { "ies" };
    writeln!(f, "mechanism {}, lower {}: {} lower director{s}", plan.mechanism, plan.source, plan.layers)?;
    for (mechanism, reason) in &plan.passed_over {
        writeln!(f, "  not {mechanism}: {reason}")?;
    }
    if plan.unshifted_upper {
        writeln!(f, "  the writable directory holds unshifted ids")?;
    }
    let mut rest = &plan.steps[..];
    while let Some(step) = rest.first() {
        let repeated = repeated_layers(rest);
        if f.alternate() || repeated.layers <= 2 {
            writeln!(f, "  {step}")?;
            rest = &rest[1..];
        } else {
            let (first, others) = rest[..repeated.steps].split_at(repeated.first);
            first.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
            writeln!(f, "  ... and for {} more layers, {} calls", repeated.layers - 1, others.len())?;
            rest = &rest[repeated.steps..];
        }
    }
    let (ops, locks) = (plan.mount_ops(), plan.lock_work());
    writeln!(
        f,
        "{} kernel calls; mounts attached {}, detached {}; on the host's table {} and {}",
        plan.calls(),
        ops.attach,
        ops.detach,
        ops.host_attach,
        ops.host_detach
    )?;
    write!(
        f,
        "locks, to the container's end: namespace_sem {} to write, {} to read; mount_lock {}",
        locks.namespace_sem_write, locks.namespace_sem_read, locks.mount_lock
    )
}

/// A run of steps at the start that are taken for one layer after the other.
struct Repeated {
    layers: usize,
    steps: usize,
    first: usize,
}

fn repeated_layers(steps: &[Step]) -> Repeated {
    let mut run = Repeated { layers: 0, steps: 0, first: 0 };
    let mut current = None;
    for step in steps {
        // Layer 0 again is the next run, of other steps.
        if step.layer.is_none() || (step.layer != current && step.layer != Some(run.layers)) {
            break;
        }
        if step.layer != current {
            run.layers += 1;
            current = step.layer;
        }
        run.steps += 1;
        run.first += usize::from(step.layer == Some(0));
    }
    run
}
