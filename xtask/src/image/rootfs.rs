//! The root file system an image is made of: a Debian or Ubuntu base by mmdebstrap, then packages by apt, one layer's at a time.
//!
//! Packages come from where the host's own come from: the running apt configuration names the archives. All
//! mounts are made in private mount namespaces, so the host's mount table stays as it is.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::proc::output;

/// The distribution's own components; anything else in the apt configuration is somebody else's archive.
const COMPONENTS: &[&str] = &["main", "universe"];

/// The host's distribution and the archives it installs from.
#[derive(Debug)]
pub(crate) struct Distribution {
    pub(crate) pretty_name: String,
    pub(crate) codename: String,
    pub(crate) architecture: String,
    sources: Vec<String>,
    proxies: Vec<(&'static str, String)>,
}

impl Distribution {
    /// Reads `/etc/os-release` and the running apt configuration.
    pub(crate) fn of_host() -> Result<Distribution> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename =
            os_release(&release, "VERSION_CODENAME").context("no VERSION_CODENAME in /etc/os-release")?;
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let sources = sources(&targets, &codename);
        if sources.is_empty() {
            bail!(
                "apt is configured with no archive of {codename}: check /etc/apt/sources.list and sources.list.d"
            );
        }
        let mut proxies = Vec::new();
        for (variable, option) in
            [("http_proxy", "Acquire::http::Proxy"), ("https_proxy", "Acquire::https::Proxy")]
        {
            let shell = output(Command::new("apt-config").args(["shell", "value", option]))?;
            if let Some(value) = shell.trim().strip_prefix("value=") {
                proxies.push((variable, value.trim_matches('\'').to_string()));
            }
        }
        Ok(Distribution {
            pretty_name: os_release(&release, "PRETTY_NAME").unwrap_or_else(|| codename.clone()),
            codename,
            architecture: output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_string(),
            sources,
            proxies,
        })
    }
}

fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_string())
}

/// Lines for a sources.list, from apt's index targets: the distribution's own suites and components.
fn sources(targets: &str, codename: &str) -> Vec<String> {
    let suites = ["", "-updates", "-security"].map(|pocket| format!("{codename}{pocket}"));
    let mut lines: Vec<String> = Vec::new();
    for target in targets.lines() {
        let mut words = target.split(' ');
        let (Some(uri), Some(suite), Some(component)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let line = format!("deb {uri} {suite} {component}");
        let ours = suites.iter().any(|s| s == suite) && COMPONENTS.contains(&component);
        if ours && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// A package apt chose, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    version: String,
}

/// The packages of `apt-get --simulate install`, in the order they get configured: each after those it needs.
pub(super) fn configured(simulation: &str) -> Vec<Package> {
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("Conf ")?.split_once(" (")?;
        Some(Package { name: name.to_string(), version: rest.split(' ').next()?.to_string() })
    };
    simulation.lines().filter_map(line).collect()
}

/// A root file system in the making.
pub(crate) struct Rootfs<'a> {
    dir: PathBuf,
    distribution: &'a Distribution,
}

