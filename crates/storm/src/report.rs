//! A storm as one HTML page, for people who were not there.
//!
//! The page is whole: no script, no font, no image, no address outside itself, and its own policy forbids it to fetch
//! any. Charts are drawn as SVG from the same summaries that `--json` prints, which the page carries as well. Nothing is
//! told by colour alone: every way of mounting has a letter and a marker.
//!
//! Invariant: text that comes from the record (names of images, reasons of failures, command lines) reaches the page
//! through `html::esc` only.

use crate::record::{Host, Line, Run};
use crate::summary::gather::gather;
use crate::summary::{Note, Summary, SummaryError, show, summarise};
use crate::verdict::{Finding, Verdict, verdict};

mod chart;
mod figures;
mod html;
mod locks;
mod pictures;
#[cfg(test)]
mod tests;
mod ways;

use html::{cut, esc, put};
use ways::Ways;

const STYLE: &str = include_str!("report/style.css");

/// Forbids the page to load or run anything, whatever slipped into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'";

/// The page.
///
/// # Errors
/// If the lines are no storm's, or of a newer format.
pub fn render(lines: &[Line]) -> Result<String, SummaryError> {
    let storm = gather(lines)?;
    let (run, partial) = (storm.run, storm.partial.as_deref());
    let summaries = summarise(lines)?;
    let verdict = verdict(lines)?;
    let ways = Ways::of(&summaries);
    let mut page = String::with_capacity(64 << 10);
    head(&mut page, &run.plywood, &format!("Storm: {}", run.image));
    top(&mut page, run, &verdict, partial);
    ways.legend(&mut page, "Key to the pictures");
    pictures::add(&mut page, &summaries, &ways);
    locks::add(&mut page, lines, &run.host);
    notes(&mut page, &summaries, &ways);
    figures::add(&mut page, &summaries, &ways);
    conditions(&mut page, run);
    foot(&mut page, &summaries, run);
    Ok(page)
}

/// The page of a lock benchmark alone; none of lines that are no lock benchmark's.
pub fn render_locks(lines: &[Line]) -> Option<String> {
    locks::page(lines)
}

fn head(page: &mut String, version: &str, title: &str) {
    put!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"plywood {}\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        esc(version),
        esc(title)
    );
}

/// The answer first: the sentence, the one number, what supports it.
fn top(page: &mut String, run: &Run, verdict: &Verdict, partial: Option<&str>) {
    let (class, word) = match verdict.finding {
        Finding::Stalls => ("bad", "stalls"),
        Finding::Slows => ("warn", "slows"),
        Finding::Harmless => ("good", "harmless"),
        Finding::Unclear => ("unsure", "unclear"),
        Finding::OneWay => ("unsure", "nothing to compare"),
    };
    put!(
        page,
        "<header>\n<p class=\"over\">plywood storm <span>{}</span> <time>{}</time></p>\n<h1>{}</h1>\n</header>\n<main>\n",
        esc(&cut(&run.host.cpu_model, 100)),
        moment(run.started_at_ms),
        esc(&cut(&run.image, 200))
    );
    if let Some(reason) = partial {
        put!(
            page,
            "<p class=\"partial\" role=\"note\"><strong>Partial.</strong> The storm did not finish ({}). What follows is \
             made of the rounds that did.</p>\n",
            esc(reason)
        );
    }
    put!(page, "<section class=\"verdict {class}\" aria-label=\"Verdict\" data-finding=\"{class}\">\n");
    put!(page, "<div><p class=\"badge\">{word}</p>");
    if let Some(ratio) = verdict.ratio {
        let range = verdict.ratio_interval.map(|i| show::interval(&i, show::times)).unwrap_or_default();
        put!(page, "<p class=\"big\">{}<small>{}</small></p>", show::times(ratio), range);
    }
    put!(page, "</div>\n<div><p class=\"sentence\">{}</p>\n<ul>\n", ticks(&verdict.sentence));
    for detail in &verdict.details {
        put!(page, "<li>{}</li>\n", ticks(detail));
    }
    put!(page, "</ul></div>\n</section>\n");
}

/// Escaped, with what stands in backticks set as code.
fn ticks(text: &str) -> String {
    let mut html = String::new();
    for (at, part) in text.split('`').enumerate() {
        let (open, close) = if at % 2 == 1 { ("<code>", "</code>") } else { ("", "") };
        put!(html, "{open}{}{close}", esc(part));
    }
    html
}

