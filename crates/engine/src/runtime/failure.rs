//! What a runtime said when it failed, and what that means for the container's exit code.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// The most of a log that is read, in bytes from its end: the last error is the one it failed of.
const LOG_BYTES: u64 = 256 << 10;

/// How many lines of output join an error.
const LINES: usize = 5;

/// A failure to start a container, as the runtime reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, as far as it can be told.
    pub kind: FailureKind,
    /// The runtime's own words.
    pub message: String,
}

/// What went wrong when starting a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The command is not in the image.
    CommandNotFound,
    /// The command cannot be executed.
    CommandNotExecutable,
    /// Anything else: the runtime, the kernel, the host.
    Runtime,
}

impl Failure {
    /// Reads the meaning out of a runtime's message.
    pub fn from_message(message: &str) -> Failure {
        let kind = match message.rsplit_once("exec: ").or_else(|| message.rsplit_once("executable file ")) {
            Some((_, rest)) if rest.contains("not found") || rest.contains("no such file or directory") => {
                FailureKind::CommandNotFound
            }
            Some((_, rest)) if rest.contains("permission denied") || rest.contains("format error") => {
                FailureKind::CommandNotExecutable
            }
            _ => FailureKind::Runtime,
        };
        Failure { kind, message: message.to_owned() }
    }

    /// 127 if there is no such command, 126 if it cannot be executed, 125 for anything else, as Docker and Podman do.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            FailureKind::CommandNotFound => 127,
            FailureKind::CommandNotExecutable => 126,
            FailureKind::Runtime => 125,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The failure recorded in a runtime's JSON log at `path`; `None` if there is no log or nothing failed.
pub fn read_log(path: &Path) -> io::Result<Option<Failure>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    // In the middle of a line as a rule, which is then none.
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(failure_in(&bytes))
}

/// The last error of a log of JSON lines; the last line as it is, if none can be read.
fn failure_in(log: &[u8]) -> Option<Failure> {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        msg: String,
    }
    let lines: Vec<Line> =
        log.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    if lines.is_empty() && !log.trim_ascii().is_empty() {
        return Some(Failure::from_message(&last_lines(log)));
    }
    let failed = |line: &&Line| matches!(line.level.as_str(), "error" | "fatal" | "panic");
    lines.iter().rev().find(failed).map(|line| Failure::from_message(line.msg.trim()))
}

/// The last few lines of a program's output, joined by `; `, control characters dropped.
pub fn last_lines(output: &[u8]) -> String {
    let tail = &output[output.len().saturating_sub(4096)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|character| !character.is_control()).collect::<String>())
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_mean_what_runtimes_mean_by_them() {
        let table = [
            (
                r#"runc run failed: unable to start container process: exec: "nosuch": executable file not found in $PATH"#,
                127,
            ),
            (
                r#"runc run failed: unable to start container process: exec: "/x": stat /x: no such file or directory"#,
                127,
            ),
            (r#"runc run failed: unable to start container process: exec: "/etc": permission denied"#, 126),
            ("exec /bin/junk: exec format error", 125),
            ("exec: /bin/junk: exec format error", 126),
            ("executable file `nosuch` not found in $PATH: No such file or directory", 127),
            ("runc run failed: container with given ID already exists", 125),
            ("rootfs_linux.go: mount /x: no such file or directory", 125),
        ];
        for (message, code) in table {
            assert_eq!(Failure::from_message(message).exit_code(), code, "{message}");
        }
    }

    #[test]
    fn the_last_error_of_a_log_counts() {
        let log = b"{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"one\"}\n\
            {\"level\":\"error\",\"msg\":\"two\"}\n{\"level\":\"info\",\"msg\":\"i\"}\n";
        assert_eq!(failure_in(log).unwrap().message, "two");
        assert_eq!(failure_in(b"{\"level\":\"warning\",\"msg\":\"w\"}\n"), None);
        assert_eq!(failure_in(b""), None);
        assert_eq!(failure_in(b"plain words\n").unwrap().message, "plain words");
    }

    /// A runtime that had said more than is read of it failed without a word.
    #[test]
    fn of_a_long_log_the_end_is_read() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let debug = br#"{"level":"debug","msg":"mounting"}"#;
        let mut bytes = [&debug[..], b"\n"].concat().repeat(20_000);
        bytes.extend(br#"{"level":"error","msg":"what it was"}"#);
        std::fs::write(log.path(), &bytes).unwrap();
        assert!(bytes.len() as u64 > 2 * LOG_BYTES);
        assert_eq!(read_log(log.path()).unwrap().unwrap().message, "what it was");
        std::fs::remove_file(log.path()).unwrap();
        assert_eq!(read_log(log.path()).unwrap(), None);
    }

    #[test]
    fn output_is_cut_to_its_last_lines() {
        assert_eq!(last_lines(b"1\n2\n3\n4\n5\n6\n\n"), "2; 3; 4; 5; 6");
        assert_eq!(last_lines(b"\x1b[31mred\n"), "[31mred");
        assert_eq!(last_lines(b"\n"), "it said nothing");
    }

    proptest! {
        #[test]
        fn no_output_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(!last_lines(&bytes).chars().any(char::is_control));
            let _ = failure_in(&bytes);
        }
    }
}
