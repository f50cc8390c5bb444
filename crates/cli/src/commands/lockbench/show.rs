//! Measurements as people read them.

use std::fmt::Write as _;

use plywood_node::Topology;
use plywood_node::lockbench::usl::{Estimate, Prediction};
use plywood_node::lockbench::{Config, CurveFit, Matrix, Outcome, Plan, Point};
use plywood_node::topology::Virtualised;

use crate::output;

/// More CPUs than these do not fit a terminal's width as a matrix.
const WIDEST: usize = 16;

/// Rounds of one point that differ by more than this share are called noisy.
const NOISY: f64 = 0.2;

/// A load average above this share of the CPUs disturbs.
const BUSY: f64 = 0.25;

/// What makes the figures mean less than they seem to.
pub fn warnings(machine: &Topology, config: &Config, plan: &Plan, load: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let busy = load.split(' ').next().and_then(|one| one.parse::<f64>().ok()).unwrap_or(0.0);
    if busy > BUSY * machine.online.len() as f64 {
        notes.push(format!(
            "others keep {busy} CPUs busy: threads wait for them as well, and fair spin locks (ticket, mcs) worst of all"
        ));
    }
    if cfg!(debug_assertions) {
        notes.push("this is a debug build: the locks are several times slower than they need be".to_owned());
    }
    if let Virtualised::Yes { .. } = machine.virtualised {
        notes.push(
            "this is a virtual machine: its CPUs may be moved, shared or taken away below, and its topology invented"
                .to_owned(),
        );
    }
    let most = plan.points.iter().map(|spec| spec.threads).max().unwrap_or(0);
    if let Some(quota) = machine.limits.quota_cpus.filter(|quota| *quota < most as f64) {
        notes.push(format!("a quota of {quota} CPUs stops {most} threads for a part of each period"));
    }
    let spins = |index: usize| {
        plan.points.iter().any(|spec| {
            spec.placement == index && spec.lock.spins() && spec.threads > config.placements[index].cpus.len()
        })
    };
    if (0..config.placements.len()).any(spins) {
        notes.push(
            "spin locks with more threads than CPUs (marked !) show the scheduler: the holder is preempted while the \
             others spin"
                .to_owned(),
        );
    }
    notes
}

/// Everything, for a terminal.
pub fn text(
    machine: &Topology,
    config: &Config,
    outcome: &Outcome,
    matrix: Option<&Matrix>,
    notes: &[String],
) -> String {
    let mut text = format!("{machine}\n");
    for placement in &config.placements {
        let cpus: plywood_node::CpuSet = placement.cpus.iter().copied().collect();
        let same = placement.aliases.iter().map(|alias| format!(" = {alias}")).collect::<String>();
        text += &format!("placement {}{same}: {}, CPUs {cpus}\n", placement.name, placement.what);
    }
    text.push('\n');
    if !outcome.points.is_empty() {
        text += &points(&outcome.points);
    }
    for left_out in &outcome.left_out {
        let threads: Vec<String> = left_out.threads.iter().map(ToString::to_string).collect();
        let (placement, cpus) = (&left_out.placement, left_out.cpus);
        text += &format!("left out: {} threads on {placement}, which has {cpus} CPUs\n", threads.join(", "));
    }
    if let Some(matrix) = matrix {
        text += &format!("\n{}", self::matrix(matrix));
    }
    if !outcome.fits.is_empty() {
        text += &format!("\n{}", fits(&outcome.fits));
    }
    text += &format!(
        "\nan operation is thinking {} ns, acquiring, holding {} ns, releasing; reading the clock takes {:.0} ns, at most \
         5 % of a batch\n",
        config.think.as_nanos(),
        config.section.as_nanos(),
        outcome.clock_ns
    );
    let noisy = outcome.points.iter().filter(|point| spread(point) > NOISY).count();
    if noisy > 0 {
        text += &format!(
            "note: {noisy} of {} points differ by more than {:.0} % from round to round: something else ran here\n",
            outcome.points.len(),
            NOISY * 100.0
        );
    }
    for note in notes {
        text += &format!("note: {note}\n");
    }
    text
}

fn points(points: &[Point]) -> String {
    let rows = points.iter().map(|point| {
        let over = if point.oversubscribed { "!" } else { "" };
        let beside = point.beside.as_ref().map_or_else(String::new, |beside| {
            let (what, p50, p99) = (&beside.what, time(beside.op_ns.p50), time(beside.op_ns.p99));
            format!("{} x {what}: {}/s, p50 {p50}, p99 {p99}", beside.threads, count(beside.ops_per_s))
        });
        [
            point.lock.to_string(),
            point.placement.clone(),
            format!("{}{over}", point.threads),
            time(point.op_ns.p50),
            time(point.op_ns.p99),
            time(point.op_ns.max),
            format!("{}/s", count(point.ops_per_s)),
            format!("{:.0} %", spread(point) * 100.0),
            format!("{:.2}", point.fairness),
            beside,
        ]
    });
    let header =
        ["LOCK", "PLACEMENT", "THREADS", "P50", "P99", "MAX", "OPERATIONS", "SPREAD", "FAIRNESS", "BESIDE"];
    output::table(header, rows.collect())
}

