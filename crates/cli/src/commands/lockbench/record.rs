//! What a lock benchmark writes: the raw file as it goes, its page at the end.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use plywood_storm::record::Line;
use plywood_storm::report;

use crate::args::Lockbench;
use crate::commands::storm::output::{emptied, is_same, writable};
use crate::remedy::{Usage, of_file};

/// Keeps the lines, and writes them down.
#[derive(Debug)]
pub struct Record {
    lines: Vec<Line>,
    raw: Option<(PathBuf, File)>,
    html: Option<(PathBuf, File)>,
    /// Why not all is in the raw file.
    lost: Option<io::Error>,
}

impl Record {
    /// Opens the files, so that nothing is measured that cannot be written.
    ///
    /// # Errors
    /// One of them cannot be, or both are the same.
    pub fn open(args: &Lockbench) -> anyhow::Result<Self> {
        let open = |path: &Option<PathBuf>, what| {
            path.as_ref().map(|path| writable(path, what).map(|file| (path.clone(), file))).transpose()
        };
        let (raw, html) = (open(&args.raw, "samples")?, open(&args.html, "the page")?);
        if let (Some((_, raw)), Some((path, html))) = (&raw, &html)
            && is_same(raw, html)?
        {
            let path = path.display();
            return Err(
                Usage(format!("--raw and --html both name {path}: one would overwrite the other")).into()
            );
        }
        if let Some((_, raw)) = &raw {
            emptied(raw).context("emptying the file of samples")?;
        }
        Ok(Self { lines: Vec::new(), raw, html, lost: None })
    }

    /// Writes a line down; whether that worked is told in the end.
    pub fn add(&mut self, line: Line) {
        if let Some((_, raw)) = &mut self.raw
            && self.lost.is_none()
        {
            let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut bytes| {
                bytes.push(b'\n');
                raw.write_all(&bytes)
            });
            self.lost = written.err();
        }
        // Nothing shows samples.
        if !matches!(line, Line::LockSample(_)) {
            self.lines.push(line);
        }
    }

    /// All but the samples, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Writes the page.
    ///
    /// # Errors
    /// That, or samples, cannot be written.
    pub fn finish(self) -> anyhow::Result<()> {
        if let (Some(error), Some((path, _))) = (self.lost, &self.raw) {
            return Err(of_file(error, "writing samples", path));
        }
        if let Some((path, mut file)) = self.html {
            let page = report::render_locks(&self.lines).unwrap_or_default();
            emptied(&file)
                .and_then(|()| file.write_all(page.as_bytes()))
                .map_err(|error| of_file(error, "writing the page", &path))?;
        }
        Ok(())
    }
}
