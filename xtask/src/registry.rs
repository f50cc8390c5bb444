//! A registry of our own on a free loopback port, gone when its handle is dropped.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::proc::{find_program, remove_dir, tail};

/// How long a registry may take to listen; it takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `docker-registry` with an empty storage directory.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Starts one that keeps config, log and storage under `dir`, which is emptied first.
    pub(crate) fn start(dir: &Path) -> Result<Registry> {
        remove_dir(dir)?;
        fs::create_dir_all(dir)?;
        let (config, log) = (dir.join("config.yml"), dir.join("log"));
        // JSON is YAML. Port 0 lets the kernel choose a free one, and the log says which.
        let text = serde_json::json!({
            "version": 0.1,
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": dir.join("storage") } },
            "http": { "addr": "127.0.0.1:0" },
        });
        fs::write(&config, serde_json::to_string_pretty(&text)?)?;
        // The kernel ends it should this task be killed before it can.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(find_program("docker-registry").context("docker-registry is not installed")?)
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start docker-registry")?;
        let mut registry = Registry { child, address: String::new() };
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(&log)?;
            if let Some(address) = listening(&text) {
                registry.address = address.to_string();
                return Ok(registry);
            }
            if let Some(status) = registry.child.try_wait()? {
                bail!("docker-registry ended with {status}:\n{}", tail(&text, 20));
            }
            if start.elapsed() > PATIENCE {
                bail!("docker-registry does not listen:\n{}", tail(&text, 20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Host and port, as they stand in front of an image name.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Errors mean it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the registry's log, once it is there whole.
fn listening(log: &str) -> Option<&str> {
    let rest = log.split_once("listening on ")?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c))?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_where_the_registry_listens() {
        let line =
            "level=info msg=\"redis not configured\"\nlevel=info msg=\"listening on 127.0.0.1:39319\" go\n";
        assert_eq!(listening(line), Some("127.0.0.1:39319"));
        assert_eq!(listening("msg=\"listening on 127.0.0"), None);
    }

    #[test]
    fn a_registry_answers_and_is_gone_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(&dir.path().join("registry")).unwrap();
        let address: std::net::SocketAddr = registry.address().parse().unwrap();
        std::net::TcpStream::connect(address).unwrap();
        drop(registry);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
