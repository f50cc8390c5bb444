//! Counts as bars from zero, each with its number.

use super::super::html::{cut, put};
use super::super::ways::{colour, letter};
use super::{Scale, WIDTH, close, open, text};
use crate::summary::show;

const LEFT: f64 = 8.0;
const RIGHT: f64 = WIDTH - 64.0;
const ROW: f64 = 54.0;

/// Two counts of one arm.
#[derive(Debug)]
pub(in crate::report) struct Bar {
    pub(in crate::report) way: usize,
    pub(in crate::report) name: String,
    /// What counts; drawn full.
    pub(in crate::report) full: Option<f64>,
    /// What it is part of; drawn hollow.
    pub(in crate::report) hollow: Option<f64>,
}

/// Draws; the words say what full and hollow bars are.
pub(in crate::report) fn bars(
    page: &mut String,
    id: &str,
    title: &str,
    about: &str,
    words: [&str; 2],
    bars: &[Bar],
) {
    let scale = Scale::linear(
        0.0,
        bars.iter().flat_map(|b| [b.full, b.hollow]).flatten().fold(1.0, f64::max),
        LEFT,
        RIGHT,
    );
    #[expect(clippy::cast_precision_loss, reason = "rows of a picture")]
    let height = bars.len() as f64 * ROW + 22.0;
    open(page, id, height, title, about);
    put!(page, "<g class=\"w7\"><rect class=\"bar\" x=\"{LEFT}\" y=\"4\" width=\"12\" height=\"10\"/></g>");
    text(page, "tick", "start", LEFT + 17.0, 13.0, words[0]);
    put!(page, "<g class=\"w7\"><rect class=\"hollow\" x=\"150\" y=\"4\" width=\"12\" height=\"10\"/></g>");
    text(page, "tick", "start", 167.0, 13.0, words[1]);
    let mut top = 20.0;
    for bar in bars {
        put!(page, "<g class=\"{}\">\n", colour(bar.way));
        text(
            page,
            "name",
            "start",
            LEFT,
            top + 13.0,
            &format!("{}  {}", letter(bar.way), cut(&bar.name, 50)),
        );
        for (class, value, y) in [("bar", bar.full, top + 18.0), ("hollow", bar.hollow, top + 33.0)] {
            let Some(value) = value else {
                text(page, "value", "start", LEFT, y + 10.0, "not counted");
                continue;
            };
            let width = (scale.at(value) - LEFT).max(1.0);
            put!(
                page,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"11\"/>\n"
            );
            text(page, "value", "start", LEFT + width + 5.0, y + 10.0, &show::each(value));
        }
        page.push_str("</g>\n");
        top += ROW;
    }
    close(page);
}
