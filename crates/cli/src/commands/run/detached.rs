//! `run -d`: the run goes on in a process of its own, the containers' supervisor, which tells this one when they
//! have started.
//!
//! ```text
//! plywood run -d ...                      plywood run -d ...   (marked, in its own session)
//!   starts it, standard output a pipe ──>   launches
//!   <── status line, report, end of file    all have started or failed
//!   prints, exits                           waits for the containers, records how they end, exits
//! ```
//! The status line is the caller's exit code and a [`Stay`]. A supervisor that ends is waited for: what it could not
//! take back is left over, and free for the next command to remove, only once it is gone.
//!
//! Before the status line, the supervisor fails as any command does: its errors are on the caller's standard error
//! and its exit code is the caller's.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use signal_hook::consts::{SIGKILL, SIGXCPU, SIGXFSZ};

use crate::args::SUPERVISE;
use crate::context::Context;
use crate::output;
use crate::remedy::{Advised, INTERRUPTED};

use super::report::Report;

/// What a supervisor does after its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It looks after the containers that run.
    Stays,
    /// It ends: nothing runs.
    Ends,
}

impl Stay {
    fn word(self) -> &'static str {
        match self {
            Stay::Stays => "stays",
            Stay::Ends => "ends",
        }
    }
}

/// In the caller: starts the supervisor with the same command line, and passes its report on.
///
/// `until_eof` hands our standard input on to it: the containers live until the end of that.
pub fn start(context: &Context, until_eof: bool) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        // Not an argument: where `run` ends and the container's command begins is for the parser alone to say.
        .env(SUPERVISE, "true")
        .stdin(if until_eof { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the supervisor")?;
    let report = relay(context, &mut child)?;
    let Some((code, text)) = report.split_once('\n') else {
        let status = child.wait().context("waiting for the supervisor")?;
        output::text_out(&report)?;
        if let Some(code) = status.code().and_then(|code| u8::try_from(code).ok()) {
            return Ok(ExitCode::from(code));
        }
        // One that is told to stop before it can listen is ended by the signal, and has done nothing yet.
        if context.cancel.requested() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let signal = status.signal().unwrap_or(0);
        return Err(Advised::new(
            format!("the supervisor of the containers was ended by signal {signal} before it reported"),
            died_of(signal),
        )
        .into());
    };
    let (code, stay) = code.split_once(' ').unwrap_or((code, Stay::Stays.word()));
    if stay == Stay::Ends.word() {
        child.wait().context("waiting for the supervisor")?;
    }
    output::text_out(text)?;
    Ok(code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What may have sent that signal, and what to do about it.
fn died_of(signal: i32) -> String {
    let cause = match signal {
        SIGXFSZ => "raise the limit on file sizes (`ulimit -f unlimited`, in a unit LimitFSIZE=infinity); ",
        SIGXCPU => "raise the limit on CPU time (`ulimit -t unlimited`, in a unit LimitCPU=infinity); ",
        SIGKILL => "see whether the kernel ended it for lack of memory (`dmesg`), or somebody by hand; ",
        _ => "",
    };
    format!("{cause}`plywood ps --all` takes away what it left, and shows what there is; then try again")
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
            match rustix::process::kill_process(pid, Signal::TERM) {
                // It has ended: how, its status says.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno).context("stopping the supervisor"),
            }
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

/// In the supervisor, once all have started or nothing is left: reports, and lets go of the caller's streams and working
/// directory. By now every path that the caller gave is resolved.
pub fn report(context: &Context, report: &Report, stay: Stay) -> anyhow::Result<()> {
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
        let line = format!("{code} {}\n{text}", stay.word());
        let told = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        if let Err(error) = told {
            tracing::warn!(%error, "nobody reads the report");
        }
    }
    for left in [rustix::stdio::dup2_stdout(&log), rustix::stdio::dup2_stderr(&log)] {
        if let Err(errno) = left {
            tracing::warn!(%errno, "the caller's streams stay open");
        }
    }
    if let Err(errno) = rustix::process::chdir("/") {
        tracing::warn!(%errno, "the caller's working directory stays in use");
    }
    Ok(())
}
