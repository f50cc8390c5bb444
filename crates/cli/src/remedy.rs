//! Errors as people and machines read them: the chain of causes once, then what to do.

mod launch;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use plywood_engine::cgroup::CgroupError;
use plywood_engine::idrange::MachineIdsError;
use plywood_image::printable;
use plywood_kernel::{Kind, SyscallError};
use plywood_store::error::database_kind;
use plywood_store::{FetchError, FlatError, StateError};
use rustix::io::Errno;
use serde_json::json;

use crate::output;

mod fetch;

/// Exit code for arguments that make no sense together.
const WRONG_USAGE: u8 = 2;
const SEE_HELP: &str = "`plywood COMMAND --help` shows what is possible";
/// Exit code for everything else that fails.
const FAILED: u8 = 1;
/// Exit code of a command that somebody stopped, as a shell reports Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The arguments are wrong: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Somebody asked this command to stop: exit code 130.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// A failure with its remedy.
#[derive(Debug)]
pub struct Advised {
    what: String,
    remedy: String,
    of_usage: bool,
}

impl Advised {
    /// Says what failed, and what the user can do about it.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), of_usage: false }
    }

    /// The arguments are wrong, as with [`Usage`]: exit code 2.
    pub fn of_usage(self) -> Self {
        Self { of_usage: true, ..self }
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Advised {}

/// Prints the error with its causes and its remedy; answers with the exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    report_beside(error, json.then(serde_json::Map::new))
}

/// The same, for a command that has done something before it failed: one object of JSON holds both.
pub fn report_beside(
    error: &anyhow::Error,
    done: Option<serde_json::Map<String, serde_json::Value>>,
) -> ExitCode {
    let told = tell(error);
    if let Some(mut object) = done {
        object.insert("error".to_owned(), told);
        let _ = output::json(&object);
    }
    exit_code(std::slice::from_ref(error))
}

/// Of a file that somebody named for output, which the state root has nothing to do with.
pub fn of_file(error: std::io::Error, what: &str, path: &Path) -> anyhow::Error {
    let path = path.display();
    let remedy = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            format!("free space where that file is (`df {path}` shows its disk), or name one elsewhere")
        }
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            "name a file that can be written".to_owned()
        }
        std::io::ErrorKind::BrokenPipe => "let whoever reads it read to the end".to_owned(),
        _ => return anyhow::Error::from(error).context(format!("{what} to {path}")),
    };
    Advised::new(format!("{what} to {path}: {error}"), remedy).into()
}

/// Says it on standard error; answers with what JSON says.
fn tell(error: &anyhow::Error) -> serde_json::Value {
    let message = message(error);
    let remedy = remedy(error);
    // A name with a line break does not say what to do.
    let mut text = format!("plywood: {}\n", printable(&message));
    if let Some(remedy) = &remedy {
        text.push_str(&format!("  what to do: {}\n", printable(remedy)));
    }
    // Nobody is left to tell when standard error cannot be written.
    let _ = output::text_err(&text);
    json!({ "message": message, "remedy": remedy })
}

fn exit_code(errors: &[anyhow::Error]) -> ExitCode {
    let any =
        |is: fn(&(dyn std::error::Error + 'static)) -> bool| errors.iter().any(|error| error.chain().any(is));
    ExitCode::from(match errors {
        [] => return ExitCode::SUCCESS,
        _ if any(is_usage) => WRONG_USAGE,
        _ if any(is_cancelled) => INTERRUPTED,
        _ => FAILED,
    })
}

/// What could not be done of a command about several things. The others are done all the same.
#[derive(Debug, Default)]
pub struct Failures(Vec<anyhow::Error>);

impl Failures {
    /// What was done, if it was.
    pub fn keep<T>(&mut self, done: Result<T, impl Into<anyhow::Error>>) -> Option<T> {
        done.map_err(|error| self.0.push(error.into())).ok()
    }

    /// Ends the command: says what was done, `text` for people and `record` for machines, then what was not.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn report(self, json: bool, text: &str, mut record: serde_json::Value) -> anyhow::Result<ExitCode> {
        if !json {
            output::text_out(text)?;
        }
        let told: Vec<_> = self.0.iter().map(tell).collect();
        if json {
            if let Some(first) = told.first() {
                record["error"] = first.clone();
                record["errors"] = told.into();
            }
            output::json(&record)?;
        }
        Ok(exit_code(&self.0))
    }
}

impl Extend<anyhow::Error> for Failures {
    fn extend<T: IntoIterator<Item = anyhow::Error>>(&mut self, errors: T) {
        self.0.extend(errors);
    }
}

/// The command line cannot be read, or asks for help: says so; answers with the exit code.
pub fn unreadable(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when it cannot be printed.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // Where the parser gave up, only the words themselves tell how to answer.
    if std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let _ = output::json(&json!({ "error": { "message": message, "remedy": SEE_HELP } }));
    }
    ExitCode::from(WRONG_USAGE)
}

