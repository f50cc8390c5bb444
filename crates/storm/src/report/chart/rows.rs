//! One row an arm: its values as marks on a common axis, its name above them.

use super::super::html::{cut, put};
use super::super::ways::{colour, letter};
use super::{Scale, WIDTH, close, line, marker, open, text};
use crate::summary::show;

const LEFT: f64 = 8.0;
const RIGHT: f64 = WIDTH - 12.0;
const ROW: f64 = 38.0;
const HEADING: f64 = 24.0;

/// A picture of rows.
pub(in crate::report) struct Rows<'a> {
    pub(in crate::report) id: &'a str,
    pub(in crate::report) title: &'a str,
    pub(in crate::report) about: &'a str,
    pub(in crate::report) rows: Vec<Row>,
    pub(in crate::report) show: fn(f64) -> String,
}

/// One row.
#[derive(Debug, Default)]
pub(in crate::report) struct Row {
    /// Put above this row and those that follow.
    pub(in crate::report) heading: Option<String>,
    pub(in crate::report) way: usize,
    pub(in crate::report) name: String,
    /// Shown at the right.
    pub(in crate::report) value: String,
    /// The one that counts.
    pub(in crate::report) main: Option<f64>,
    /// A thick line: an interval.
    pub(in crate::report) interval: Option<(f64, f64)>,
    /// A thin line: a range.
    pub(in crate::report) range: Option<(f64, f64)>,
    /// Small dots: single rounds.
    pub(in crate::report) dots: Vec<f64>,
    /// Strokes across: further quantiles.
    pub(in crate::report) strokes: Vec<f64>,
}

/// Draws.
pub(in crate::report) fn rows(page: &mut String, picture: &Rows<'_>) {
    let all = picture.rows.iter().flat_map(|row| {
        let ends = row.interval.into_iter().chain(row.range).flat_map(|(lo, hi)| [lo, hi]);
        row.dots.iter().chain(&row.strokes).copied().chain(row.main).chain(ends).collect::<Vec<_>>()
    });
    let scale = Scale::of(all, LEFT, RIGHT);
    let headings = picture.rows.iter().filter(|row| row.heading.is_some()).count();
    #[expect(clippy::cast_precision_loss, reason = "rows of a picture")]
    let body = picture.rows.len() as f64 * ROW + headings as f64 * HEADING;
    let height = body + 26.0;
    open(page, picture.id, height, picture.title, picture.about);
    let mut used = f64::NEG_INFINITY;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        line(page, "grid", x, 4.0, x, body + 4.0);
        let label = show::tick(&(picture.show)(tick));
        #[expect(clippy::cast_precision_loss, reason = "a label's length")]
        let half = label.chars().count() as f64 * 3.6;
        let middle = x.clamp(half, WIDTH - half);
        if middle - half > used + 4.0 {
            text(page, "tick", "middle", middle, body + 18.0, &label);
            used = middle + half;
        }
    }
    let mut top = 0.0;
    for row in &picture.rows {
        if let Some(heading) = &row.heading {
            text(page, "heading", "start", LEFT, top + 17.0, &cut(heading, 50));
            top += HEADING;
        }
        one(page, row, &scale, top, picture.show);
        top += ROW;
    }
    close(page);
}

fn one(page: &mut String, row: &Row, scale: &Scale, top: f64, show: fn(f64) -> String) {
    let y = top + 27.0;
    put!(page, "<g class=\"{}\">\n", colour(row.way));
    text(
        page,
        "name",
        "start",
        LEFT,
        top + 14.0,
        &format!(
            "{}  {}",
            letter(row.way),
            cut(&row.name, 54_usize.saturating_sub(row.value.chars().count()))
        ),
    );
    text(page, "value", "end", RIGHT, top + 14.0, &row.value);
    line(page, "axis", LEFT, y, RIGHT, y);
    if let Some((lo, hi)) = row.range {
        line(page, "range", scale.at(lo), y, scale.at(hi), y);
    }
    for dot in &row.dots {
        put!(page, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>", scale.at(*dot));
    }
    if let Some((lo, hi)) = row.interval {
        line(page, "interval", scale.at(lo), y, scale.at(hi), y);
        for end in [lo, hi] {
            line(page, "end", scale.at(end), y - 5.0, scale.at(end), y + 5.0);
        }
    }
    for stroke in &row.strokes {
        line(page, "stroke", scale.at(*stroke), y - 5.0, scale.at(*stroke), y + 5.0);
    }
    // A logarithmic axis has no zero; the number at the right says it.
    if let Some(main) = row.main.filter(|main| *main > 0.0 || !scale.log) {
        let title = format!("{}: {}", row.name, show(main));
        marker(page, row.way, scale.at(main), y, 5.0, "solid", Some(&title));
    }
    page.push_str("</g>\n");
}
