//! `plywood exec`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use plywood_engine::runtime::{ExecRequest, read_log};
use plywood_engine::users::ContainerUser;
use plywood_store::{Container, ContainerState, Store};

use super::account;
use crate::args::Exec;
use crate::context::Context;
use crate::remedy::Advised;

/// Runs one more process in a container; its exit code is ours. What cannot be started is 126 or 127, as in a shell:
/// the runtime has said on standard error what it is.
pub fn run(context: &Context, args: &Exec) -> anyhow::Result<ExitCode> {
    context.refuse_json("exec", "what its command writes")?;
    let store = context.store()?;
    let container = store.find_container(&args.container)?;
    if container.state != ContainerState::Running {
        return Err(Advised::new(
            format!("container {} is {}, not running", container.id.short(), container.state),
            "`plywood ps` lists those that run",
        )
        .into());
    }
    let user = args.user.as_deref().map(|user| resolve(&store, &container, user)).transpose()?;
    let runtime = super::containers::runtime_of(context, &container)?;
    let mut env: Vec<String> = user.iter().map(|user| format!("HOME={}", user.home)).collect();
    env.extend_from_slice(&args.env);
    let log = container.bundle.join(format!("exec-{}.log", std::process::id()));
    let request = ExecRequest {
        argv: args.command.clone(),
        env,
        cwd: args.workdir.clone(),
        user: user.as_ref().map(|user| (user.uid, user.gid)),
        groups: user.map(|user| user.groups).unwrap_or_default(),
        log: Some(log.clone()),
    };
    let mut command = runtime.exec_command(container.id.as_str(), &request);
    let status = runtime.apart(|| command.status()).flatten();
    let failure = read_log(&log).with_context(|| format!("reading {}", log.display()))?;
    remove(&log)?;
    let status = status.with_context(|| format!("running {}", runtime.path().display()))?;
    let code = match failure {
        Some(failure) if !status.success() => Some(failure.exit_code()),
        _ => status.code(),
    };
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// As `run --user` does, from the files of the image.
fn resolve(store: &Store, container: &Container, wanted: &str) -> anyhow::Result<ContainerUser> {
    let image = store.image_by_digest(&container.image)?.context("the image of the container is gone")?;
    let user = account::resolve(&store.merged(&image.layer_ids())?, wanted)?;
    let lease = container.lease.as_ref().context("the container has no host ids")?;
    for (kind, id, range) in [("user", user.uid, lease.uid), ("group", user.gid, lease.gid)] {
        anyhow::ensure!(
            id < range.length,
            "--user: {kind} {id} is outside the container's {} ids",
            range.length
        );
    }
    Ok(user)
}

fn remove(log: &Path) -> anyhow::Result<()> {
    match fs::remove_file(log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", log.display()))
        }
        _ => Ok(()),
    }
}
