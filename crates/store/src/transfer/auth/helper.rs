//! Credential helpers: programs named `docker-credential-<name>` that answer for a registry.
//!
//! `docker-credential-<name> get` reads the server's name from its standard input and prints
//! `{"ServerURL", "Username", "Secret"}`. The user name `<token>` marks the secret as an identity token.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use plywood_image::printable;
use serde::Deserialize;

use super::credentials::Credential;

/// An answer is one small JSON object.
const MAX_ANSWER: u64 = 1 << 20;

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
        source: std::io::Error,
    },
    /// The program said no.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// The first line it printed.
        message: String,
    },
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

/// Asks the helper about a server. `None` when it knows nothing of it.
pub(super) fn get(helper: &str, server: &str) -> Result<Option<Credential>, HelperError> {
    if helper.is_empty() || !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err(HelperError::Name(helper.to_owned()));
    }
    ask(&format!("docker-credential-{helper}"), server)
}

fn ask(program: &str, server: &str) -> Result<Option<Credential>, HelperError> {
    let program = program.to_owned();
    let (success, output) =
        run(&program, server).map_err(|source| HelperError::Run { program: program.clone(), source })?;
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
fn run(program: &str, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading its input; its exit status is what counts.
        match stdin.write_all(server.as_bytes()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut output)?;
    }
    Ok((child.wait()?.success(), output))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn ask_script(script: &str) -> Result<Option<Credential>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask(program.to_str().unwrap(), "reg.corp")
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
        assert!(matches!(get("../../bin/sh", "x"), Err(HelperError::Name(_))));
        assert!(matches!(get("surely-absent", "x"), Err(HelperError::Run { .. })));
    }
}
