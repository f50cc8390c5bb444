//! Charts as SVG: text, lines and shapes, coloured by the page's style sheet so that they follow light and dark.
//!
//! All are drawn 360 units wide and shown as wide as the column: on a phone a unit is about a pixel, and text of 11 units
//! can be read.

use super::html::{esc, put};

mod bars;
mod heat;
mod lines;
mod rows;
mod scale;

pub(super) use bars::{Bar, bars};
pub(super) use heat::heat;
pub(super) use lines::{Lines, Point, Series, lines};
pub(super) use rows::{Row, Rows, rows};
pub(super) use scale::Scale;

/// Width of every chart.
pub(super) const WIDTH: f64 = 360.0;

/// Opens a picture with its title and what it shows in words.
fn open(page: &mut String, id: &str, height: f64, title: &str, about: &str) {
    put!(
        page,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
         <title id=\"{id}-t\">{}</title>\n<desc id=\"{id}-d\">{}</desc>\n",
        esc(title),
        esc(about)
    );
}

fn close(page: &mut String) {
    page.push_str("</svg>\n");
}

/// Text; `anchor` is start, middle or end.
fn text(page: &mut String, class: &str, anchor: &str, x: f64, y: f64, what: &str) {
    put!(
        page,
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n",
        esc(what)
    );
}

fn line(page: &mut String, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
    put!(page, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n");
}

/// The marker of a way: circle, square, diamond, triangle, its reverse, cross, ring of five.
pub(super) fn marker(
    page: &mut String,
    way: usize,
    x: f64,
    y: f64,
    r: f64,
    class: &str,
    title: Option<&str>,
) {
    let inner = title.map(|title| format!("<title>{}</title>", esc(title))).unwrap_or_default();
    let points = |corners: &[(f64, f64)]| {
        let corners: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * r, y + dy * r)).collect();
        format!("<polygon class=\"{class}\" points=\"{}\">{inner}</polygon>", corners.join(" "))
    };
    let shape = match way % 7 {
        0 => format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\">{inner}</circle>"),
        1 => points(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => points(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        3 => points(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        4 => points(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
        5 => points(&[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ]),
        _ => points(&[(0.0, -1.2), (1.1, -0.4), (0.7, 1.0), (-0.7, 1.0), (-1.1, -0.4)]),
    };
    page.push_str(&shape);
}