/// How far the rounds lie apart, to their median.
fn spread(point: &Point) -> f64 {
    let rounds = &point.ops_per_s_rounds;
    let (low, high) = rounds
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    if point.ops_per_s > 0.0 { (high - low) / point.ops_per_s } else { 0.0 }
}

fn matrix(matrix: &Matrix) -> String {
    let mut text = "one way from core to core, ns\n".to_owned();
    if matrix.cpus.len() <= WIDEST {
        let head: String = matrix.cpus.iter().map(|cpu| format!("{cpu:>6}")).collect();
        text += &format!("{:>6}{head}\n", "CPU");
        for (cpu, row) in matrix.cpus.iter().zip(&matrix.ns) {
            let cells: String =
                row.iter().map(|ns| ns.map_or(format!("{:>6}", "-"), |ns| format!("{ns:>6.0}"))).collect();
            text += &format!("{cpu:>6}{cells}\n");
        }
    } else {
        text += &format!("{} CPUs: --json has every pair\n", matrix.cpus.len());
    }
    if let Some([least, median, most]) = matrix.summary() {
        let _ = writeln!(text, "fastest pair {least:.0} ns, median {median:.0} ns, slowest {most:.0} ns");
    }
    for pair in &matrix.skipped {
        let [one, other] = pair.cpus;
        text += &format!("skipped {one} and {other}: {}\n", pair.reason);
    }
    text
}

fn fits(fits: &[CurveFit]) -> String {
    let mut rows = Vec::new();
    let mut refused: Vec<(String, Vec<String>)> = Vec::new();
    for curve in fits {
        let Some(fit) = &curve.fit else {
            let why = curve.no_fit.clone().unwrap_or_default();
            let name = format!("{} on {}", curve.lock, curve.placement);
            match refused.iter_mut().find(|(reason, _)| *reason == why) {
                Some((_, names)) => names.push(name),
                None => refused.push((why, vec![name])),
            }
            continue;
        };
        let predictions: Vec<String> = fit.predictions.iter().map(predicted).collect();
        rows.push([
            curve.lock.to_string(),
            format!("{}{}", curve.placement, if curve.oversubscribed { "!" } else { "" }),
            estimate(fit.sigma, &|value| format!("{value:.3}")),
            estimate(fit.kappa, &|value| format!("{value:.4}")),
            format!("{:.1} %", fit.error * 100.0),
            fit.peak_contenders
                .map_or_else(|| "none".to_owned(), |peak| estimate(peak, &|value| format!("{value:.1}"))),
            if fit.describes() { predictions.join("; ") } else { "none: this is no such curve".to_owned() },
        ]);
    }
    let mut text = String::new();
    if !rows.is_empty() {
        let header =
            ["LOCK", "PLACEMENT", "SERIAL", "AGREEMENT", "OFF BY", "PEAK AT", "PREDICTION, NOT MEASURED"];
        text = format!(
            "universal scalability law of threads that contend, with intervals of 95 %\n{}",
            output::table(header, rows)
        );
    }
    for (why, names) in refused {
        text += &format!("no curve for {}: {why}\n", names.join(", "));
    }
    text
}

/// Of how many threads, and how many of these contend if others run beside them.
fn predicted(one: &Prediction) -> String {
    let of = match one.contenders {
        all if all == one.threads => String::new(),
        some => format!(" ({some} contend)"),
    };
    let throughput = estimate(one.ops_per_s, &|value| format!("{}/s", count(value)));
    format!("{} threads{of}: {throughput}", one.threads)
}

fn estimate(estimate: Estimate, show: &dyn Fn(f64) -> String) -> String {
    match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{} ({} to {})", show(estimate.value), show(low), show(high)),
        (Some(low), None) => format!("{} (from {})", show(estimate.value), show(low)),
        _ => show(estimate.value),
    }
}

/// Nanoseconds as people read them.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 100.0 => format!("{ns:.1} ns"),
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 10_000_000.0 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Large numbers as people read them.
fn count(number: f64) -> String {
    match number {
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n => format!("{:.2} M", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [time(12.34), time(512.0), time(20_500.0), time(31_000_000.0)],
            ["12.3 ns", "512 ns", "20.5 us", "31.0 ms"]
        );
        assert_eq!([count(950.0), count(45_600.0), count(12_340_000.0)], ["950", "45.6 k", "12.34 M"]);
        let interval = Estimate { value: 2.0, low: Some(1.5), high: Some(2.5) };
        let show = |value: f64| format!("{value:.1}");
        assert_eq!(estimate(interval, &show), "2.0 (1.5 to 2.5)");
        let of = |contenders| Prediction { threads: 48, contenders, ops_per_s: interval, prediction: true };
        assert_eq!(predicted(&of(48)), "48 threads: 2/s (2/s to 2/s)");
        assert_eq!(predicted(&of(24)), "48 threads (24 contend): 2/s (2/s to 2/s)");
        assert_eq!(estimate(Estimate { value: 2.0, low: None, high: None }, &show), "2.0");
    }
}
