//! Proving who one is to a registry: anonymous, basic and token authentication.
//!
//! Nothing is sent until the registry asks (a `401` with a challenge). For a bearer challenge the token service
//! named in it is asked for a token for pulling this one repository; the token is kept for the fetch. A user name
//! and password go only to the registry itself and to a token service over HTTPS, on the loopback, or, when plain
//! HTTP was asked for, on the registry's own host.

pub(super) mod challenge;
mod credentials;
mod helper;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::Uri;

pub use credentials::{AuthFiles, Credential, CredentialError};
pub use helper::HelperError;

use super::cancel::Cancel;
use super::http::{Http, HttpError, Reply, Request};
use challenge::Challenge;

/// A token answer is one small JSON object.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;

/// How long a token lives at least, and if its service does not say: the distribution specification's minute.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(10);

/// Why authentication failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The registry asks for something this client does not speak, or says `401` without a challenge.
    #[error("the registry {registry} asks for authentication this client does not know ({schemes})")]
    Unknown {
        /// The registry.
        registry: String,
        /// The schemes it offers.
        schemes: String,
    },
    /// The token service's address is unusable.
    #[error("the registry {registry} names {realm:?} as its token service: {reason}")]
    Realm {
        /// The registry.
        registry: String,
        /// The address.
        realm: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token service refused.
    #[error("the token service {origin} answered {status}{message}")]
    Refused {
        /// The token service.
        origin: String,
        /// HTTP status.
        status: u16,
        /// What it said, led by a colon, or empty.
        message: String,
        /// What it asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The token service's answer holds no token.
    #[error("the token service {origin} sent no token")]
    NoToken {
        /// The token service.
        origin: String,
    },
    /// The token service could not be reached.
    #[error("the token service of {registry} cannot be asked")]
    Http {
        /// The registry.
        registry: String,
        /// What went wrong.
        #[source]
        source: HttpError,
    },
    /// The credentials could not be read.
    #[error("the credentials for {registry} cannot be read")]
    Credentials {
        /// The registry.
        registry: String,
        /// What went wrong.
        #[source]
        source: CredentialError,
    },
}

/// Keeps the `Authorization` value for one repository of one registry.
#[derive(Debug)]
pub(super) struct Authenticator {
    registry: String,
    repository: String,
    files: AuthFiles,
    /// Plain HTTP to hosts other than the loopback was asked for.
    plain_http: bool,
    /// How long a credential helper may take.
    helper_limit: Duration,
    stop: Cancel,
    current: Mutex<Option<Grant>>,
    /// Whether credentials were found.
    known: AtomicBool,
}

struct Grant {
    header: String,
    until: Option<Instant>,
}

impl Grant {
    fn is_live(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("until", &self.until).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Authenticator {
    pub(super) fn new(
        registry: &str,
        repository: &str,
        files: AuthFiles,
        plain_http: bool,
        helper_limit: Duration,
        stop: &Cancel,
    ) -> Self {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Self {
            registry,
            repository,
            files,
            plain_http,
            helper_limit,
            stop: stop.clone(),
            current: Mutex::new(None),
            known: AtomicBool::new(false),
        }
    }

    /// The `Authorization` value to send, if the registry asked for one before.
    pub(super) fn header(&self) -> Option<String> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|grant| grant.is_live()).map(|grant| grant.header.clone())
    }

    /// Whether no credentials were found: a token alone may be anonymous.
    pub(super) fn is_anonymous(&self) -> bool {
        !self.known.load(Ordering::Relaxed)
    }

    /// Answers a `401` that came although `sent` was sent. `None` when nothing better than `sent` can be had.
    ///
    /// Held locked while a helper and the token service are asked, so that parallel downloads ask once. Neither outlasts its
    /// time limit or `stop`.
    pub(super) fn answer(
        &self,
        http: &Http,
        challenges: &[Challenge],
        sent: Option<&str>,
    ) -> Result<Option<String>, AuthError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Another download already got a newer one.
        let newer = |grant: &&Grant| grant.is_live() && sent != Some(grant.header.as_str());
        if let Some(grant) = current.as_ref().filter(newer) {
            return Ok(Some(grant.header.clone()));
        }
        let credential = self
            .files
            .find(&self.registry, &self.repository, self.helper_limit, &self.stop)
            .map_err(|source| AuthError::Credentials { registry: self.registry.clone(), source })?;
        self.known.store(credential.is_some(), Ordering::Relaxed);
        let offered = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let grant = if let Some(bearer) = offered("bearer") {
            Some(self.token(http, bearer, credential.as_ref())?)
        } else if offered("basic").is_some() {
            match &credential {
                Some(Credential::Password { username, password }) => {
                    Some(Grant { header: basic(username, password), until: None })
                }
                _ => None,
            }
        } else {
            let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
            let schemes = if schemes.is_empty() { "no challenge".to_owned() } else { schemes.join(", ") };
            return Err(AuthError::Unknown { registry: self.registry.clone(), schemes });
        };
        let fresh = grant.filter(|grant| sent != Some(grant.header.as_str()));
        let header = fresh.as_ref().map(|grant| grant.header.clone());
        if fresh.is_some() {
            *current = fresh;
        }
        Ok(header)
    }

    fn token(
        &self,
        http: &Http,
        bearer: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<Grant, AuthError> {
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok(Grant { header: format!("Bearer {token}"), until: None });
        }
        let realm = bearer.parameter("realm").unwrap_or_default();
        self.check_realm(realm, credential.is_some())?;
        let service = bearer.parameter("service").unwrap_or_default();
        let wanted = format!("repository:{}:pull", self.repository);
        let scope = bearer.parameter("scope").filter(|scope| !scope.is_empty()).unwrap_or(&wanted);
        let reply = match credential {
            Some(Credential::IdentityToken(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "plywood"),
                    ("scope", scope),
                    ("refresh_token", token),
                ];
                http.post_form(realm, &form)
            }
            other => {
                let mut url = realm.to_owned();
                push_query(&mut url, "service", service);
                push_query(&mut url, "scope", scope);
                let mut authorization = None;
                if let Some(Credential::Password { username, password }) = other {
                    push_query(&mut url, "account", username);
                    authorization = Some(basic(username, password));
                }
                let authorization = authorization.as_deref();
                http.get(&Request { url: &url, authorization, ..Request::default() })
            }
        };
        self.read_token(reply.map_err(|source| AuthError::Http { registry: self.registry.clone(), source })?)
    }

    fn read_token(&self, mut reply: Reply) -> Result<Grant, AuthError> {
        let origin = reply.origin.clone();
        if reply.status != 200 {
            let retry_after = reply.retry_after();
            let message = super::registry::server_message(&mut reply);
            return Err(AuthError::Refused { origin, status: reply.status, message, retry_after });
        }
        let body = reply.body.with_config().limit(MAX_TOKEN_ANSWER).read_to_vec().map_err(|source| {
            let source = HttpError::Transport { origin: origin.clone(), source: Box::new(source) };
            AuthError::Http { registry: self.registry.clone(), source }
        })?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let lifetime = answer.as_ref().and_then(|a| a.expires_in).map_or(MIN_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.max(MIN_LIFETIME);
        let token = answer
            .and_then(|a| a.token.filter(|t| !t.is_empty()).or(a.access_token))
            .filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()))
            .ok_or(AuthError::NoToken { origin })?;
        let until = Instant::now().checked_add(lifetime.saturating_sub(MARGIN));
        Ok(Grant { header: format!("Bearer {token}"), until })
    }

    /// A registry could name any address as its token service. A secret goes there only encrypted or
    /// without leaving the machine.
    fn check_realm(&self, realm: &str, secret: bool) -> Result<(), AuthError> {
        let refused =
            |reason| AuthError::Realm { registry: self.registry.clone(), realm: realm.to_owned(), reason };
        let uri: Uri = realm.parse().map_err(|_| refused("not a URL"))?;
        let host = uri.host().ok_or_else(|| refused("it names no host"))?;
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if !secret || super::registry::is_loopback(host) => Ok(()),
            Some("http") if self.plain_http && host == super::registry::host_of(&self.registry) => Ok(()),
            Some("http") => Err(refused("the credentials would go over plain HTTP")),
            _ => Err(refused("not HTTPS")),
        }
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

