//! A spec as bytes in a fixed order, and a bundle directory with them in it. What is read back is our own.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde_json::Value;

/// A spec's name in its bundle.
const CONFIG: &str = "config.json";

/// `spec` as JSON, keys in order of the alphabet, sets in order: the same spec gives the same bytes.
pub fn to_json(spec: &Spec) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(spec)?;
    // The spec holds capabilities as hash sets, whose order differs from run to run.
    if let Some(Value::Object(sets)) = value.pointer_mut("/process/capabilities") {
        for set in sets.values_mut() {
            if let Value::Array(names) = set {
                names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
        }
    }
    serde_json::to_vec(&value)
}

/// Makes the directory `bundle` (0700; its parent must exist) with `spec` as its `config.json`.
///
/// # Errors
/// `AlreadyExists` if there is one: a container id is used once.
pub fn write(bundle: &Path, spec: &Spec) -> io::Result<()> {
    let json = to_json(spec).map_err(io::Error::other)?;
    DirBuilder::new().mode(0o700).create(bundle)?;
    write_new(&bundle.join(CONFIG), &json)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// There is none, or it is something else.
pub fn read(bundle: &Path) -> io::Result<Spec> {
    Ok(serde_json::from_slice(&fs::read(bundle.join(CONFIG))?)?)
}

/// Makes the file `path` that says what an `exec` runs.
///
/// # Errors
/// `AlreadyExists` if there is one.
pub fn write_process(path: &Path, process: &Process) -> io::Result<()> {
    write_new(path, &serde_json::to_vec(process)?)
}

/// For root alone: it holds the environment.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}
