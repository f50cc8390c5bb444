//! The table of figures: what `--json` says, shown with the terminal's own formatting.

use super::html::{esc, put};
use super::ways::Ways;
use crate::summary::Summary;
use crate::summary::show::COLUMNS;

/// One row an arm. Each cell carries the figure as JSON has it.
pub(super) fn add(page: &mut String, summaries: &[Summary], ways: &Ways) {
    put!(
        page,
        "<section>\n<h2>Figures</h2>\n<div class=\"box\" tabindex=\"0\" role=\"region\" aria-label=\"Figures of every arm\">\n"
    );
    put!(page, "<table id=\"figures\">\n<thead><tr>");
    for column in &COLUMNS {
        put!(page, "<th scope=\"col\">{}<small>{}</small></th>", esc(column.head), esc(column.about));
    }
    put!(page, "</tr></thead>\n<tbody>\n");
    for summary in summaries {
        let json = serde_json::to_value(summary).unwrap_or_default();
        put!(page, "<tr>");
        for (at, column) in COLUMNS.iter().enumerate() {
            let value = json.pointer(column.json).unwrap_or(&serde_json::Value::Null).to_string();
            let cell = if at == 0 { ways.tag(summary) } else { esc(&(column.cell)(summary)).to_string() };
            let (open, close) = if at == 0 { ("th scope=\"row\"", "th") } else { ("td", "td") };
            put!(
                page,
                "<{open} data-figure=\"{}\" data-json=\"{}\">{cell}</{close}>",
                esc(column.json),
                esc(&value)
            );
        }
        put!(page, "</tr>\n");
    }
    put!(
        page,
        "</tbody>\n</table>\n</div>\n<p class=\"fine\">Quantiles are over all samples of the rounds that count, by nearest \
         rank; wall times and counts are medians of the rounds. Launch times are those of containers that started; \
         failures are counted beside them.</p>\n</section>\n"
    );
}
