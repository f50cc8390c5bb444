//! Lines over what was varied: one a way, its letter at the end.

use super::super::html::put;
use super::super::ways::{colour, letter};
use super::{Scale, WIDTH, close, line, marker, open, text};
use crate::summary::show;

const HEIGHT: f64 = 250.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = WIDTH - 28.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = HEIGHT - 38.0;
/// Letters at the ends keep this distance.
const APART: f64 = 12.0;

/// A picture of lines.
pub(in crate::report) struct Lines<'a> {
    pub(in crate::report) id: &'a str,
    pub(in crate::report) title: &'a str,
    pub(in crate::report) about: &'a str,
    pub(in crate::report) x: &'a str,
    pub(in crate::report) y: &'a str,
    pub(in crate::report) series: Vec<Series>,
    pub(in crate::report) show: fn(f64) -> String,
    /// A fixed axis; else what the values need.
    pub(in crate::report) from_to: Option<(f64, f64)>,
}

/// One line.
#[derive(Debug)]
pub(in crate::report) struct Series {
    pub(in crate::report) way: usize,
    pub(in crate::report) name: String,
    /// Dashed, hollow and without a letter: a companion of another line.
    pub(in crate::report) dashed: bool,
    pub(in crate::report) points: Vec<Point>,
}

/// One point.
#[derive(Debug, Clone, Copy)]
pub(in crate::report) struct Point {
    pub(in crate::report) x: f64,
    pub(in crate::report) y: f64,
    pub(in crate::report) interval: Option<(f64, f64)>,
}

/// Draws.
pub(in crate::report) fn lines(page: &mut String, picture: &Lines<'_>) {
    let points = || picture.series.iter().flat_map(|series| &series.points);
    let mut along: Vec<f64> = points().map(|p| p.x).collect();
    along.sort_by(f64::total_cmp);
    along.dedup();
    let x = Scale::along(&along, LEFT + 8.0, RIGHT - 8.0);
    let y = match picture.from_to {
        Some((min, max)) => Scale::linear(min, max, BOTTOM, TOP + 6.0),
        None => {
            let ends = points().flat_map(|p| p.interval).flat_map(|(lo, hi)| [lo, hi]);
            Scale::of(points().map(|p| p.y).chain(ends), BOTTOM, TOP + 6.0)
        }
    };
    open(page, picture.id, HEIGHT, picture.title, picture.about);
    let unit = if y.log { format!("{}, logarithmic", picture.y) } else { picture.y.to_owned() };
    text(page, "tick", "start", 2.0, 11.0, &unit);
    for tick in y.ticks() {
        line(page, "grid", LEFT, y.at(tick), RIGHT, y.at(tick));
        text(page, "tick", "end", LEFT - 5.0, y.at(tick) + 3.5, &show::tick(&(picture.show)(tick)));
    }
    let mut used = f64::NEG_INFINITY;
    for tick in &along {
        let place = x.at(*tick);
        line(page, "axis", place, BOTTOM, place, BOTTOM + 4.0);
        if place - used > 22.0 {
            text(page, "tick", "middle", place, BOTTOM + 16.0, &format!("{tick:.0}"));
            used = place;
        }
    }
    line(page, "axis", LEFT, BOTTOM, RIGHT, BOTTOM);
    let below = if x.log { format!("{}, logarithmic", picture.x) } else { picture.x.to_owned() };
    text(page, "tick", "middle", (LEFT + RIGHT) / 2.0, HEIGHT - 5.0, &below);
    for series in &picture.series {
        one(page, series, &x, &y, picture.show);
    }
    ends(page, &picture.series, &x, &y);
    close(page);
}

fn one(page: &mut String, series: &Series, x: &Scale, y: &Scale, show: fn(f64) -> String) {
    let class = if series.dashed { "dashed" } else { "line" };
    let path: Vec<String> =
        series.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
    put!(page, "<g class=\"{}\">\n", colour(series.way));
    let bounds: Vec<(f64, f64, f64)> = series
        .points
        .iter()
        .filter_map(|p| p.interval.map(|(lo, hi)| (x.at(p.x), y.at(lo), y.at(hi))))
        .collect();
    if bounds.len() > 1 {
        let there = bounds.iter().map(|(x, lo, _)| format!("{x:.1},{lo:.1}"));
        let back = bounds.iter().rev().map(|(x, _, hi)| format!("{x:.1},{hi:.1}"));
        put!(
            page,
            "<polygon class=\"band\" points=\"{}\"/>\n",
            there.chain(back).collect::<Vec<_>>().join(" ")
        );
    }
    put!(page, "<polyline class=\"{class}\" points=\"{}\"/>\n", path.join(" "));
    for p in &series.points {
        let title = format!("{}, {:.0}: {}", series.name, p.x, show(p.y));
        let (size, class) = if series.dashed { (2.8, "open") } else { (4.2, "solid") };
        marker(page, series.way, x.at(p.x), y.at(p.y), size, class, Some(&title));
    }
    page.push_str("</g>\n");
}

/// The letters at the right ends, moved apart where lines meet.
fn ends(page: &mut String, series: &[Series], x: &Scale, y: &Scale) {
    let mut labels: Vec<(f64, f64, usize)> = series
        .iter()
        .filter(|series| !series.dashed)
        .filter_map(|series| series.points.last().map(|p| (y.at(p.y), x.at(p.x), series.way)))
        .collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut least = TOP;
    for label in &mut labels {
        label.0 = label.0.max(least);
        least = label.0 + APART;
    }
    let mut most = BOTTOM + 4.0;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(most);
        most = label.0 - APART;
    }
    for (y, x, way) in labels {
        put!(page, "<g class=\"{}\">", colour(way));
        text(page, "letter", "start", x + 9.0, y + 4.0, &letter(way));
        page.push_str("</g>\n");
    }
}
