//! What a storm shows and writes: the raw file, progress, the table, the report.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::ProgressBar;
use plywood_storm::harness::Around;
use plywood_storm::record::{Line, Run};
use plywood_storm::report;
use plywood_storm::summary::{Summary, show, summarise};
use plywood_storm::verdict::verdict;

use crate::args::Storm;
use crate::context::Context;
use crate::output;
use crate::remedy::{Usage, of_file};

/// Notes below a table.
const MOST_NOTES: usize = 6;

/// Keeps the lines, and shows how far a storm is.
#[derive(Debug)]
pub struct Output {
    lines: Vec<Line>,
    raw: Option<BufWriter<File>>,
    html: Option<(PathBuf, File)>,
    bar: ProgressBar,
    arms: Vec<String>,
}

impl Output {
    /// Opens the files, so that a storm does not end with one that cannot be written.
    ///
    /// # Errors
    /// One of them cannot be.
    pub fn open(args: &Storm) -> anyhow::Result<Self> {
        let raw = args.raw.as_deref().map(|path| writable(path, "the samples")).transpose()?;
        let html = match &args.html {
            Some(path) => Some((path.clone(), writable(path, "the report")?)),
            None => None,
        };
        if let (Some(raw), Some((path, html))) = (&raw, &html)
            && is_same(raw, html)?
        {
            let path = path.display();
            return Err(
                Usage(format!("--raw and --html both name {path}: one would overwrite the other")).into()
            );
        }
        Ok(Self {
            lines: Vec::new(),
            raw: raw.map(BufWriter::new),
            html,
            bar: ProgressBar::hidden(),
            arms: Vec::new(),
        })
    }

    /// The storm begins.
    ///
    /// # Errors
    /// The raw file cannot be emptied.
    pub fn begin(&mut self, context: &Context, run: &Run) -> anyhow::Result<()> {
        // Not earlier: a storm that is refused leaves the samples of the one before.
        if let Some(raw) = &self.raw {
            emptied(raw.get_ref()).context("emptying the file of samples")?;
        }
        let rounds = run.arms.len() as u64 * (u64::from(run.repeat) + 1);
        self.bar = context.progress.count("rounds", rounds);
        self.arms = run.arms.iter().map(ToString::to_string).collect();
        Ok(())
    }

    /// Writes a line down.
    ///
    /// # Errors
    /// The raw file's.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        if let Some(raw) = &mut self.raw {
            serde_json::to_writer(&mut *raw, line)?;
            raw.write_all(b"\n")?;
            // What has been measured is there whatever happens next.
            if !matches!(line, Line::Launch(_)) {
                raw.flush()?;
            }
        }
        self.keep(line.clone());
        Ok(())
    }

    /// Shows this line in the end, too.
    pub fn keep(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Shows what was measured; answers whether a launch has failed.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn finish(mut self, context: &Context) -> anyhow::Result<bool> {
        self.bar.finish_and_clear();
        let summaries = summarise(&self.lines)?;
        // First: a page that cannot be written must not cost the figures.
        if context.json {
            summaries.iter().try_for_each(output::json)?;
        } else {
            output::text_out(&text(&self.lines, &summaries)?)?;
        }
        if let Some((path, file)) = &mut self.html {
            let page = report::render(&self.lines)?;
            emptied(file)
                .and_then(|()| file.write_all(page.as_bytes()))
                .map_err(|error| of_file(error, "writing the report", path))?;
        }
        Ok(summaries.iter().any(|summary| summary.failed > 0))
    }
}

impl Around for Output {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        if let Line::Round(_) = line {
            self.bar.inc(1);
        }
        self.write(line)
    }

    fn begins(&mut self, arm: usize, round: u32) {
        let name = self.arms.get(arm).map_or("", String::as_str);
        let round = if round == 0 { "warm-up".to_owned() } else { format!("round {round}") };
        self.bar.set_message(format!("{round}: {name}"));
    }
}

/// Opens a file that is written later, and leaves what is in it until then.
pub fn writable(path: &Path, what: &str) -> anyhow::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| of_file(error, &format!("writing {what}"), path))
}

/// What makes figures less certain, each once; those of all arms first.
fn noted(summaries: &[Summary]) -> String {
    let mut of: BTreeMap<&str, Vec<&Summary>> = BTreeMap::new();
    for summary in summaries {
        summary.notes.iter().for_each(|note| of.entry(&note.message).or_default().push(summary));
    }
    let mut notes: Vec<_> = of.into_iter().collect();
    notes.sort_by_key(|(_, arms)| Reverse(arms.len()));
    let mut text = String::new();
    for (message, arms) in notes.iter().take(MOST_NOTES) {
        let whose = match arms.as_slice() {
            all if all.len() == summaries.len() => String::new(),
            [one] => format!("{}: ", show::arm(one)),
            some => format!("{} arms: ", some.len()),
        };
        text.push_str(&format!("note: {whose}{message}\n"));
    }
    if let Some(more) = notes.len().checked_sub(MOST_NOTES).filter(|more| *more > 0) {
        text.push_str(&format!("note: {more} more are on the page and in the JSON\n"));
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// Pipes and terminals have nothing to be emptied of.
pub fn emptied(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

/// Whether both are one file.
pub fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok(one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// A row an arm, without the columns in which all arms are alike; then what they say.
fn text(lines: &[Line], summaries: &[Summary]) -> anyhow::Result<String> {
    // Figures are shown even if they are alike; what was asked for only where it differs.
    let asked = ["LAYERS", "CONTAINERS", "AT ONCE", "FAILED"];
    let columns = show::COLUMNS.iter().filter(|column| {
        let mut cells = summaries.iter().map(|summary| (column.cell)(summary));
        let first = cells.next();
        let alike = cells.all(|cell| Some(cell) == first);
        !(alike && asked.contains(&column.head)) || column.head == "FAILED" && first.as_deref() != Some("0")
    });
    let columns: Vec<_> = columns.collect();
    let mut rows = vec![columns.iter().map(|column| column.head.to_owned()).collect::<Vec<_>>()];
    rows.extend(summaries.iter().map(|one| columns.iter().map(|column| (column.cell)(one)).collect()));
    let mut text = heading(summaries);
    text.push_str(&aligned(&rows));
    text.push_str(&noted(summaries));
    for (number, failure) in summaries.iter().flat_map(|one| &one.failures).enumerate() {
        text.push_str(if number == 0 { "\n" } else { "" });
        text.push_str(&format!("failed {} times: {}\n", failure.launches, failure.reason));
    }
    let verdict = verdict(lines)?;
    text.push_str(&format!("\n{}\n", verdict.sentence));
    verdict.details.iter().for_each(|detail| text.push_str(&format!("  {detail}\n")));
    Ok(text)
}

/// What all arms have in common; layers that they do not share have a column of their own.
fn heading(summaries: &[Summary]) -> String {
    let Some(one) = summaries.first() else { return String::new() };
    let containers = output::count(one.containers, "container");
    let shared = summaries.iter().all(|other| other.layers == one.layers);
    let layers = if shared { format!(" of {}", output::count(one.layers, "layer")) } else { String::new() };
    format!("{containers}{layers}, {} each\n\n", output::count(one.rounds, "round"))
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: String =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
            format!("{}\n", cells.trim_end())
        })
        .collect()
}
