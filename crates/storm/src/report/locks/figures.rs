//! The tables of a lock benchmark: what `--json` says of each point and each curve.

use plywood_node::lockbench::usl::{Estimate, Fit, Prediction};
use plywood_node::lockbench::{CurveFit, Point};
use serde::Serialize;
use serde_json::Value;

use super::super::html::{esc, put};
use super::super::ways::{Ways, badge};
use super::pictures::{ns, per_second};
use crate::summary::show;

/// Where there is no figure.
const NOTHING: &str = "-";

/// A column: its head, what it is, where the figure is in JSON, and how it is shown.
type Column<T> = (&'static str, &'static str, &'static str, fn(&T) -> String);

const POINTS: [Column<Point>; 9] = [
    ("THREADS", "all of them", "/threads", |p| {
        format!("{}{}", p.threads, if p.oversubscribed { "!" } else { "" })
    }),
    ("CONTEND", "the others run beside", "/contenders", |p| p.contenders.to_string()),
    ("P50", "of an operation", "/op_ns/p50", |p| ns(p.op_ns.p50)),
    ("P99", "of an operation", "/op_ns/p99", |p| ns(p.op_ns.p99)),
    ("MAX", "of all rounds", "/op_ns/max", |p| ns(p.op_ns.max)),
    ("OPERATIONS", "of all that contend", "/ops_per_s", |p| per_second(p.ops_per_s)),
    ("FAIRNESS", "1 is equal shares", "/fairness", |p| format!("{:.2}", p.fairness)),
    ("BESIDE", "what the others do", "/beside/ops_per_s", |p| {
        p.beside.as_ref().map_or_else(|| NOTHING.to_owned(), |one| per_second(one.ops_per_s))
    }),
    ("BESIDE P99", "of one of those", "/beside/op_ns/p99", |p| {
        p.beside.as_ref().map_or_else(|| NOTHING.to_owned(), |one| ns(one.op_ns.p99))
    }),
];

const FITS: [Column<CurveFit>; 5] = [
    ("SERIAL", "the share done one by one", "/fit/sigma/value", |f| {
        of(f, |fit| format!("{:.3}", fit.sigma.value))
    }),
    ("AGREEMENT", "what each pair costs", "/fit/kappa/value", |f| {
        of(f, |fit| format!("{:.4}", fit.kappa.value))
    }),
    ("OFF BY", "the law, from the points", "/fit/error", |f| {
        of(f, |fit| format!("{:.1} %", fit.error * 100.0))
    }),
    ("PEAK AT", "threads that contend", "/fit/peak_contenders/value", |f| {
        of(f, |fit| {
            fit.peak_contenders.map_or_else(|| "none".to_owned(), |peak| show::significant(peak.value))
        })
    }),
    ("PREDICTION", "not measured", "/fit/predictions", predictions),
];

/// One row a point. Each cell carries the figure as JSON has it.
pub(super) fn points(page: &mut String, points: &[&Point], placements: &Ways) {
    let name = |p: &Point| {
        let (lock, place) = (p.lock.name(), &p.placement);
        format!("{} {lock}, {}", badge(placements.position_of(place)), esc(place))
    };
    table(page, "points", "Figures of locks", points, &POINTS, name);
}

/// One row a curve.
pub(super) fn fits(page: &mut String, fits: &[&CurveFit]) {
    let name = |f: &CurveFit| format!("{}, {}", f.lock.name(), esc(&f.placement));
    table(page, "fits", "The scalability law, and what it predicts", fits, &FITS, name);
}

fn table<T: Serialize>(
    page: &mut String,
    id: &str,
    title: &str,
    rows: &[&T],
    columns: &[Column<T>],
    name: impl Fn(&T) -> String,
) {
    if rows.is_empty() {
        return;
    }
    put!(
        page,
        "<h3>{title}</h3>\n<div class=\"box\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n<table id=\"{id}\">\n\
         <thead><tr><th scope=\"col\">LOCK<small>and placement</small></th>"
    );
    for (head, about, ..) in columns {
        put!(page, "<th scope=\"col\">{head}<small>{about}</small></th>");
    }
    put!(page, "</tr></thead>\n<tbody>\n");
    for row in rows {
        let json = serde_json::to_value(row).unwrap_or_default();
        put!(page, "<tr><th scope=\"row\">{}</th>", name(row));
        for (_, _, pointer, cell) in columns {
            let value = json.pointer(pointer).unwrap_or(&Value::Null).to_string();
            let cell = cell(row);
            put!(page, "<td data-{id}=\"{pointer}\" data-json=\"{}\">{}</td>", esc(&value), esc(&cell));
        }
        put!(page, "</tr>\n");
    }
    put!(page, "</tbody>\n</table>\n</div>\n");
}

fn of(curve: &CurveFit, show: impl Fn(&Fit) -> String) -> String {
    curve.fit.as_ref().map_or_else(|| NOTHING.to_owned(), show)
}

fn predictions(curve: &CurveFit) -> String {
    match (&curve.fit, &curve.no_fit) {
        (Some(fit), _) if !fit.describes() => "none: this is no such curve".to_owned(),
        (Some(fit), _) => fit.predictions.iter().map(predicted).collect::<Vec<_>>().join("; "),
        (None, why) => format!("none: {}", why.as_deref().unwrap_or("no reason is recorded")),
    }
}

fn predicted(one: &Prediction) -> String {
    let some = match one.contenders {
        all if all == one.threads => String::new(),
        some => format!(" ({some} contend)"),
    };
    let Estimate { value, low, high } = one.ops_per_s;
    let range = match (low, high) {
        (Some(low), Some(high)) => format!(" ({} to {})", per_second(low), per_second(high)),
        _ => String::new(),
    };
    format!("{} threads{some}: {}{range}", one.threads, per_second(value))
}