fn notes(page: &mut String, summaries: &[Summary], ways: &Ways) {
    put!(page, "<section>\n<h2>How far to trust this</h2>\n");
    let noisy: Vec<&Summary> = summaries.iter().filter(|summary| !summary.notes.is_empty()).collect();
    if noisy.is_empty() {
        put!(
            page,
            "<p>Rounds agree with each other: no drift, no outliers, no other work to speak of.</p>\n"
        );
    }
    put!(page, "<dl class=\"notes\">\n");
    // What is true of all arms is said once.
    let of_all = |note: &&Note| summaries.len() > 1 && summaries.iter().all(|s| s.notes.contains(*note));
    let common: Vec<&Note> = summaries.first().into_iter().flat_map(|s| &s.notes).filter(of_all).collect();
    if !common.is_empty() {
        put!(page, "<div><dt>All arms</dt>\n");
        for note in &common {
            put!(page, "<dd>{}</dd>\n", ticks(&note.message));
        }
        put!(page, "</div>\n");
    }
    for summary in noisy.into_iter().filter(|s| !s.notes.iter().all(|note| common.contains(&note))) {
        put!(page, "<div><dt>{}, {}</dt>\n", ways.tag(summary), esc(&pictures::load(summary)));
        for note in summary.notes.iter().filter(|note| !common.contains(note)) {
            put!(page, "<dd>{}</dd>\n", ticks(&note.message));
        }
        put!(page, "</div>\n");
    }
    put!(
        page,
        "</dl>\n<p class=\"fine\">Arms ran in turn, round by round; the first round of each warms up and is not \
         counted. Rounds are what is repeated: intervals hold the true median of rounds 95 times in 100 (order \
         statistics, no assumed distribution), and launches of one round are never counted as independent. What \
         differs too much calls for a quieter machine or more rounds (<code>--repeat</code>).</p>\n</section>\n"
    );
}

fn conditions(page: &mut String, run: &Run) {
    let host = &run.host;
    let mut rows = vec![("Image", run.image.clone())];
    rows.extend(machine(host));
    rows.extend([
        ("Launching threads", host.pinned.clone().unwrap_or_else(|| "on any CPU".to_owned())),
        ("A launch fails after", show::ms(run.timeout_ms)),
        ("Rounds", format!("{} and one to warm up", run.repeat)),
        ("plywood", run.plywood.clone()),
    ]);
    rows.extend(host.versions.iter().map(|(name, version)| (name.as_str(), version.clone())));
    where_and_how(page, &rows, &run.command);
}

/// What is known of a machine.
fn machine(host: &Host) -> Vec<(&'static str, String)> {
    let number = |value: Option<usize>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    vec![
        ("Kernel", host.kernel.clone()),
        ("CPU", host.cpu_model.clone()),
        ("CPUs", host.cpus.to_string()),
        ("Sockets", number(host.sockets)),
        ("NUMA nodes", number(host.numa_nodes)),
        ("Threads of a core", number(host.threads_per_core)),
        ("Last-level caches", number(host.llc_domains)),
        ("Virtual machine", host.virtualised.clone().unwrap_or_else(|| "not known to be one".to_owned())),
        ("Memory", format!("{} GiB", show::significant(gib(host.memory_bytes)))),
        ("File system", host.filesystem.clone()),
        ("Mounts before", show::whole(host.mounts as u64)),
        ("Load before", show::significant(host.load)),
    ]
}

fn where_and_how(page: &mut String, rows: &[(&str, String)], command: &[String]) {
    put!(page, "<section>\n<h2>Where and how</h2>\n<dl class=\"host\">\n");
    for (name, value) in rows {
        put!(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", esc(*name), esc(value));
    }
    put!(
        page,
        "</dl>\n<p>The exact command:</p>\n<pre class=\"box\"><code>{}</code></pre>\n</section>\n",
        esc(&self::command(command))
    );
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// As a shell takes it.
fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    let quoted = |word: &String| match word.chars().all(plain) && !word.is_empty() {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn foot(page: &mut String, summaries: &[Summary], run: &Run) {
    put!(
        page,
        "</main>\n<footer><p>Made by plywood {} from the recorded samples; the same figures as \
         <code>--json</code> are in this page's <code>#summary</code>.</p></footer>\n",
        esc(&run.plywood)
    );
    // No less-than sign: nothing in here can end the element.
    let json: Vec<String> = summaries.iter().filter_map(|s| serde_json::to_string(s).ok()).collect();
    put!(
        page,
        "<script type=\"application/json\" id=\"summary\">[{}]</script>\n</body>\n</html>\n",
        json.join(",\n").replace('<', "\\u003c")
    );
}

/// `2024-05-03 14:05 UTC`, of milliseconds since 1970.
fn moment(ms: u64) -> String {
    let minutes = ms / 60_000;
    let (days, minute) = (minutes / 1440, minutes % 1440);
    // Days are counted from 1 March of year 0, in eras of 400 years (Howard Hinnant's civil_from_days).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}
