//! The ways of mounting that were measured, each with a letter, a marker and a colour: the key to every picture.

use super::chart::marker;
use super::html::{esc, put};
use crate::summary::{Summary, show};

/// Colours there are; markers repeat after another number, so that no two of the first many ways look alike.
const COLOURS: usize = 8;

/// The ways, in the order they were asked for.
#[derive(Debug)]
pub(super) struct Ways {
    names: Vec<String>,
    /// What all names begin with; pictures leave it out.
    common: String,
}

impl Ways {
    pub(super) fn of(summaries: &[Summary]) -> Self {
        let launchers: Vec<_> = summaries.iter().map(|s| s.launcher).collect();
        let one = launchers.iter().all(|launcher| Some(launcher) == launchers.first());
        let common =
            launchers.first().filter(|_| one).map(|launcher| format!("{launcher} ")).unwrap_or_default();
        Self { common, ..Self::named(summaries.iter().map(show::way)) }
    }

    /// Of names, each kept once.
    pub(super) fn named(all: impl Iterator<Item = String>) -> Self {
        let mut names: Vec<String> = Vec::new();
        for name in all {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self { names, common: String::new() }
    }

    pub(super) fn position(&self, summary: &Summary) -> usize {
        self.position_of(&show::way(summary))
    }

    pub(super) fn position_of(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or(0)
    }

    pub(super) fn name(&self, position: usize) -> &str {
        let name = &self.names[position];
        name.strip_prefix(&self.common).unwrap_or(name)
    }

    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// Letter and name.
    pub(super) fn tag(&self, summary: &Summary) -> String {
        let position = self.position(summary);
        format!("{} {}", badge(position), esc(&self.names[position]))
    }

    /// The key.
    pub(super) fn legend(&self, page: &mut String, of: &str) {
        put!(page, "<ul class=\"legend\" aria-label=\"{of}\">\n");
        for (position, name) in self.names.iter().enumerate() {
            put!(page, "<li>{} {}</li>\n", badge(position), esc(name));
        }
        put!(page, "</ul>\n");
    }
}

/// A, B, ... Z, AA, AB, ...
pub(super) fn letter(position: usize) -> String {
    let last = char::from(b'A' + u8::try_from(position % 26).unwrap_or(0));
    match position / 26 {
        0 => last.to_string(),
        more => format!("{}{last}", letter(more - 1)),
    }
}

/// The class that gives it its colour.
pub(super) fn colour(position: usize) -> String {
    format!("w{}", position % COLOURS)
}

/// Marker and letter, beside text.
pub(super) fn badge(position: usize) -> String {
    let mut svg = String::new();
    put!(
        svg,
        "<span class=\"key\"><svg class=\"{}\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\" aria-hidden=\"true\">",
        colour(position)
    );
    marker(&mut svg, position, 7.0, 7.0, 4.5, "solid", None);
    put!(svg, "</svg><b>{}</b></span>", letter(position));
    svg
}
