//! The pulling half of the distribution protocol: manifests and blobs of one repository.
//!
//! What can pass by itself is tried again with growing pauses: `429` and `5xx` (honouring `Retry-After`), broken
//! and stalled connections, truncated bodies. Only a lack of progress uses up the tries. A blob continues where its
//! partial file ends, by `Range`; a server that answers with the whole blob starts it anew.

mod download;
mod error;

use std::io::Read as _;
use std::net::IpAddr;

use plywood_image::{Digest, Reference, printable};

pub(super) use download::Sink;
pub use error::RegistryError;

use super::auth::{AuthFiles, Authenticator};
use super::cancel::{Cancel, HookGuard};
use super::http::{self, Http, HttpError, Reply, Request, Timeouts};
use super::retry::RetryPolicy;
use super::tls::{self, TlsOptions};

/// Where the images named `docker.io/...` are served.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// Every kind of manifest and index this program reads, the preferred first.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// An error page is read this far for its message.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// How to talk to a registry.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Plain HTTP even to a registry that is not on this machine.
    ///
    /// A registry on the loopback is spoken to in plain HTTP anyway, unless a certificate authority is
    /// configured for it.
    pub plain_http: bool,
    /// Trusted certificate authorities.
    pub tls: TlsOptions,
    /// Where credentials come from.
    pub auth: AuthFiles,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPolicy,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            tls: TlsOptions::default(),
            auth: AuthFiles::from_env(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
        }
    }
}

/// One repository of one registry.
#[derive(Debug)]
pub(super) struct Registry {
    name: String,
    repository: String,
    base: String,
    http: Http,
    auth: Authenticator,
    retry: RetryPolicy,
    cancel: Cancel,
}

impl Registry {
    pub(super) fn new(
        reference: &Reference,
        options: &RegistryOptions,
        cancel: &Cancel,
    ) -> Result<Self, RegistryError> {
        let name = reference.registry().to_owned();
        let repository = reference.repository().to_owned();
        let tls_failed = |source| RegistryError::Tls { registry: name.clone(), source };
        let configured = tls::configured_files(&options.tls, &name).map_err(tls_failed)?;
        let loopback = is_loopback(host_of(&name));
        let plain = options.plain_http || loopback && configured.is_empty();
        let server = if name == DOCKER_HUB { DOCKER_HUB_SERVER } else { &name };
        let base = format!("{}://{server}", if plain { "http" } else { "https" });
        let tls = tls::config(&configured).map_err(tls_failed)?;
        Ok(Self {
            base,
            http: Http::new(tls, &options.timeouts, !loopback),
            auth: Authenticator::new(
                &name,
                &repository,
                options.auth.clone(),
                options.plain_http,
                options.timeouts.helper,
                cancel,
            ),
            retry: options.retry.clone(),
            cancel: cancel.clone(),
            name,
            repository,
        })
    }

    /// Cuts all connections when `stop` is set, as long as the guard lives.
    pub(super) fn cut_on(&self, stop: &Cancel) -> HookGuard {
        let http = self.http.clone();
        stop.on_cancel(move || http.shut_down())
    }

    /// A manifest or index by tag or digest, and the media type the server gives it.
    ///
    /// The bytes match the digest, if asked for by one, and the server's own `Docker-Content-Digest`.
    pub(super) fn manifest(
        &self,
        tag_or_digest: &str,
        digest: Option<&Digest>,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let what = match digest {
            Some(digest) => format!("manifest {}@{digest}", self.repository),
            None => format!("manifest {}:{tag_or_digest}", self.repository),
        };
        let path = format!("/v2/{}/manifests/{tag_or_digest}", self.repository);
        self.retrying(|| {
            let mut reply = self.open(&path, &what, Some(ACCEPT_MANIFESTS), None)?;
            let bytes = self.read_all(&mut reply, &what, limit)?;
            let announced =
                reply.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
            for expected in digest.into_iter().chain(&announced) {
                if !expected.matches(&bytes) {
                    return Err(RegistryError::Digest {
                        registry: self.name.clone(),
                        what: what.clone(),
                        found: Box::new(Digest::of(expected.algorithm(), &bytes)),
                        expected: Box::new(*expected),
                    });
                }
            }
            let media_type =
                reply.header("content-type").map(|v| v.split(';').next().unwrap_or(v).trim().to_owned());
            Ok((bytes, media_type))
        })
    }

    /// That `bytes` of a blob are what `digest` names.
    pub(super) fn check(&self, digest: &Digest, bytes: &[u8]) -> Result<(), RegistryError> {
        if digest.matches(bytes) {
            return Ok(());
        }
        Err(RegistryError::Digest {
            registry: self.name.clone(),
            what: format!("blob {digest}"),
            found: Box::new(Digest::of(digest.algorithm(), bytes)),
            expected: Box::new(*digest),
        })
    }

    fn read_all(&self, reply: &mut Reply, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge { what: what.to_owned(), limit };
        if reply.body.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let origin = reply.origin.clone();
        let result = reply.body.as_reader().take(limit + 1).read_to_end(&mut bytes);
        result.map_err(|e| self.broken(what, &origin, e))?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }

