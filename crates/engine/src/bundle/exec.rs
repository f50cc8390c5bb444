//! One more process in a container: what its own process is, changed where the caller says so.

use oci_spec::runtime::{Process, Spec};

use super::{BundleError, process};
use crate::users::ContainerUser;

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct ExecOverrides {
    /// The arguments, the program first.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, added to the container's or replacing them by name.
    pub env: Vec<String>,
    /// Another working directory, absolute.
    pub workdir: Option<String>,
    /// Another user, with the groups and the home of that user and no others.
    pub user: Option<ContainerUser>,
}

/// The process to run in the container that `container` is the spec of. It has the container's limits and the
/// capabilities that a container of the same `--cap-add` and `--cap-drop` gives that user.
///
/// # Errors
/// [`BundleError`]: what the caller wants is not possible in any container, or `container` runs nothing.
pub fn exec(container: &Spec, wanted: &ExecOverrides) -> Result<Process, BundleError> {
    process::variables(&wanted.env)?;
    if wanted.argv.iter().any(|argument| argument.contains('\0')) {
        return Err(BundleError::Nul("the command"));
    }
    let mut runs = container.process().clone().ok_or(BundleError::NoProcess)?;
    runs.set_args(Some(wanted.argv.clone()));
    if let Some(path) = wanted.workdir.as_deref() {
        runs.set_cwd(process::absolute(path)?.into());
    }
    let home = wanted.user.as_ref().map(|user| format!("HOME={}", user.home));
    let env = runs.env().clone().unwrap_or_default();
    let env = process::merged(env.iter().chain(&home).chain(&wanted.env))?;
    process::fit(&wanted.argv, &env)?;
    runs.set_env(Some(env));
    if let Some(user) = &wanted.user {
        let held = runs.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default();
        runs.set_user(process::user(user)?);
        runs.set_capabilities(Some(process::sets(user, held)?));
    }
    Ok(runs)
}
