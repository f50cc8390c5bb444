//! A running containerd, gone with its shims and containers when its handle is dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cgroup::{self, Groups};
use super::tree::{BUSYBOX, Tree};
use super::{config, image};
use crate::proc::{find_program, is_root, output, remove_dir, tail};

/// How long it may take to listen; it takes some twenty milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the names of its directories and control groups begin with; the number of the process that started it follows.
const PREFIX: &str = "plywood-containerd-";

/// The namespace in which the CRI plugin looks for images.
const CRI_NAMESPACE: &str = "k8s.io";

/// What can be chosen.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// More configuration, in TOML: tables only, since it stands at the end.
    pub config: String,
    /// Whether to import the image that pods are made from.
    pub pods: bool,
}

/// A running containerd.
#[derive(Debug)]
pub struct Server {
    /// containerd itself.
    child: Child,
    dir: PathBuf,
    tree: Tree,
    /// Its shims and containers are in them. Dropped last.
    groups: Groups,
}

impl Server {
    /// Starts it, with a directory of its own for all its files, and waits until it answers. The thread that calls
    /// this must outlive it: containerd is killed when its parent ends. What it has started is killed with it, or, if the
    /// parent was killed itself, by the next start.
    pub fn start(tree: Tree, settings: &Settings) -> Result<Server> {
        if !is_root() {
            bail!(
                "containerd needs root; type:\n\n    sudo -E env \"PATH=$PATH\" cargo xtask containerd --start\n"
            );
        }
        sweep()?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let groups = Groups::make(&name)?;
        let dir = std::env::temp_dir().join(&name);
        // The root of a container with an id mapping has to get through to its root file system.
        fs::DirBuilder::new()
            .mode(0o711)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let child = match spawn(&tree, &dir, &groups, settings) {
            Ok(child) => child,
            Err(error) => {
                remove_dir(&dir)?;
                return Err(error);
            }
        };
        let mut server = Server { child, dir, tree, groups };
        server.wait_until_ready()?;
        if settings.pods {
            let layout = server.dir.join("pause");
            image::small(&layout, config::PAUSE, 1, &["/bin/sleep", "1000000"])?;
            server.import(&layout, CRI_NAMESPACE)?;
        }
        Ok(server)
    }

    /// Its gRPC socket, for containerd's own services and for CRI's.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Its process, whose mount namespace is the one where it mounts.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory; the same path names it inside its mount namespace.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tree it runs from.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Imports the images of an OCI layout directory into a namespace, by its own `ctr`.
    pub fn import(&self, layout: &Path, namespace: &str) -> Result<()> {
        let archive = self.dir.join("import.tar");
        output(
            Command::new("tar")
                .arg("--directory")
                .arg(layout)
                .arg("--create")
                .arg("--file")
                .arg(&archive)
                .arg("."),
        )?;
        output(self.ctr(namespace).args(["images", "import", "--no-unpack"]).arg(&archive))?;
        fs::remove_file(archive)?;
        Ok(())
    }

    /// Its own `ctr`, to be given arguments.
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut command = self.command("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        command
    }

    /// A program of the tree in all its namespaces.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--mount", "--net", "--root", "--wd", "--"]);
        command.arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin");
        command
    }

    /// Everything of it that runs: itself, its shims, the containers.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.groups.processes()
    }

    /// The mounts of its mount namespace, a line each.
    pub fn mounts(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(format!("/proc/{}/mountinfo", self.pid()))?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Its control groups, one in each hierarchy; its containers' groups are below them.
    pub fn control_groups(&self) -> Vec<PathBuf> {
        self.groups.0.iter().map(|bind| bind.source.clone()).collect()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("errors")).unwrap_or_default()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let log = self.log();
            // The CRI plugin answers a little later than all others.
            let ready =
                log.contains("containerd successfully booted") && log.contains("Start streaming server");
            if ready && UnixStream::connect(self.socket()).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended with {status}:\n{}\n{}", tail(&log, 20), self.errors());
            }
            if start.elapsed() > PATIENCE {
                bail!("containerd does not listen:\n{}\n{}", tail(&log, 20), self.errors());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.groups.kill()?;
        remove_dir(&self.dir)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop containerd {}: {error:#}", self.pid());
        }
    }
}

fn spawn(tree: &Tree, dir: &Path, groups: &Groups, settings: &Settings) -> Result<Child> {
    fs::create_dir(dir.join("cni"))?;
    fs::write(dir.join("cni/10-plywood.conflist"), config::cni(dir))?;
    fs::write(dir.join("config.toml"), config::toml(dir, &settings.config))?;
    fs::write(dir.join("init.sh"), config::script(tree.dir(), dir, &groups.daemon()?, &groups.0))?;
    let unshare = find_program("unshare").context("there is no unshare; type: cargo xtask setup")?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(unshare)
        .args(["--mount", "--net", "--propagation", "private", "--"])
        .arg(tree.dir().join(BUSYBOX))
        .arg("sh")
        .arg(dir.join("init.sh"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("errors"))?)
        .spawn()
        .context("cannot start containerd")
}

/// Removes what tests left that were killed. Their containerds were killed with them, shims and containers are now.
fn sweep() -> Result<()> {
    cgroup::sweep(PREFIX)?;
    for entry in fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        if is_stale(&entry.file_name(), PREFIX) {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether something is named for a process that has ended.
pub(super) fn is_stale(name: &OsStr, prefix: &str) -> bool {
    let pid = |name: &OsStr| name.to_str()?.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok();
    pid(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_for_an_ended_process_is_stale() {
        let stale = |name: &str| is_stale(OsStr::new(name), PREFIX);
        assert!(stale("plywood-containerd-4194305-0"));
        assert!(!stale(&format!("plywood-containerd-{}-0", std::process::id())));
        assert!(!stale("plywood-containerd-x") && !stale("plywood-4194305-0"));
    }

    /// All that the other crates' tests rely on: it starts, its programs answer, and nothing of it stays.
    #[test]
    fn root_every_containerd_starts_and_leaves_nothing() {
        plywood_kernel::testing::require_root();
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        for suite in super::super::SUITES {
            let server = Server::start(Tree::open(suite).unwrap(), &Settings::default()).unwrap();
            let layout = server.dir().join("layout");
            image::small(&layout, "plywood.test/small:latest", 3, &["/bin/true"]).unwrap();
            server.import(&layout, "default").unwrap();
            let images = output(server.ctr("default").args(["images", "list", "--quiet"])).unwrap();
            assert_eq!(images.trim(), "plywood.test/small:latest", "{suite}");
            assert_eq!(server.processes().unwrap(), [server.pid()], "{suite}");
            let (dir, groups, pid) = (server.dir().to_path_buf(), server.control_groups(), server.pid());
            drop(server);
            assert!(!dir.exists() && !Path::new(&format!("/proc/{pid}")).exists(), "{suite}");
            assert!(groups.iter().all(|group| !group.exists()), "{suite}: {groups:?}");
        }
        assert_eq!(mounts(), before);
    }
}
