//! Who a process in a container runs as: looked up in the image's own files.

use plywood_engine::users::{self, ContainerUser, MAX_TABLE_BYTES, UserError};
use plywood_store::{MergedError, MergedTree};

use crate::remedy::{Advised, Usage};

/// Resolves `USER[:GROUP]`, names or numbers.
///
/// # Errors
/// No such user or group; [`Usage`] if it is not of that form.
pub fn resolve(image: &MergedTree, wanted: &str) -> anyhow::Result<ContainerUser> {
    let table = |path: &str| match image.read_file(path, MAX_TABLE_BYTES as u64) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(MergedError::NotAFile(_)) => Ok(Vec::new()),
        Err(error) => Err(unreadable(path, error)),
    };
    users::resolve(wanted, &table("/etc/passwd")?, &table("/etc/group")?).map_err(|error| match error {
        UserError::Malformed(_) => Usage(format!("--user: {error}")).into(),
        error => error.into(),
    })
}

/// What is wrong with an account file of the image, and what to do about it.
pub fn unreadable(file: &str, error: MergedError) -> anyhow::Error {
    let what = match &error {
        MergedError::TooLarge { size, limit, .. } => {
            format!("{file} in the image has {size} bytes, more than the {limit} that are read of it")
        }
        MergedError::TooManyLinks(_) => format!("{file} in the image leads through too many symbolic links"),
        _ => return anyhow::Error::new(error).context(format!("looking at {file} in the image")),
    };
    // A number is looked up, too: it may be a user's who has groups and a home.
    Advised::new(
        what,
        format!("build the image with an ordinary {file}; its users cannot be told without it"),
    )
    .into()
}
