//! `run -d`: the run goes on in a process of its own, the containers' supervisor, which tells this one when they
//! have started.
//!
//! ```text
//! plywood run -d ...                      plywood run -d ...   (marked, in its own session)
//!   starts it, standard output a pipe ──>   launches
//!   <── status line, report, end of file    all have started or failed
//!   prints, exits                           waits for the containers, records how they end, exits
//! ```
//! Before the status line, the supervisor fails as any command does: its errors are on the caller's standard error
//! and its exit code is the caller's.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::args::SUPERVISE;
use crate::context::Context;
use crate::output;
use crate::remedy::INTERRUPTED;

use super::report::Report;

/// In the caller: starts the supervisor with the same command line, and passes its report on.
pub fn start(context: &Context) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        // Not an argument: where `run` ends and the container's command begins is for the parser alone to say.
        .env(SUPERVISE, "true")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the supervisor")?;
    let report = relay(context, &mut child)?;
    let Some((code, text)) = report.split_once('\n') else {
        let status = child.wait().context("waiting for the supervisor")?;
        output::text_out(&report)?;
        // One that is told to stop before it can listen is ended by the signal, and has done nothing yet.
        let unheard =
            if context.cancel.requested() { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE };
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(unheard, ExitCode::from));
    };
    output::text_out(text)?;
    Ok(code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Reads the report to its end; a request to stop is passed on to the supervisor, which then takes all back.
fn relay(context: &Context, child: &mut Child) -> anyhow::Result<String> {
    let mut pipe = child.stdout.take().context("the supervisor has no standard output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let mut told = false;
    while !reader.is_finished() {
        if context.cancel.requested() && !told {
            told = true;
            let pid = rustix::process::Pid::from_child(child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("stopping the supervisor")?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let read =
        reader.join().map_err(|_| anyhow::anyhow!("the thread that listens to the supervisor panicked"))?;
    read.context("listening to the supervisor")
}

/// In the supervisor: a session of its own, so that the terminal's signals pass it by.
pub fn settle_in() -> anyhow::Result<()> {
    rustix::process::setsid().context("starting a session")?;
    Ok(())
}

/// In the supervisor, once all have started or nothing is left: reports, and lets go of the caller's streams.
pub fn report(context: &Context, report: &Report) -> anyhow::Result<()> {
    let code = report.status();
    let text = if context.json {
        report.json()?
    } else {
        output::text_err(&report.failures())?;
        report.ids()
    };
    let log = context.directories().run.join("supervisor.log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .with_context(|| format!("opening {}", log.display()))?;
    // Whoever has been told that the containers run must find them running: from here on nothing fails.
    {
        let mut out = io::stdout().lock();
        // The caller may be gone; the containers are not.
        let told = out.write_all(format!("{code}\n{text}").as_bytes()).and_then(|()| out.flush());
        if let Err(error) = told {
            tracing::warn!(%error, "nobody reads the report");
        }
    }
    for left in [rustix::stdio::dup2_stdout(&log), rustix::stdio::dup2_stderr(&log)] {
        if let Err(errno) = left {
            tracing::warn!(%errno, "the caller's streams stay open");
        }
    }
    Ok(())
}
