//! The pictures of a lock benchmark, each with what it shows said below it.

use plywood_node::lockbench::{LockKind, Matrix, Point};

use super::super::chart::{self, Lines, Series, heat, lines};
use super::super::html::{esc, put};
use super::super::ways::Ways;
use crate::summary::show;

/// How long an operation takes, by threads.
pub(super) fn latency(page: &mut String, lock: LockKind, points: &[&Point], placements: &Ways) {
    let p50 = (0..placements.count()).filter_map(|at| series(points, placements, at, None, |p| p.op_ns.p50));
    let p99 =
        (0..placements.count()).filter_map(|at| series(points, placements, at, Some("p99"), |p| p.op_ns.p99));
    let title = format!("One operation under the lock {}", lock.name());
    let about = "One line a placement of threads: the median latency of one operation, and the 99th percentile dashed.";
    let picture = Lines {
        id: &format!("lock-{}", lock.name()),
        title: &title,
        about,
        x: "threads",
        y: "latency",
        series: p99.chain(p50).collect(),
        show: ns,
        from_to: None,
    };
    let over = if points.iter().any(|p| p.oversubscribed) {
        " Where there are more threads than CPUs, the scheduler takes its share."
    } else {
        ""
    };
    figure(
        page,
        &picture,
        &format!("Waiting for the lock and holding it. Line: median; dashed: 99th percentile.{over}"),
    );
}

/// What all of them get done, by threads.
pub(super) fn throughput(page: &mut String, lock: LockKind, points: &[&Point], placements: &Ways) {
    let series =
        (0..placements.count()).filter_map(|at| series(points, placements, at, None, |p| p.ops_per_s));
    let title = format!("What all threads get done under the lock {}", lock.name());
    let picture = Lines {
        id: &format!("lock-{}-done", lock.name()),
        title: &title,
        about: "One line a placement of threads: operations a second of all threads that contend.",
        x: "threads",
        y: "operations a second",
        series: series.collect(),
        show: per_second,
        from_to: None,
    };
    let beside = match lock.beside() {
        "" => String::new(),
        what => format!(" Threads beside them ({what}) are counted along the axis, and not in what is done."),
    };
    let caption = format!(
        "Flat: the lock is saturated and loses nothing by it. Falling: those who wait hinder the one who holds it.{beside}"
    );
    figure(page, &picture, &caption);
}

/// A square of latencies between CPUs.
pub(super) fn cores(page: &mut String, at: usize, matrix: &Matrix) {
    put!(page, "<figure>\n<h3>From core to core</h3>\n");
    let about = "A square a pair of CPUs, in a stronger colour where a cache line takes longer to go over.";
    heat(page, &format!("cores-{at}"), "Latency from core to core", about, &matrix.cpus, &matrix.ns);
    let range = matrix.summary().map(|[least, median, most]| {
        format!(" Fastest pair {}, median {}, slowest {}.", ns(least), ns(median), ns(most))
    });
    let skipped = match matrix.skipped.len() {
        0 => String::new(),
        n => format!(" {} could not be measured.", show::count(n, "pair", "pairs")),
    };
    put!(
        page,
        "<figcaption>How long a cache line takes from one CPU to another, in nanoseconds: the least a lock costs to be \
         handed over.{}{skipped}</figcaption>\n</figure>\n",
        range.unwrap_or_default()
    );
}

fn figure(page: &mut String, picture: &Lines<'_>, caption: &str) {
    put!(page, "<figure>\n<h3>{}</h3>\n", esc(picture.title));
    lines(page, picture);
    put!(page, "<figcaption>{}</figcaption>\n</figure>\n", esc(caption));
}

/// One line; a companion of another, dashed, if it is named.
#[expect(clippy::cast_precision_loss, reason = "threads of a machine")]
fn series(
    points: &[&Point],
    placements: &Ways,
    place: usize,
    companion: Option<&str>,
    value: impl Fn(&Point) -> f64,
) -> Option<Series> {
    let mut of: Vec<&&Point> =
        points.iter().filter(|p| placements.position_of(&p.placement) == place).collect();
    of.sort_by_key(|point| point.threads);
    of.dedup_by_key(|point| point.threads);
    let point = |p: &&Point| chart::Point { x: p.threads as f64, y: value(p), interval: None };
    let of: Vec<chart::Point> = of.into_iter().map(point).filter(|p| p.y.is_finite() && p.y >= 0.0).collect();
    let of_what = companion.map(|name| format!("{name}, ")).unwrap_or_default();
    (!of.is_empty()).then(|| Series {
        way: place,
        name: format!("{of_what}{}", placements.name(place)),
        dashed: companion.is_some(),
        points: of,
    })
}

/// Nanoseconds; from a thousand on as microseconds.
pub(super) fn ns(ns: f64) -> String {
    match ns {
        n if n < 999.5 => format!("{} ns", show::significant(n)),
        n => show::us(n / 1000.0),
    }
}

/// Operations a second.
pub(super) fn per_second(ops: f64) -> String {
    match ops {
        n if n < 9_995.0 => format!("{} /s", show::significant(n)),
        n if n < 999_500.0 => format!("{} k/s", show::significant(n / 1e3)),
        n => format!("{} M/s", show::significant(n / 1e6)),
    }
}