/// Appends `name=value`, percent-encoded, unless the value is empty.
fn push_query(url: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(name);
    url.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            url.push(byte as char);
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let mut url = "https://auth/token?x=1".to_owned();
        push_query(&mut url, "service", "a b&c=d#é");
        push_query(&mut url, "empty", "");
        push_query(&mut url, "scope", "repository:a/b:pull");
        assert_eq!(url, "https://auth/token?x=1&service=a%20b%26c%3Dd%23%C3%A9&scope=repository:a/b:pull");
    }

    #[test]
    fn secrets_stay_off_plain_http() {
        let auth = |plain| {
            Authenticator::new("reg.corp:5000", "a", AuthFiles::none(), plain, MARGIN, &Cancel::new())
        };
        let cases = [
            ("https://auth.corp/token", true, false, true),
            ("http://auth.corp/token", true, false, false),
            ("http://auth.corp/token", true, true, false),
            ("http://reg.corp:5001/token", true, true, true),
            ("http://auth.corp/token", false, false, true),
            ("http://127.0.0.1:9/token", true, false, true),
            ("ftp://auth.corp/token", false, false, false),
            ("/token", false, false, false),
            ("", false, false, false),
        ];
        for (realm, secret, plain, allowed) in cases {
            assert_eq!(auth(plain).check_realm(realm, secret).is_ok(), allowed, "{realm} {secret} {plain}");
        }
    }
}
