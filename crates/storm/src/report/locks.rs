//! What a contended lock costs on these CPUs, where the storm was recorded with the lock benchmark's points.

use plywood_node::lockbench::{LockKind, Matrix, Point};

use super::chart::{self, Lines, Series, heat, lines};
use super::html::{esc, put};
use super::ways::Ways;
use crate::record::Line;
use crate::summary::show;

/// Adds a picture a lock, and the matrix; nothing without points.
pub(super) fn add(page: &mut String, record: &[Line]) {
    let of = |line: &'_ Line| matches!(line, Line::LockPoint(_) | Line::Matrix(_));
    if !record.iter().any(of) {
        return;
    }
    let points: Vec<&Point> = record
        .iter()
        .filter_map(|line| if let Line::LockPoint(point) = line { Some(&**point) } else { None })
        .collect();
    put!(page, "<section>\n<h2>What a contended lock costs on these CPUs</h2>\n");
    let placements = Ways::named(points.iter().map(|point| point.placement.clone()));
    if placements.count() > 0 {
        put!(page, "<p>Letters and markers in this section stand for where the threads ran:</p>\n");
        placements.legend(page, "Key to the pictures of locks");
    }
    put!(page, "<div class=\"grid\">\n");
    for lock in LockKind::ALL {
        let of: Vec<&Point> = points.iter().copied().filter(|point| point.lock == lock).collect();
        if !of.is_empty() {
            one(page, lock, &of, &placements);
        }
    }
    let matrices =
        record.iter().filter_map(|line| if let Line::Matrix(matrix) = line { Some(&**matrix) } else { None });
    for (at, matrix) in matrices.take(4).enumerate() {
        cores(page, at, matrix);
    }
    put!(page, "</div>\n</section>\n");
}

fn one(page: &mut String, lock: LockKind, points: &[&Point], placements: &Ways) {
    #[expect(clippy::cast_precision_loss, reason = "threads of a machine")]
    let series = |place: usize, dashed: bool| {
        let mut of: Vec<&&Point> =
            points.iter().filter(|p| placements.position_of(&p.placement) == place).collect();
        of.sort_by_key(|point| point.threads);
        of.dedup_by_key(|point| point.threads);
        let point = |p: &&Point| {
            let y = if dashed { p.op_ns.p99 } else { p.op_ns.p50 };
            chart::Point { x: p.threads as f64, y, interval: None }
        };
        let of: Vec<chart::Point> =
            of.into_iter().map(point).filter(|p| p.y.is_finite() && p.y >= 0.0).collect();
        let of_what = if dashed { "p99, " } else { "" };
        (!of.is_empty()).then(|| Series {
            way: place,
            name: format!("{of_what}{}", placements.name(place)),
            dashed,
            points: of,
        })
    };
    let all = [true, false]
        .into_iter()
        .flat_map(|dashed| (0..placements.count()).filter_map(move |at| series(at, dashed)));
    let all: Vec<Series> = all.collect();
    let title = format!("One operation under the lock {}", lock.name());
    let over = if points.iter().any(|p| p.oversubscribed) {
        " Where there are more threads than CPUs, the scheduler takes its share."
    } else {
        ""
    };
    put!(page, "<figure>\n<h3>{}</h3>\n", esc(&title));
    let about = "One line a placement of threads: the median latency of one operation, and the 99th percentile dashed.";
    let id = format!("lock-{}", lock.name());
    lines(
        page,
        &Lines {
            id: &id,
            title: &title,
            about,
            x: "threads",
            y: "latency",
            series: all,
            show: ns,
            from_to: None,
        },
    );
    put!(
        page,
        "<figcaption>Waiting for the lock and holding it. Line: median; dashed: 99th percentile.{over}</figcaption>\n</figure>\n"
    );
}

fn cores(page: &mut String, at: usize, matrix: &Matrix) {
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

/// Nanoseconds; from a thousand on as microseconds.
fn ns(ns: f64) -> String {
    match ns {
        n if n < 999.5 => format!("{} ns", show::significant(n)),
        n => show::us(n / 1000.0),
    }
}
