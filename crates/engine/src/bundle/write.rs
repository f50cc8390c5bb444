//! A spec as bytes in a fixed order, and a bundle directory with them in it.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::Value;

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
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(bundle.join("config.json"))?;
    file.write_all(&json)
}
