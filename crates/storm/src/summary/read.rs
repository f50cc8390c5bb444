//! From the text of a saved run to its lines.

use serde::Deserialize;

use crate::record::{Line, VERSION};

/// A text that is no record.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A line that cannot be read, and is not the last, half-written one.
    #[error("line {line} is no line of a storm")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Recorded by a newer plywood.
    #[error("the file is of format {version}, this plywood reads formats up to {VERSION}")]
    Version {
        /// Its version.
        version: u32,
    },
}

/// What is read of a line first: newer formats may not be readable as lines of ours.
#[derive(Deserialize)]
struct Versioned {
    kind: String,
    version: Option<u32>,
}

/// Reads lines. A last line without its end is what a crash leaves: it is left out, and the storm is partial.
///
/// # Errors
/// If another line cannot be read, or the format is a newer one.
pub fn read(text: &str) -> Result<Vec<Line>, ReadError> {
    let mut lines = Vec::new();
    for (position, line) in text.split_inclusive('\n').enumerate() {
        let whole = line.ends_with('\n');
        if line.trim().is_empty() {
            continue;
        }
        if lines.is_empty()
            && let Ok(Versioned { kind, version: Some(version) }) = serde_json::from_str(line)
            && ["run", "lock_run"].contains(&kind.as_str())
            && version > VERSION
        {
            return Err(ReadError::Version { version });
        }
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) if !whole => break,
            Err(source) => return Err(ReadError::Line { line: position + 1, source }),
        }
    }
    Ok(lines)
}
