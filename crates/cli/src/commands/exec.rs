//! `plywood exec`.

use std::process::ExitCode;

use anyhow::Context as _;
use plywood_engine::runtime::ExecRequest;
use plywood_store::ContainerState;

use crate::args::Exec;
use crate::context::Context;
use crate::remedy::{Advised, Usage};

/// Runs one more process in a container; its exit code is ours.
pub fn run(context: &Context, args: &Exec) -> anyhow::Result<ExitCode> {
    let user = args.user.as_deref().map(user).transpose()?;
    let store = context.store()?;
    let container = store.find_container(&args.container)?;
    if container.state != ContainerState::Running {
        return Err(Advised::new(
            format!("container {} is {}, not running", container.id.short(), container.state),
            "`plywood ps` lists those that run",
        )
        .into());
    }
    let runtime = super::containers::runtime_of(context, &container)?;
    let request =
        ExecRequest { argv: args.command.clone(), env: args.env.clone(), cwd: args.workdir.clone(), user };
    let mut command = runtime.exec_command(container.id.as_str(), &request);
    let status = runtime
        .apart(|| command.status())
        .flatten()
        .with_context(|| format!("running {}", runtime.path().display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `UID[:GID]`, numbers.
fn user(text: &str) -> Result<(u32, u32), Usage> {
    let bad = || Usage(format!("--user {text}: give numbers, UID or UID:GID"));
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    Ok((uid.parse().map_err(|_| bad())?, gid.parse().map_err(|_| bad())?))
}
