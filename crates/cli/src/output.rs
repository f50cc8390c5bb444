//! What people and machines read: tables, JSON, sizes, durations. The only place that prints.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use plywood_image::printable;
use serde::Serialize;

use crate::remedy::Advised;

/// Prints one JSON object and a newline on standard output.
///
/// # Errors
/// If standard output cannot be written; a closed pipe counts as done.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    script_out(&json_line(value)?)
}

/// The same as text. It means what it would mean otherwise, and does nothing to a terminal that shows it.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    let mut line = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        // Beyond ASCII there is nothing but strings, where any character can be written so. The rest serde has escaped.
        if (character.is_ascii() && character != '\u{7f}') || is_printable(character) {
            line.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line.push('\n');
    Ok(line)
}

fn is_printable(character: char) -> bool {
    printable(character.encode_utf8(&mut [0; 4])).to_string().chars().eq([character])
}

/// Prints text on standard output: a line each, and nothing that acts on a terminal. Names of images, commands and
/// messages of runtimes are in most of what we say, so that all of it is shown this way.
///
/// # Errors
/// If standard output cannot be written; a closed pipe counts as done.
pub fn text_out(text: &str) -> anyhow::Result<()> {
    script_out(&harmless(text))
}

/// Prints what is for a program to read, as it is.
///
/// # Errors
/// If standard output cannot be written; a closed pipe counts as done.
pub fn script_out(text: &str) -> anyhow::Result<()> {
    settle(io::stdout().lock().write_all(text.as_bytes())).map_err(|error| unwritable(&error).into())
}

/// As [`text_out`], on standard error.
///
/// # Errors
/// If standard error cannot be written; a closed pipe counts as done.
pub fn text_err(text: &str) -> anyhow::Result<()> {
    Ok(settle(io::stderr().lock().write_all(harmless(text).as_bytes()))?)
}

fn harmless(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", printable(line))).collect()
}

/// A reader that has seen enough (`| head`) is no failure.
fn settle(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// What was done is done; only telling of it failed.
pub fn unwritable(error: &io::Error) -> Advised {
    Advised::new(
        format!("standard output cannot be written: {error}"),
        "send it to a file or program that takes it, or free space where that file lies",
    )
}

/// A plain table: a header and rows, columns aligned, no borders.
#[must_use]
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    for row in rows {
        // Here already: what is escaped later is wider than its column, and a cell is one line.
        table.add_row(row.map(|cell| printable(&cell).to_string()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().flat_map(|l| [l.trim_end().to_owned(), "\n".to_owned()]).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// One a line.
#[must_use]
pub fn lines(texts: &[&str]) -> String {
    texts.iter().flat_map(|text| [*text, "\n"]).collect()
}

/// A number of things: `1 layer`, `2 layers`, `3 entries`.
#[must_use]
pub fn count(n: impl TryInto<u64> + Display + Copy, thing: &str) -> String {
    let many = n.try_into().ok() != Some(1);
    match thing.strip_suffix("ry") {
        _ if !many => format!("{n} {thing}"),
        Some(stem) => format!("{n} {stem}ries"),
        None => format!("{n} {thing}s"),
    }
}

/// Milliseconds as machines read them, to the microsecond: what a clock says beyond it is noise.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    round_ms(duration.as_secs_f64() * 1000.0)
}

/// The same, of a number of milliseconds.
#[must_use]
pub fn round_ms(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

/// A size as people read it, in powers of 1000: `12.3 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Milliseconds as people read them: `0.62 ms`, `31 ms`, `2.10 s`.
#[must_use]
pub fn duration(ms: f64) -> String {
    match ms {
        m if m < 10.0 => format!("{m:.2} ms"),
        m if m < 1000.0 => format!("{m:.0} ms"),
        m => format!("{:.2} s", m / 1000.0),
    }
}

/// How long ago, coarsely: `5 seconds ago`, `3 days ago`.
#[must_use]
pub fn ago(seconds: u64) -> String {
    let (n, unit) = match seconds {
        s if s < 60 => (s, "second"),
        s if s < 3600 => (s / 60, "minute"),
        s if s < 86_400 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    };
    format!("{} ago", count(n, unit))
}

/// How long ago a moment was, given in milliseconds since the epoch.
#[must_use]
pub fn ago_ms(moment_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ago(now.as_secs().saturating_sub(moment_ms / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_more_are_many() {
        assert_eq!((count(1, "layer"), count(0, "layer")), ("1 layer".to_owned(), "0 layers".to_owned()));
        assert_eq!(
            (count(1_u64, "entry"), count(12, "entry")),
            ("1 entry".to_owned(), "12 entries".to_owned())
        );
        assert_eq!(ago(3 * 86_400), "3 days ago");
    }

    #[test]
    fn milliseconds_end_at_the_microsecond() {
        assert_eq!(ms(Duration::from_nanos(300_000_400)).to_string(), "300");
        assert_eq!(round_ms(0.1 + 0.2).to_string(), "0.3");
        assert_eq!(ms(Duration::from_nanos(1_234_567_890)).to_string(), "1234.568");
    }

    #[test]
    fn sizes_and_durations_read_well() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1000), "1.0 kB");
        assert_eq!(size(999_999), "1.0 MB");
        assert_eq!(size(326_400_000), "326.4 MB");
        assert_eq!(duration(0.617), "0.62 ms");
        assert_eq!(duration(31.4), "31 ms");
        assert_eq!(duration(2100.0), "2.10 s");
        assert_eq!(ago(1), "1 second ago");
        assert_eq!(ago(7200), "2 hours ago");
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(["A", "LONG"], vec![["xx".into(), "1".into()], ["y".into(), "2".into()]]);
        assert_eq!(text, "A   LONG\nxx  1\ny   2\n");
    }
}