/// Whether it comes of a full disk.
pub fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let state: Option<&StateError> = cause.downcast_ref();
        let io: Option<&std::io::Error> = cause.downcast_ref();
        state.is_some_and(StateError::is_disk_full)
            || io.is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
    })
}

fn is_usage(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<Usage>() || cause.downcast_ref().is_some_and(|advised: &Advised| advised.of_usage)
}

fn is_cancelled(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<Interrupted>()
        || database_kind(cause) == Some(plywood_store::Kind::Interrupted)
        || matches!(cause.downcast_ref(), Some(FetchError::Cancelled))
        || matches!(cause.downcast_ref(), Some(FlatError::Cancelled))
        || matches!(cause.downcast_ref(), Some(CgroupError::Cancelled))
        || matches!(cause.downcast_ref(), Some(MachineIdsError::Cancelled))
}

fn message(error: &anyhow::Error) -> String {
    joined(error.chain())
}

/// An error and its causes on one line, each said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    joined(std::iter::successors(Some(error), |cause| cause.source()))
}

fn joined<'a>(causes: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn remedy(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(advised) = cause.downcast_ref::<Advised>() {
            return Some(advised.remedy.clone());
        }
        if let Some(remedy) = cause.downcast_ref().and_then(fetch::of) {
            return Some(remedy);
        }
        if let Some(advice) = launch::advice(cause) {
            return Some(advice);
        }
        if cause.is::<Usage>() {
            return Some(SEE_HELP.to_owned());
        }
        // Not the end if it knows nothing: one error may wrap another.
        if let Some(remedy) = of_refusal(cause) {
            return Some(remedy.to_owned());
        }
    }
    None
}

/// The kernel, or the database, said no.
fn of_refusal(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(call) = cause.downcast_ref() {
        return of_call(call);
    }
    // It speaks for what it wraps, which the chain then does not show.
    if let Some(StateError::Syscall(call)) = cause.downcast_ref() {
        return of_call(call);
    }
    if let Some(kind) = database_kind(cause) {
        return of_db(kind);
    }
    if let Some(errno) = cause.downcast_ref::<Errno>() {
        return match *errno {
            Errno::ROFS => Some(WRITABLE),
            errno => of_limit(errno.raw_os_error()),
        };
    }
    cause.downcast_ref().and_then(of_io)
}

fn of_call(call: &SyscallError) -> Option<&'static str> {
    of_limit(call.errno().raw_os_error()).or_else(|| of_kind(call.kind()))
}

/// Of a state root that is read-only.
pub const WRITABLE: &str = "make its file system writable (`findmnt --target DIR` shows it, `mount -o remount,rw`), or choose a \
                            state root that can be written to by --root";

/// Limits that have a name of their own.
fn of_limit(errno: i32) -> Option<&'static str> {
    match Errno::from_raw_os_error(errno) {
        Errno::MFILE => Some("raise the limit of open files: `ulimit -n 65536`, in a unit LimitNOFILE=65536"),
        Errno::NFILE => Some("raise the machine's limit of open files: `sysctl fs.file-max`"),
        _ => None,
    }
}

fn of_db(kind: plywood_store::Kind) -> Option<&'static str> {
    match kind {
        plywood_store::Kind::Exhausted => Some(fetch::FREE_SPACE),
        plywood_store::Kind::Denied => Some("run as root, with enough open files allowed (`ulimit -n`)"),
        plywood_store::Kind::ReadOnly => Some(WRITABLE),
        plywood_store::Kind::Damaged => Some(
            "move the state root away and begin a new one; what it held must be pulled or imported again",
        ),
        _ => None,
    }
}

fn of_kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Denied => Some("run as root with CAP_SYS_ADMIN; inside a container, in a privileged one"),
        Kind::Unsupported => Some("`plywood doctor` shows what this kernel can do and what is used instead"),
        Kind::Exhausted => Some(
            "free space on the state root's file system (`plywood prune`), or raise \
             /proc/sys/user/max_mnt_namespaces and max_user_namespaces",
        ),
        _ => None,
    }
}

fn of_io(error: &std::io::Error) -> Option<&'static str> {
    if let Some(remedy) = error.raw_os_error().and_then(of_limit) {
        return Some(remedy);
    }
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Some("run as root"),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(fetch::FREE_SPACE),
        std::io::ErrorKind::ReadOnlyFilesystem => Some(WRITABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_that_repeats_its_parent_is_said_once() {
        let error = anyhow::anyhow!("inner").context("outer: inner").context("top");
        assert_eq!(message(&error), "top: outer: inner");
    }

    #[test]
    fn advice_is_found_anywhere_in_the_chain() {
        let error = anyhow::Result::<()>::Err(Advised::new("a", "do b").into()).context("c").unwrap_err();
        assert_eq!(remedy(&error).unwrap(), "do b");
        assert_eq!(message(&error), "c: a");
    }
}
