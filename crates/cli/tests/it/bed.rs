//! One test's world: a state root, a mount namespace with its own `/run`, and the command to test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use plywood_kernel::testing::{in_private_mount_ns, in_shared_mount_ns, require_root};
use plywood_kernel::{FsContext, MountAttrs};
use rustix::fs::CWD;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::host::{Containers, Host};
use super::layout::{Layout, TestImage, text};

/// No command of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What somebody who presses Ctrl-C is asked to wait, and what is taken back within it; far more than it takes.
const PROMPT: Duration = Duration::from_secs(30);

/// A state root of its own.
pub(crate) struct Bed {
    scratch: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

/// Runs a test in a bed, and compares the host before and after.
pub(crate) fn in_bed(test: impl FnOnce(&Bed) + Send) {
    require_root();
    in_private_mount_ns(|| make(test));
}

/// The same on a host whose mounts are shared, as systemd makes them: what a namespace made from it mounts, it mounts.
pub(crate) fn in_shared_bed(test: impl FnOnce(&Bed) + Send) {
    require_root();
    in_shared_mount_ns(|| make(test));
}

fn make(test: impl FnOnce(&Bed)) {
    // The host keeps neither our directories in /run, nor do tests see each other's.
    let tmpfs = FsContext::open("tmpfs").unwrap();
    tmpfs.create().unwrap();
    tmpfs.mount(MountAttrs::NONE).unwrap().attach(CWD, "/run").unwrap();
    let bed = Bed { scratch: tempfile::Builder::new().prefix("plywood-it-").tempdir().unwrap() };
    let containers = Containers::note(&bed.root());
    let before = Host::snapshot(&containers, &bed.root());
    test(&bed);
    bed.expect_empty();
    Host::expect(&before, &containers, &bed.root());
}

impl Bed {
    /// The state root.
    pub(crate) fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// A path beside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `plywood --root ...`, not yet started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.arg("--root").arg(self.root()).args(args).stdin(Stdio::null()).env_remove("PLYWOOD_LOG");
        command
    }

    /// Runs `plywood` to its end.
    #[track_caller]
    pub(crate) fn plywood(&self, args: &[&str]) -> Done {
        start(self.command(args)).finish()
    }

    /// Starts `plywood`.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        start(self.command(args))
    }

    /// Runs `plywood`, which must succeed; answers what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.plywood(args).ok()
    }

    /// Runs `plywood --json`, which must succeed and print one object.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        self.plywood(&[&["--json"], args].concat()).check(0).json()
    }

    /// Runs `plywood`, which must fail with this exit code; answers what it wrote on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        self.plywood(args).check(code).stderr
    }

    /// Imports the image as `name`.
    #[track_caller]
    pub(crate) fn import(&self, image: &TestImage, name: &str) -> Layout {
        let layout = image.write(&self.path(&format!("layout-{name}")), name);
        self.ok(&["import", text(layout.path())]);
        layout
    }

    /// The containers `ps --all` lists.
    #[track_caller]
    pub(crate) fn containers(&self) -> Vec<Value> {
        self.json(&["ps", "--all"])["containers"].as_array().unwrap().clone()
    }

    /// Names below the state root, sorted; none if there is no such directory.
    pub(crate) fn listed(&self, below: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root().join(below)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Nothing of a container is left in the state root.
    #[track_caller]
    pub(crate) fn expect_empty(&self) {
        let places = [
            "snapshots",
            "scratch",
            "trash",
            "blobs/ingest",
            "run/bundles",
            "run/pids",
            "run/runc",
            "run/crun",
        ];
        for place in places {
            assert_eq!(self.listed(place), Vec::<String>::new(), "left in {place}");
        }
        if self.root().join("plywood.db").exists() {
            assert_eq!(self.containers(), Vec::<Value>::new());
        }
    }
}

impl Drop for Bed {
    /// A test that failed half-way still leaves the machine clean.
    fn drop(&mut self) {
        if std::thread::panicking() && self.root().exists() {
            let _best_effort = self.command(["rm", "--all", "--force"]).output();
        }
    }
}

/// Starts a command with its output in files: they never fill up, and nobody who inherits them keeps us waiting.
pub(crate) fn start(mut command: Command) -> Running {
    let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let child = command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap()).spawn();
    Running { child: child.unwrap_or_else(|e| panic!("{command:?}: {e}")), stdout, stderr }
}

impl Running {
    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it can be interrupted: before that it has done nothing.
    pub(crate) fn ready(self) -> Running {
        let status = format!("/proc/{}/status", self.child.id());
        eventually("SIGINT is handled", || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            // A process that has ended, reaped or not, shows none any more.
            let caught = caught.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
            (caught & 0b10 != 0 || status.contains("(zombie)")).then_some(())
        });
        self
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        written(&self.stdout)
    }

    /// What it has written on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        written(&self.stderr)
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for it, and panics if that takes too long.
    #[track_caller]
    pub(crate) fn finish(self) -> Done {
        self.finish_within(PATIENCE)
    }

    /// Asks it to stop, and panics unless it does so soon.
    #[track_caller]
    pub(crate) fn interrupt(self, signal: Signal) -> Done {
        self.signal(signal);
        self.finish_within(PROMPT)
    }

    #[track_caller]
    fn finish_within(mut self, patience: Duration) -> Done {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Done { status, stdout: written(&self.stdout), stderr: written(&self.stderr) };
            }
            if Instant::now() > until {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!(
                    "does not end within {patience:?}\n{}\n{}",
                    written(&self.stdout),
                    written(&self.stderr)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Done {
    /// It must have ended with this exit code.
    #[track_caller]
    pub(crate) fn check(self, code: i32) -> Done {
        assert_eq!(self.status.code(), Some(code), "\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// It must have succeeded; answers what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.check(0).stdout
    }

    /// Its standard output, which must be one JSON object on one line and nothing else.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {:?}\n{}", self.stdout, self.stderr));
        assert!(value.is_object() && self.stdout.trim_end().lines().count() == 1, "{}", self.stdout);
        value
    }
}

fn written(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Looks again and again until there is something, and panics if that does not come.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
