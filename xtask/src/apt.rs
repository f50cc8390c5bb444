//! An apt root of its own, with Debian's other suites: nothing of the machine's apt is changed, nothing installed.
//!
//! The mirror is the one the machine's own apt is configured with; signatures are checked with Debian's keyring.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::proc::{output, run, say, target_dir};

/// What Debian offers, from the oldest to the newest.
const SUITES: [&str; 5] = ["bookworm", "trixie", "trixie-backports", "sid", "experimental"];

/// The package debian-archive-keyring brings it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists older than this are fetched again before something is downloaded: mirrors delete what they replaced.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The apt root.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    mirror: Option<String>,
    update: bool,
    names: Option<Vec<String>>,
    /// Held from the first use: apt itself does not wait for another that uses its lists.
    lock: Option<File>,
}

impl Root {
    /// The one below the target directory; nothing is done yet. `update` fetches the lists even if they are fresh.
    pub fn new(mirror: Option<String>, update: bool) -> Self {
        Self { dir: target_dir().join("apt"), mirror, update, names: None, lock: None }
    }

    /// Names of all kernel packages there are.
    pub fn kernel_packages(&mut self) -> Result<&[String]> {
        if self.names.is_none() {
            self.refresh()?;
            let names = output(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
            self.names = Some(names.lines().map(str::to_owned).collect());
        }
        Ok(self.names.as_deref().unwrap_or_default())
    }

    /// Downloads packages and all they need, as a suite has them, into a directory.
    pub fn download_all(&mut self, suite: &str, packages: &[&str], into: &Path) -> Result<()> {
        self.refresh()?;
        fs::create_dir_all(into.join("partial"))?;
        let archives = format!("Dir::Cache::archives={}", into.display());
        let mut command = self.command("apt-get");
        command.args(["-q", "-y", "-o", &archives, "--target-release", suite]);
        output(command.args(["install", "--download-only", "--no-install-recommends"]).args(packages))
            .map(drop)
    }

    /// Downloads packages, of a suite where they are named `package/suite`, into a directory.
    pub fn download(&mut self, packages: &[String], into: &Path) -> Result<()> {
        self.refresh()?;
        let mut command = self.command("apt-get");
        run(command.current_dir(into).args(["-q", "download"]).args(packages))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("--config-file").arg(self.dir.join("apt.conf"));
        command
    }

    fn refresh(&mut self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.dir.join(part))?;
        }
        let lock = File::create(self.dir.join("lock"))?;
        lock.lock().context("waiting for another task that uses the package lists")?;
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; type:\n\n    sudo apt-get install debian-archive-keyring\n");
        }
        let mirror = match &self.mirror {
            Some(mirror) => mirror.clone(),
            None => host_mirror()?,
        };
        let (sources, stamp) = (sources(&mirror), self.dir.join("updated"));
        let before = fs::read_to_string(self.dir.join("sources.list")).unwrap_or_default();
        fs::write(self.dir.join("sources.list"), &sources)?;
        fs::write(self.dir.join("state/status"), "")?;
        fs::write(self.dir.join("apt.conf"), configuration(&self.dir))?;
        if before != sources || self.update || !is_fresh(&stamp) {
            say(format!("package lists of {}", SUITES.join(", ")));
            run(self.command("apt-get").args(["-q", "update"]))?;
            fs::write(stamp, "")?;
        }
        self.lock = Some(lock);
        Ok(())
    }
}

fn is_fresh(stamp: &Path) -> bool {
    let age = |stamp: &Path| {
        SystemTime::now().duration_since(fs::metadata(stamp)?.modified()?).map_err(std::io::Error::other)
    };
    age(stamp).is_ok_and(|age| age < FRESH)
}

/// Packages only: this machine's apt may be configured to fetch icons and translations as well.
fn sources(mirror: &str) -> String {
    let line =
        |suite| format!("deb [arch=amd64 target=Packages signed-by={KEYRING}] {mirror} {suite} main\n");
    SUITES.iter().map(line).collect()
}

/// The machine's own settings (a proxy, for instance) stay in force; what it runs after updates does not.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures \"amd64\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Retries \"3\";\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n"
    )
}

fn host_mirror() -> Result<String> {
    let format = "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(COMPONENT)";
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--no-release-info",
        "--format",
        format,
        "Created-By: Packages",
    ]))
    .or_else(|_| {
        output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))
    })?;
    debian_mirror(&targets)
        .context("this machine's apt uses no mirror of Debian; name one: --mirror http://MIRROR/debian")
}

/// The first that calls itself Debian's main archive, or whose path says so where lists were never fetched.
fn debian_mirror(targets: &str) -> Option<String> {
    let fields = |line: &str| {
        let mut fields = line.split('|').map(str::to_owned);
        Some([fields.next()?, fields.next()?, fields.next()?])
    };
    let targets: Vec<[String; 3]> =
        targets.lines().filter_map(fields).filter(|[uri, ..]| uri.starts_with("http")).collect();
    let says_so = |target: &&[String; 3]| target[1] == "Debian" && target[2] == "Debian";
    let looks_so = |target: &&[String; 3]| target[0].trim_end_matches('/').ends_with("/debian");
    targets
        .iter()
        .find(says_so)
        .or_else(|| targets.iter().find(looks_so))
        .map(|[uri, ..]| uri.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_main_archive_this_machine_uses() {
        let cases = [
            ("http://m.example/debian/|Debian|Debian|main", Some("http://m.example/debian")),
            (
                "http://m.example/x/|Debian|Debian-Security|main\nhttp://m.example/y/|Debian|Debian|main",
                Some("http://m.example/y"),
            ),
            ("http://m.example/debian/|$(ORIGIN)|$(LABEL)|main", Some("http://m.example/debian")),
            ("http://m.example/ubuntu/|Ubuntu|Ubuntu|main", None),
            ("cdrom://x/debian/|Debian|Debian|main", None),
            ("", None),
        ];
        for (targets, mirror) in cases {
            assert_eq!(debian_mirror(targets).as_deref(), mirror, "{targets}");
        }
    }

    #[test]
    fn every_suite_is_signed() {
        let text = sources("http://m.example/debian");
        assert_eq!(text.lines().count(), SUITES.len());
        assert!(
            text.lines()
                .all(|line| line.contains("signed-by=/") && line.contains("http://m.example/debian "))
        );
    }
}
