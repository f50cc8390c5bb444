//! Credentials from the files that podman, skopeo and docker write.
//!
//! | file | keys |
//! |---|---|
//! | `$REGISTRY_AUTH_FILE` (then no other file is read) | host, or host and a path prefix |
//! | `$XDG_RUNTIME_DIR/containers/auth.json`, else `/run/containers/<uid>/auth.json` | the same |
//! | `$XDG_CONFIG_HOME/containers/auth.json`, else `~/.config/containers/auth.json` | the same |
//! | `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json` | host, perhaps written as a URL |
//!
//! The first file with an answer wins; within a file the longest matching key, then the credential
//! helper named for the host, then the file's general helper.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::helper::{self, HelperError};
use crate::transfer::Cancel;

/// The host whose credentials docker files keep under the URL of an older protocol.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY_KEY: &str = "https://index.docker.io/v1/";

/// An auth file is small; a larger one is not an auth file.
const MAX_FILE: u64 = 1 << 20;

/// A way to prove who one is. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and password (or access token in a password's place).
    Password {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged for access tokens at the registry's token service.
    IdentityToken(String),
    /// A bearer token presented to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// Why an auth file gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file exists (or was named by the environment) and could not be read.
    #[error("cannot read the auth file {}", path.display())]
    Read {
        /// The auth file.
        path: PathBuf,
        /// What reading it answered.
        #[source]
        source: std::io::Error,
    },
    /// Not the JSON of an auth file.
    #[error("the auth file {} is not valid JSON of an auth file", path.display())]
    Syntax {
        /// The auth file.
        path: PathBuf,
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` value that is not base64 of `user:password`.
    #[error("the auth file {} has an entry for {key} that is not base64 of user:password", path.display())]
    Entry {
        /// The auth file.
        path: PathBuf,
        /// The entry's key.
        key: String,
    },
    /// A credential helper failed.
    #[error("the auth file {} sends {host} to a credential helper that failed", path.display())]
    Helper {
        /// The auth file.
        path: PathBuf,
        /// The registry asked about.
        host: String,
        /// How the helper failed.
        #[source]
        source: HelperError,
    },
}

/// The auth files to ask, in order.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    /// Files that may be absent.
    optional: Vec<PathBuf>,
    /// A file named by the user: it must exist, and stands alone.
    required: Option<PathBuf>,
}

impl AuthFiles {
    /// The usual files of this user and environment.
    pub fn from_env() -> Self {
        Self::from_vars(
            |name| std::env::var_os(name).filter(|v| !v.is_empty()),
            rustix::process::getuid().as_raw(),
        )
    }

    /// One file, which must exist, and no other.
    pub fn only(path: PathBuf) -> Self {
        Self { optional: Vec::new(), required: Some(path) }
    }

    /// No file at all: anonymous access.
    pub fn none() -> Self {
        Self::default()
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        if let Some(path) = var("REGISTRY_AUTH_FILE") {
            return Self::only(path.into());
        }
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = path("HOME");
        let below_home = |dir: &str| home.as_ref().map(|home| home.join(dir));
        let runtime = path("XDG_RUNTIME_DIR")
            .map(|dir| dir.join("containers"))
            .unwrap_or_else(|| PathBuf::from(format!("/run/containers/{uid}")));
        let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let optional = [
            Some(runtime.join("auth.json")),
            config.map(|dir| dir.join("containers/auth.json")),
            docker.map(|dir| dir.join("config.json")),
        ];
        Self { optional: optional.into_iter().flatten().collect(), required: None }
    }

    /// The credential for a repository (`library/debian`) of a registry (`docker.io`, `localhost:5000`). A helper has
    /// `limit` to answer, and is ended when `stop` is set.
    ///
    /// # Errors
    /// A file that is there and cannot be read or understood, or a helper that failed.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
        limit: Duration,
        stop: &Cancel,
    ) -> Result<Option<Credential>, CredentialError> {
        let ask = |helper: &str| helper::get(helper, &helper_key(registry), limit, stop);
        let files = self.required.iter().map(|p| (p, true)).chain(self.optional.iter().map(|p| (p, false)));
        for (path, required) in files {
            let Some(text) = read(path, required)? else { continue };
            let file: AuthFile = serde_json::from_slice(&text)
                .map_err(|source| CredentialError::Syntax { path: path.clone(), source })?;
            if let Some(found) = find_in(&file, path, registry, repository, ask)? {
                tracing::debug!(file = %path.display(), registry, "credential found");
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path, required: bool) -> Result<Option<Vec<u8>>, CredentialError> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let result = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    match result {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => Ok(None),
        Err(source) => Err(CredentialError::Read { path: path.to_owned(), source }),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

fn find_in(
    file: &AuthFile,
    path: &Path,
    registry: &str,
    repository: &str,
    ask: impl Fn(&str) -> Result<Option<Credential>, HelperError>,
) -> Result<Option<Credential>, CredentialError> {
    let helper_failed =
        |source| CredentialError::Helper { path: path.to_owned(), host: registry.to_owned(), source };
    // A helper named for a host stands above the file's own entries, as in docker and podman.
    let named = file.cred_helpers.iter().find(|(key, _)| key_host(key) == registry).map(|(_, helper)| helper);
    if let Some(helper) = named {
        return ask(helper).map_err(helper_failed);
    }
    for wanted in prefixes(registry, repository) {
        let entry = file.auths.iter().find(|(key, _)| normal_key(key) == wanted);
        let Some((key, entry)) = entry else { continue };
        let found = decode(entry)
            .ok_or_else(|| CredentialError::Entry { path: path.to_owned(), key: key.clone() })?;
        // docker leaves an empty entry as a marker beside what its credential store keeps.
        if found.is_some() {
            return Ok(found);
        }
    }
    if !file.creds_store.is_empty() {
        return ask(&file.creds_store).map_err(helper_failed);
    }
    Ok(None)
}

/// The name under which a helper knows a registry.
fn helper_key(registry: &str) -> String {
    if registry == DOCKER_HUB { DOCKER_HUB_LEGACY_KEY.to_owned() } else { registry.to_owned() }
}

/// `registry/a/b`, `registry/a`, `registry`.
fn prefixes(registry: &str, repository: &str) -> impl Iterator<Item = String> {
    let full = format!("{registry}/{repository}");
    let mut rest = Some(full);
    std::iter::from_fn(move || {
        let current = rest.take()?;
        rest = current.rfind('/').map(|at| current[..at].to_owned());
        Some(current)
    })
}

/// A key as `host` or `host/path`. Keys written as URLs are docker's: only their host counts.
fn normal_key(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let key = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => key.trim_end_matches('/'),
    };
    let (host, path) = key.split_once('/').map_or((key, ""), |(host, path)| (host, path));
    // The legacy spelling of the hub also appears without its scheme, `index.docker.io/v1`.
    let (host, path) = match host {
        "index.docker.io" | "registry-1.docker.io" => (DOCKER_HUB, ""),
        host => (host, path),
    };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

fn key_host(key: &str) -> String {
    let key = normal_key(key);
    key.split('/').next().unwrap_or_default().to_owned()
}

/// `None`: damaged. `Some(None)`: an empty marker.
fn decode(entry: &AuthEntry) -> Option<Option<Credential>> {
    if !entry.identitytoken.is_empty() {
        return Some(Some(Credential::IdentityToken(entry.identitytoken.clone())));
    }
    if !entry.registrytoken.is_empty() {
        return Some(Some(Credential::RegistryToken(entry.registrytoken.clone())));
    }
    if !entry.auth.is_empty() {
        let decoded = BASE64_STANDARD.decode(entry.auth.trim()).ok()?;
        // Some writers pad the password with NUL bytes.
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0');
        return Some(Some(Credential::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        }));
    }
    if !entry.username.is_empty() {
        let (username, password) = (entry.username.clone(), entry.password.clone());
        return Some(Some(Credential::Password { username, password }));
    }
    Some(None)
}

#[cfg(test)]
mod tests;
