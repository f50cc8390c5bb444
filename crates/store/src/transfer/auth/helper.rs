//! Credential helpers: programs named `docker-credential-<name>` that answer for a registry.
//!
//! `docker-credential-<name> get` reads the server's name from its standard input and prints
//! `{"ServerURL", "Username", "Secret"}`. The user name `<token>` marks the secret as an identity token.
//!
//! A helper may wait for a key chain that nobody unlocks. It runs in a process group of its own, has a time limit, and ends,
//! with all it has started, when the fetch does.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use plywood_image::printable;
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use super::credentials::Credential;
use crate::transfer::Cancel;
use crate::transfer::stoppable::Patient;

/// An answer is one small JSON object.
const MAX_ANSWER: u64 = 1 << 20;

/// How often to look whether a helper that has answered has ended.
const STEP: Duration = Duration::from_millis(10);

/// What helpers print when they simply do not know the server: an answer, not a failure.
const NOT_FOUND: &str = "credentials not found";

/// How a credential helper failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// The name is not a plain file name part, so it is not run.
    #[error("{0:?} is not the name of a credential helper")]
    Name(String),
    /// The program could not be run.
    #[error("cannot run {program}")]
    Run {
        /// The program, looked up in `PATH`.
        program: String,
        /// What starting it answered.
        #[source]
        source: io::Error,
    },
    /// The program said no.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// The first line it printed.
        message: String,
    },
    /// The program took too long, and was ended.
    #[error("{program} has not answered within {} s", .limit.as_secs_f32())]
    Timeout {
        /// The program.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// Stopped from outside; the program was ended.
    #[error("cancelled")]
    Cancelled,
    /// The program printed something else than credentials.
    #[error("{program} did not print credentials")]
    Answer {
        /// The program.
        program: String,
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper about a server, for as long as `limit` and `stop` let it. `None` when it knows nothing of it.
pub(super) fn get(
    helper: &str,
    server: &str,
    limit: Duration,
    stop: &Cancel,
) -> Result<Option<Credential>, HelperError> {
    if helper.is_empty() || !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err(HelperError::Name(helper.to_owned()));
    }
    ask(&format!("docker-credential-{helper}"), server, limit, stop)
}

fn ask(
    program: &str,
    server: &str,
    limit: Duration,
    stop: &Cancel,
) -> Result<Option<Credential>, HelperError> {
    let program = program.to_owned();
    let deadline = Instant::now() + limit;
    let (success, output) = run(&program, server, deadline, stop).map_err(|source| match source {
        _ if stop.is_cancelled() => HelperError::Cancelled,
        source if source.kind() == io::ErrorKind::TimedOut => {
            HelperError::Timeout { program: program.clone(), limit }
        }
        source => HelperError::Run { program: program.clone(), source },
    })?;
    if !success {
        let text = String::from_utf8_lossy(&output);
        if text.to_ascii_lowercase().contains(NOT_FOUND) {
            return Ok(None);
        }
        let line: String = text.lines().next().unwrap_or("no message").trim().chars().take(300).collect();
        let message = printable(&line).to_string();
        return Err(HelperError::Failed { program, message });
    }
    let Answer { username, secret } =
        serde_json::from_slice(&output).map_err(|source| HelperError::Answer { program, source })?;
    Ok(Some(match username.as_str() {
        "<token>" => Credential::IdentityToken(secret),
        _ => Credential::Password { username, password: secret },
    }))
}

/// Whether the program succeeded, and what it printed.
fn run(program: &str, server: &str, deadline: Instant, stop: &Cancel) -> io::Result<(bool, Vec<u8>)> {
    let mut helper = Running::start(program)?;
    if let Some(mut stdin) = helper.child.stdin.take() {
        // Never waits: a server's name is far shorter than what a pipe holds. A helper may answer without reading its
        // input; its exit status is what counts.
        match stdin.write_all(server.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = helper.child.stdout.take() {
        let stdout = File::from(OwnedFd::from(stdout));
        Patient::new(&stdout, stop).until(deadline).take(MAX_ANSWER).read_to_end(&mut output)?;
    }
    Ok((helper.wait(deadline, stop)?.success(), output))
}

/// A helper that is ended, and waited for, unless it has ended by itself.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    fn start(program: &str) -> io::Result<Running> {
        let child = Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Running { child, ended: false })
    }

    /// It has said what it had to say, but its exit status is missing.
    fn wait(&mut self, deadline: Instant, stop: &Cancel) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            if stop.wait(STEP) {
                return Err(io::Error::other("cancelled"));
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Not waited for yet, so the number is still its own.
        let killed = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let waited = self.child.wait();
        if killed.is_err() || waited.is_err() {
            tracing::warn!(?killed, ?waited, "a credential helper may still run");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    use super::*;

    fn ask_script(script: &str) -> Result<Option<Credential>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask(program.to_str().unwrap(), "reg.corp", Duration::from_secs(30), &Cancel::new())
    }

    /// A helper that says who it and its child are, and then waits for something that does not come.
    fn waiting(dir: &Path) -> PathBuf {
        let program = dir.join("docker-credential-waiting");
        let script = format!(
            "#!/bin/sh\nsleep 60 &\necho $$ $! > {0}/new && mv {0}/new {0}/pids\nwait\n",
            dir.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// The helper has been waited for, and its child, which is init's to wait for, was ended, too.
    fn assert_gone(dir: &Path) {
        let pids = std::fs::read_to_string(dir.join("pids")).unwrap();
        let (helper, child) = pids.trim().split_once(' ').unwrap();
        assert!(!Path::new("/proc").join(helper).exists());
        let stat = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let since = Instant::now();
        while !(stat().is_empty() || stat().contains(") Z ")) {
            assert!(since.elapsed() < Duration::from_secs(5), "{}", stat());
            std::thread::sleep(STEP);
        }
    }

    /// Nothing bounded the wait for a helper, and a failure in the middle left it running.
    #[test]
    fn a_helper_that_does_not_answer_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = waiting(dir.path());
        let since = Instant::now();
        let answer = ask(program.to_str().unwrap(), "reg.corp", Duration::from_secs(2), &Cancel::new());
        assert!(matches!(&answer, Err(HelperError::Timeout { .. })), "{answer:?}");
        assert!(answer.unwrap_err().to_string().ends_with("has not answered within 2 s"));
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        assert_gone(dir.path());
    }

    #[test]
    fn a_helper_ends_when_nobody_waits_for_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let program = waiting(dir.path());
        let stop = Cancel::new();
        std::thread::scope(|scope| {
            let asking =
                scope.spawn(|| ask(program.to_str().unwrap(), "reg.corp", Duration::from_secs(50), &stop));
            let since = Instant::now();
            while !dir.path().join("pids").exists() && since.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(STEP);
            }
            stop.cancel();
            assert!(matches!(asking.join().unwrap(), Err(HelperError::Cancelled)));
            assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
        });
        assert_gone(dir.path());
    }

    /// One that has answered and closed its output, but stays.
    #[test]
    fn a_helper_that_stays_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = waiting(dir.path());
        let script = std::fs::read_to_string(&program).unwrap().replace("wait", "exec >&-; wait");
        std::fs::write(&program, script).unwrap();
        let answer = ask(program.to_str().unwrap(), "reg.corp", Duration::from_secs(2), &Cancel::new());
        assert!(matches!(&answer, Err(HelperError::Timeout { .. })), "{answer:?}");
        assert_gone(dir.path());
    }

    #[test]
    fn a_helper_answers() {
        let found =
            ask_script(r#"read s; printf '{"ServerURL":"%s","Username":"u","Secret":"%s"}' "$s" "$s$1""#);
        let expected = Credential::Password { username: "u".into(), password: "reg.corpget".into() };
        assert_eq!(found.unwrap(), Some(expected));
        let token = ask_script(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(token.unwrap(), Some(Credential::IdentityToken("t".into())));
    }

    #[test]
    fn not_knowing_is_an_answer_and_failing_is_not() {
        assert_eq!(ask_script("echo credentials not found in native keychain; exit 1").unwrap(), None);
        let failed = ask_script("echo keychain is locked; exit 1").unwrap_err();
        assert!(failed.to_string().contains("keychain is locked"), "{failed}");
        let escapes = ask_script(r"printf '\033]0;title\007'; exit 1").unwrap_err();
        assert!(escapes.to_string().ends_with(r"failed: \u{1b}]0;title\u{7}"), "{escapes}");
        assert!(matches!(ask_script("echo nonsense"), Err(HelperError::Answer { .. })));
        let get_one = |helper| get(helper, "x", Duration::from_secs(30), &Cancel::new());
        assert!(matches!(get_one("../../bin/sh"), Err(HelperError::Name(_))));
        assert!(matches!(get_one("surely-absent"), Err(HelperError::Run { .. })));
    }
}
