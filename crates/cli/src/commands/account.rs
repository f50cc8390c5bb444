//! Who a process in a container runs as: looked up in the image's own files.

use plywood_engine::users::{self, ContainerUser, MAX_TABLE_BYTES, UserError};
use plywood_store::{MergedError, MergedTree};

use crate::remedy::Usage;

/// Resolves `USER[:GROUP]`, names or numbers.
///
/// # Errors
/// No such user or group; [`Usage`] if it is not of that form.
pub fn resolve(image: &MergedTree, wanted: &str) -> anyhow::Result<ContainerUser> {
    let table = |path: &str| match image.read_file(path, MAX_TABLE_BYTES as u64) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(MergedError::NotAFile(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    users::resolve(wanted, &table("/etc/passwd")?, &table("/etc/group")?).map_err(|error| match error {
        UserError::Malformed(_) => Usage(format!("--user: {error}")).into(),
        error => error.into(),
    })
}