    /// A successful answer (200 or 206), authenticated as far as the registry asks.
    fn open(
        &self,
        path: &str,
        what: &str,
        accept: Option<&str>,
        from: Option<u64>,
    ) -> Result<Reply, RegistryError> {
        let auth_failed = |source| RegistryError::Auth { what: what.to_owned(), source: Box::new(source) };
        let url = format!("{}{path}", self.base);
        let mut authorization = self.auth.header();
        let mut answered = false;
        loop {
            if self.cancel.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            let request = Request { url: &url, accept, authorization: authorization.as_deref(), from };
            let reply = self.http.get(&request).map_err(|source| {
                self.unless_cancelled(RegistryError::Http { what: what.to_owned(), source })
            })?;
            // Only the registry itself may ask for authentication, not a storage service it redirects to.
            if reply.status == 401 && !answered && reply.origin == self.origin() {
                let fresh = self
                    .auth
                    .answer(&self.http, &reply.challenges(), authorization.as_deref())
                    .map_err(|source| self.unless_cancelled(auth_failed(source)))?;
                if fresh.is_some() {
                    (authorization, answered) = (fresh, true);
                    continue;
                }
            }
            return match reply.status {
                200 | 206 => Ok(reply),
                _ => Err(self.refusal(reply, what)),
            };
        }
    }

    fn origin(&self) -> String {
        http::origin_of(&self.base).unwrap_or_default()
    }

    fn refusal(&self, mut reply: Reply, what: &str) -> RegistryError {
        let message = server_message(&mut reply);
        let (registry, what, status) = (self.name.clone(), what.to_owned(), reply.status);
        match status {
            404 => RegistryError::NotFound { registry, what, message },
            401 | 403 => {
                let anonymous = self.auth.is_anonymous();
                RegistryError::Denied { registry, what, status, message, anonymous }
            }
            _ => {
                let retry_after = reply.retry_after();
                RegistryError::Status { origin: reply.origin, status, what, message, retry_after }
            }
        }
    }

    /// Tries again while that may help.
    fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    self.pause_after(error, failures)?;
                }
            }
        }
    }

    /// Waits before another try, or gives the error back when there shall be none.
    fn pause_after(&self, error: RegistryError, failures: u32) -> Result<(), RegistryError> {
        let Some(asked) = error.transient() else { return Err(error) };
        let Some(pause) = self.retry.pause(failures, asked) else { return Err(error) };
        // Minutes have passed then, and more may.
        if error.is_timeout() {
            tracing::warn!(
                registry = self.name,
                failures,
                attempts = self.retry.attempts,
                "no answer in time; trying again"
            );
        } else {
            tracing::info!(%error, failures, pause_ms = pause.as_millis() as u64, "trying again");
        }
        if self.cancel.wait(pause) { Err(RegistryError::Cancelled) } else { Ok(()) }
    }

    fn broken(&self, what: &str, origin: &str, error: std::io::Error) -> RegistryError {
        let source = Box::new(ureq::Error::from(error));
        let source = HttpError::Transport { origin: origin.to_owned(), source };
        self.unless_cancelled(RegistryError::Http { what: what.to_owned(), source })
    }

    /// A connection that was cut by [`Registry::cut_on`] fails in any way; the reason is the cancelling.
    fn unless_cancelled(&self, error: RegistryError) -> RegistryError {
        if self.cancel.is_cancelled() { RegistryError::Cancelled } else { error }
    }
}

/// The first message of a registry's error document, or of whatever text came, led by a colon; or nothing.
pub(super) fn server_message(reply: &mut Reply) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Option<Vec<Entry>>,
        details: Option<String>,
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let mut body = Vec::new();
    if let Err(error) = reply.body.as_reader().take(MAX_ERROR_BODY).read_to_end(&mut body) {
        tracing::debug!(%error, "the error page broke off");
    }
    let Ok(document) = serde_json::from_slice::<Document>(&body) else { return String::new() };
    let first = document.errors.unwrap_or_default().into_iter().next();
    let text = first
        .and_then(|entry| entry.message.filter(|m| !m.is_empty()).or(entry.code))
        .or(document.details)
        .or(document.message)
        .unwrap_or_default();
    let text: String = text.trim().chars().take(300).collect();
    if text.is_empty() { text } else { format!(": {}", printable(&text)) }
}

/// The host of `host`, `host:port` or `[address]:port`, without brackets.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// Whether a host (perhaps in brackets) is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.evil", "128.0.0.1", "0.0.0.0", "reg.corp", "127.0.0.1.evil", "::2", ""] {
            assert!(!is_loopback(host), "{host}");
        }
        for (authority, host) in [("a:5000", "a"), ("a", "a"), ("[::1]:5000", "::1"), ("[::1]", "::1")] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn schemes() {
        let base = |name: &str, plain_http, ca: &[&str]| {
            let reference: Reference = name.parse().unwrap();
            let tls = TlsOptions { extra_ca: ca.iter().map(Into::into).collect(), certs_dirs: vec![] };
            let options =
                RegistryOptions { plain_http, tls, auth: AuthFiles::none(), ..RegistryOptions::default() };
            Registry::new(&reference, &options, &Cancel::new()).unwrap().base
        };
        assert_eq!(base("debian", false, &[]), "https://registry-1.docker.io");
        assert_eq!(base("reg.corp:5000/a", false, &[]), "https://reg.corp:5000");
        assert_eq!(base("reg.corp:5000/a", true, &[]), "http://reg.corp:5000");
        assert_eq!(base("localhost:5000/a", false, &[]), "http://localhost:5000");
        assert_eq!(base("127.0.0.1:5000/a", false, &[]), "http://127.0.0.1:5000");
    }
}
