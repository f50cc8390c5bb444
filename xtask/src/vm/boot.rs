//! One kernel, booted under emulation, until it has said everything or its time is up.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::proc::{say, shown, tail};

/// A guest takes seconds on a quiet machine. One that hangs must not take the day.
const LIMIT: Duration = Duration::from_secs(300);

/// Everything the emulator can, but `cmpxchg16b`: interrupted inside it, QEMU 7.2 leaves the compared value in the
/// flags register, and the guest dies of a double fault in its slab allocator. On a machine with other work to do that
/// was every second boot of 6.12, and none of twelve without the instruction, which kernels know to replace.
pub(super) const CPU: &str = "max,-cx16";

/// The emulator crashes a guest now and then.
const ATTEMPTS: u32 = 3;

/// What a guest is made of.
pub(super) struct Machine<'a> {
    /// What its logs are called.
    pub(super) name: &'a str,
    pub(super) kernel: &'a Kernel,
    /// The emulator's arguments for processors and memory.
    pub(super) hardware: &'a [&'a str],
    pub(super) initramfs: &'a Path,
    pub(super) disk: Option<&'a Path>,
    pub(super) logs: &'a Path,
}

/// Everything the guest program printed, what the kernel printed, and the seconds from power on to power off.
pub(super) struct Said {
    pub(super) lines: Vec<String>,
    pub(super) console: String,
    pub(super) seconds: f64,
}

impl Machine<'_> {
    /// Boots it, again if it breaks before the guest program is done: as long as `read` makes nothing of what it said.
    /// What it made of it is never tried again.
    pub(super) fn run<T>(&self, read: impl Fn(&Said) -> Result<Option<T>>) -> Result<T> {
        for attempt in 1..=ATTEMPTS {
            let start = Instant::now();
            let (lines, ended) = self.boot()?;
            let console = fs::read(self.log("console")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let said = Said { lines, console, seconds: start.elapsed().as_secs_f64() };
            if let Some(made) = read(&said)? {
                return Ok(made);
            }
            say(format!("attempt {attempt} of {ATTEMPTS} broke off ({ended}); the end of its console:"));
            println!("{}", tail(&said.console, 15));
        }
        bail!("{} on {} did not get through, {ATTEMPTS} times", self.name, self.kernel.release);
    }

    fn log(&self, kind: &str) -> PathBuf {
        self.logs.join(format!("{}.{kind}", self.name))
    }

    /// Everything the guest program printed, and how the machine ended.
    fn boot(&self) -> Result<(Vec<String>, String)> {
        let mut command = self.command();
        let mut child = Guard(command.spawn().with_context(|| format!("cannot start {}", shown(&command)))?);
        let pipe = child.0.stdout.take().context("no pipe from the machine")?;
        let (line, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            // Nobody listens any more once the time is up.
            BufReader::new(pipe).split(b'\n').map_while(Result::ok).try_for_each(|text| line.send(text).ok())
        });
        let mut log = File::create(self.log("results"))?;
        let (mut said, deadline) = (Vec::new(), Instant::now() + LIMIT);
        let ended = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(text) => {
                    let text = String::from_utf8_lossy(&text).trim().to_owned();
                    writeln!(log, "{text}")?;
                    said.push(text);
                }
                Err(RecvTimeoutError::Disconnected) => break child.0.wait()?.to_string(),
                Err(RecvTimeoutError::Timeout) => break format!("stopped after {} s", LIMIT.as_secs()),
            }
        };
        drop(child);
        reader.join().map_err(|_| anyhow::anyhow!("the reading thread panicked"))?;
        Ok((said, ended))
    }

    fn command(&self) -> Command {
        // A machine nobody waits for any more ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg"]).args(self.hardware);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        command.args(["-append", "console=ttyS0 panic=-1"]);
        let file = |path: &Path| path.display().to_string().replace(',', ",,");
        command.args(["-serial", &format!("file:{}", self.log("console").display()), "-serial", "stdio"]);
        if let Some(disk) = self.disk {
            command.args(["-drive", &format!("file={},if=virtio,format=raw,snapshot=on", file(disk))]);
        }
        command.env("TMPDIR", self.logs);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// Ends the machine.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait()
            && let Err(error) = self.0.kill().and_then(|()| self.0.wait())
        {
            eprintln!("cannot end the virtual machine {}: {error}", self.0.id());
        }
    }
}