impl<'a> Rootfs<'a> {
    /// Makes the base: the essential packages and apt.
    pub(crate) fn bootstrap(dir: PathBuf, distribution: &'a Distribution) -> Result<Rootfs<'a>> {
        let rootfs = Rootfs { dir, distribution };
        // The package lists are kept for the planning that follows; layers leave them out. Nobody needs this
        // tree after a crash, so dpkg need not sync.
        output(
            rootfs
                .private("mmdebstrap")
                .args(["--quiet", "--mode=root", "--variant=apt", "--skip=cleanup/apt,output/dev"])
                .args(["--dpkgopt=force-unsafe-io", &rootfs.distribution.codename])
                .arg(&rootfs.dir)
                .args(&rootfs.distribution.sources),
        )?;
        Ok(rootfs)
    }

    /// The root directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// When the archives the packages came from were last changed, in seconds since 1970; `SOURCE_DATE_EPOCH`
    /// overrules it.
    pub(crate) fn epoch(&self) -> Result<i64> {
        if let Ok(value) = std::env::var("SOURCE_DATE_EPOCH") {
            return value
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH={value} is no number of seconds"));
        }
        let mut newest = 0;
        for file in fs::read_dir(self.dir.join("var/lib/apt/lists"))? {
            let file = file?.path();
            if !file.to_string_lossy().ends_with("Release") {
                continue;
            }
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            if let Some(date) = text.lines().find_map(|line| line.strip_prefix("Date: ")) {
                let seconds = output(Command::new("date").args(["--utc", "+%s", "--date", date]))?;
                newest = newest.max(seconds.trim().parse()?);
            }
        }
        Ok(newest)
    }

    /// What installing these packages installs, in order.
    pub(crate) fn plan(&self, wanted: &[&str]) -> Result<Vec<Package>> {
        let simulation = output(self.apt().args(["--simulate", "install"]).args(wanted))?;
        Ok(configured(&simulation))
    }

    /// Downloads these packages and all they need.
    pub(crate) fn download(&self, wanted: &[&str]) -> Result<()> {
        output(self.apt().args(["--download-only", "--yes", "install"]).args(wanted)).map(drop)
    }

    /// Installs downloaded packages, and nothing else, by apt inside the root file system.
    pub(crate) fn install(&self, packages: &[Package]) -> Result<()> {
        let mut command = self.private("sh");
        command
            .args(["-ec", r#"mount --rbind /proc "$1/proc"; root=$1; shift; exec chroot "$root" "$@""#, "sh"])
            .arg(&self.dir)
            .args([
                "apt-get",
                "-q",
                "-oAPT::Install-Recommends=false",
                "-oDpkg::Use-Pty=0",
                "--no-download",
                "--yes",
            ])
            .arg("install")
            .args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        output(&mut command).map(drop)
    }

    /// A command in a mount namespace of its own.
    fn private(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", program]);
        self.environment(&mut command);
        command
    }

    /// The host's apt, at work on this root file system: it can reach the archives whatever way the host does.
    fn apt(&self) -> Command {
        let option = |name: &str, path: &str| {
            let mut word = OsString::from(format!("-o{name}="));
            word.push(if path.starts_with('/') { PathBuf::from(path) } else { self.dir.join(path) });
            word
        };
        let mut command = Command::new("apt-get");
        command.args(["-q", "-oAPT::Sandbox::User=root", "-oAPT::Install-Recommends=false"]);
        command.arg(format!("-oAPT::Architecture={}", self.distribution.architecture));
        command.args([
            option("Dir::Etc", "etc/apt"),
            option("Dir::State", "var/lib/apt"),
            option("Dir::State::status", "var/lib/dpkg/status"),
            option("Dir::Cache", "var/cache/apt"),
            option("Dir::Log", "var/log/apt"),
            option("Dir::Etc::Trusted", "/etc/apt/trusted.gpg"),
            option("Dir::Etc::TrustedParts", "/etc/apt/trusted.gpg.d/"),
        ]);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.distribution.proxies.iter().map(|(name, value)| (*name, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(os_release(text, "PRETTY_NAME").unwrap(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_release(text, "VERSION_CODENAME").unwrap(), "bookworm");
        assert_eq!(os_release(text, "VERSION"), None);
    }

    #[test]
    fn only_the_distribution_s_own_archives_are_used() {
        let targets = "http://a.test/debian/ bookworm main\nhttp://a.test/debian/ bookworm-security main\n\
                       http://a.test/debian/ bookworm contrib\nhttps://b.test/docker bookworm stable\n\
                       http://a.test/debian/ trixie main\nhttp://a.test/debian/ bookworm main\n";
        assert_eq!(
            sources(targets, "bookworm"),
            ["deb http://a.test/debian/ bookworm main", "deb http://a.test/debian/ bookworm-security main"]
        );
    }

    #[test]
    fn apt_s_simulation_gives_the_order_of_installation() {
        let text = "Inst tree (2.1.0-1 Debian:12/stable [amd64])\n\
                    Conf libssl3 (3.0.17-1 Debian:12/stable [amd64])\n\
                    Conf vim-common (2:9.0.1378-2 Debian:12/stable [all])\n";
        let packages = configured(text);
        assert_eq!(packages[0], Package { name: "libssl3".into(), version: "3.0.17-1".into() });
        assert_eq!(packages[1], Package { name: "vim-common".into(), version: "2:9.0.1378-2".into() });
        assert_eq!(packages.len(), 2);
    }
}
