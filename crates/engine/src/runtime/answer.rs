//! A program's answer, waited for no longer than it may take.
//!
//! Its output goes to files, so that nobody it leaves behind with its streams keeps the caller waiting.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal};

/// How often the end of the program is looked for. Its first answer takes milliseconds.
const POLL: Duration = Duration::from_millis(1);

/// Runs `command` to its end. One that takes longer than `patience` is killed, with all of its process group.
///
/// # Errors
/// It cannot be run, or took too long: then the kind is [`io::ErrorKind::TimedOut`].
pub(super) fn within(patience: Duration, command: &mut Command) -> io::Result<Output> {
    let file = || rustix::fs::memfd_create("answer", MemfdFlags::CLOEXEC).map(File::from);
    let (mut stdout, mut stderr) = (file()?, file()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);
    let mut child = command.spawn()?;
    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            // Not waited for yet, so its pid is its own.
            let killed = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            killed?;
            let what = format!("no answer within {} s", patience.as_secs_f64());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(POLL);
    };
    let contents = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    Ok(Output { status, stdout: contents(&mut stdout)?, stderr: contents(&mut stderr)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_answer_is_not_waited_for_longer_than_it_may_take() {
        let output = within(Duration::from_secs(60), &mut shell("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        assert_eq!(output.status.code(), Some(3));

        let start = Instant::now();
        let error = within(Duration::from_millis(200), &mut shell("sleep 1000; true")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("no answer within 0.2 s"), "{error}");
        // Somebody else holds its output.
        let output = within(Duration::from_secs(60), &mut shell("sleep 30 & echo done")).unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
