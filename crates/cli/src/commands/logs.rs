//! `plywood logs`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use plywood_store::ContainerState;

use super::containers;
use crate::args::Logs;
use crate::context::Context;
use crate::output;
use crate::remedy::{Advised, INTERRUPTED};

/// How often more output is looked for.
const POLL: Duration = Duration::from_millis(100);

/// Prints what a detached container wrote.
pub fn run(context: &Context, args: &Logs) -> anyhow::Result<ExitCode> {
    context.refuse_json("logs", "what the container wrote")?;
    let store = context.store()?;
    let container = store.find_container(&args.container)?;
    let snapshot = store.snapshots_of(&container.id)?.into_iter().next();
    let path = snapshot.map(|snapshot| containers::log_path(&snapshot)).filter(|path| path.exists());
    let Some(path) = path else {
        return Err(Advised::new(
            format!("container {} has no log", container.id.short()),
            "only detached containers (`plywood run -d`) write one; others write to the caller's terminal",
        )
        .into());
    };
    let mut log = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 1 << 16];
    loop {
        // Asked before reading: what is written until the end is read after it.
        let running = args.follow
            && !context.cancel.requested()
            && store
                .find_container(container.id.as_str())
                .is_ok_and(|now| now.state != ContainerState::Exited);
        loop {
            let count = log.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
            let written = if count == 0 { out.flush() } else { out.write_all(&buffer[..count]) };
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                other => other.map_err(|error| output::unwritable(&error))?,
            }
            if count == 0 {
                break;
            }
        }
        if !running {
            // Whoever follows and stops has not seen the end.
            let stopped = args.follow && context.cancel.requested();
            return Ok(if stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS });
        }
        std::thread::sleep(POLL);
    }
}
