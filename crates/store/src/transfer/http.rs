//! The HTTP client below the registry protocol.
//!
//! It follows redirects by itself, for one reason: `Authorization` is for the host it was meant for. A blob
//! request that a registry redirects to a storage service goes there without it. A redirect never leads from
//! HTTPS to plain HTTP. Every wait has a bound: resolving, connecting, the answer's head, each read, each write.

use std::time::Duration;

use ureq::http::header::{HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{StatusCode, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::retry;

/// More redirects than any registry needs.
const MAX_REDIRECTS: usize = 8;

/// How the standard library begins an error of the resolver.
const LOOKUP_FAILED: &str = "failed to lookup address information";

/// Time limits of the client.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For resolving a name, and again for connecting, TLS included.
    pub connect: Duration,
    /// From the request to the end of the answer's head.
    pub response: Duration,
    /// For a connection on which nothing moves.
    pub idle: Duration,
    /// For a credential helper to answer.
    pub helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: Duration::from_secs(30), response: minute, idle: minute, helper: minute }
    }
}

/// An exchange that came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No usable answer: name, connection, TLS, protocol or time.
    #[error("cannot talk to {origin}")]
    Transport {
        /// Scheme, host and port.
        origin: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A redirect that is not followed.
    #[error("{origin} redirects to {location:?}: {reason}")]
    Redirect {
        /// Who redirects.
        origin: String,
        /// Where to.
        location: String,
        /// Why it is not followed.
        reason: &'static str,
    },
}

/// The classes of failed exchanges that call for different remedies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpErrorKind {
    /// The host's name leads to no address.
    UnknownHost,
    /// Nobody listens there.
    Refused,
    /// No TLS, or a certificate that is not trusted.
    Tls,
    /// No answer in time, or no way to the host.
    Unreachable,
    /// Everything else.
    Other,
}

impl HttpError {
    /// The class of the failure.
    pub fn kind(&self) -> HttpErrorKind {
        use std::io::ErrorKind as K;
        let Self::Transport { source, .. } = self else { return HttpErrorKind::Other };
        match &**source {
            ureq::Error::HostNotFound => HttpErrorKind::UnknownHost,
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => HttpErrorKind::Tls,
            ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => HttpErrorKind::Unreachable,
            ureq::Error::Io(e) => match e.kind() {
                K::ConnectionRefused => HttpErrorKind::Refused,
                K::InvalidData => HttpErrorKind::Tls,
                K::TimedOut | K::HostUnreachable | K::NetworkUnreachable => HttpErrorKind::Unreachable,
                // What getaddrinfo says has no kind of its own.
                _ if e.to_string().contains(LOOKUP_FAILED) => HttpErrorKind::UnknownHost,
                _ => HttpErrorKind::Other,
            },
            _ => HttpErrorKind::Other,
        }
    }

    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => is_transient(source),
            Self::Redirect { .. } => false,
        }
    }
}

/// Whether an error of the client library may pass by itself.
pub(super) fn is_transient(error: &ureq::Error) -> bool {
    use std::io::ErrorKind as K;
    match error {
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(e) => matches!(
            e.kind(),
            K::ConnectionReset
                | K::ConnectionAborted
                | K::BrokenPipe
                | K::UnexpectedEof
                | K::TimedOut
                | K::WouldBlock
                | K::Interrupted
                | K::HostUnreachable
                | K::NetworkUnreachable
        ),
        _ => false,
    }
}

/// The client of one registry, its token service and its storage.
#[derive(Debug, Clone)]
pub(super) struct Http {
    agent: Agent,
}

/// What to ask for.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    pub(super) url: &'a str,
    pub(super) accept: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    /// Offset of the first byte wanted.
    pub(super) from: Option<u64>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Scheme, host and port of who answered, redirects followed.
    pub(super) origin: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.header(RETRY_AFTER.as_str()).and_then(retry::retry_after)
    }

    pub(super) fn challenges(&self) -> Vec<super::auth::challenge::Challenge> {
        let headers = self.headers.get_all(WWW_AUTHENTICATE).iter();
        headers.filter_map(|value| value.to_str().ok()).flat_map(super::auth::challenge::parse).collect()
    }
}

impl Http {
    /// `proxied`: whether the proxy named by the environment applies.
    pub(super) fn new(tls: TlsConfig, timeouts: &Timeouts, proxied: bool) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("plywood/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.response))
            .timeout_per_read(Some(timeouts.idle))
            .timeout_per_write(Some(timeouts.idle))
            .max_idle_connections_per_host(16);
        if !proxied {
            config = config.proxy(None);
        }
        Self { agent: config.build().new_agent() }
    }

    /// Breaks every exchange under way, on any thread; later ones fail.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    pub(super) fn get(&self, request: &Request<'_>) -> Result<Reply, HttpError> {
        let mut url = request.url.to_owned();
        let mut authorization = request.authorization;
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri =
                url.parse().map_err(|e| transport(&url, ureq::Error::Http(ureq::http::Error::from(e))))?;
            let origin = origin(&uri);
            tracing::debug!(origin, path = uri.path(), authorized = authorization.is_some(), "GET");
            let mut builder = self.agent.get(&uri);
            if let Some(accept) = request.accept {
                builder = builder.header("Accept", accept);
            }
            if let Some(value) = authorization {
                builder = builder.header("Authorization", value);
            }
            if let Some(from) = request.from {
                builder = builder.header("Range", format!("bytes={from}-"));
            }
            let response = builder.call().map_err(|e| transport(&origin, e))?;
            let (parts, body) = response.into_parts();
            let reply = Reply { status: parts.status.as_u16(), headers: parts.headers, body, origin };
            if !is_redirect(parts.status) {
                return Ok(reply);
            }
            let next = redirect_target(&uri, &reply)?;
            if origin_of(&next) != Some(reply.origin.as_str().to_owned()) {
                authorization = None;
            }
            url = next;
        }
        Err(HttpError::Redirect {
            origin: request.url.to_owned(),
            location: url,
            reason: "too many redirects",
        })
    }

    /// Sends a form; redirects are not followed, since the form may hold a secret.
    pub(super) fn post_form(&self, url: &str, form: &[(&str, &str)]) -> Result<Reply, HttpError> {
        let origin = origin_of(url).unwrap_or_else(|| url.to_owned());
        tracing::debug!(origin, "POST of a form");
        let response =
            self.agent.post(url).send_form(form.iter().copied()).map_err(|e| transport(&origin, e))?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, origin })
    }
}

fn transport(origin: &str, source: ureq::Error) -> HttpError {
    HttpError::Transport { origin: origin.to_owned(), source: Box::new(source) }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port, the default port left out.
fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http").to_ascii_lowercase();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let default = if scheme == "https" { 443 } else { 80 };
    match uri.port_u16().filter(|port| *port != default) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

pub(super) fn origin_of(url: &str) -> Option<String> {
    url.parse::<Uri>().ok().map(|uri| origin(&uri))
}

/// A reference as a URL (RFC 3986, 5.2): whole, without its scheme, from the root, or relative to the page that has it.
fn resolve(from: &Uri, origin: &str, reference: &str) -> String {
    if has_scheme(reference) {
        reference.to_owned()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{}://{rest}", from.scheme_str().unwrap_or("https"))
    } else if reference.starts_with('/') {
        format!("{origin}{reference}")
    } else if reference.starts_with('?') {
        format!("{origin}{}{reference}", from.path())
    } else {
        let base = from.path().rfind('/').map_or("/", |at| &from.path()[..=at]);
        format!("{origin}{base}{reference}")
    }
}

/// Whether a reference begins with a scheme. A colon further on, in a query for instance, makes none.
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn redirect_target(from: &Uri, reply: &Reply) -> Result<String, HttpError> {
    let location = reply.header(LOCATION.as_str()).unwrap_or_default();
    let refused = |reason| HttpError::Redirect {
        origin: reply.origin.clone(),
        location: location.split('?').next().unwrap_or_default().to_owned(),
        reason,
    };
    if location.is_empty() {
        return Err(refused("it names no target"));
    }
    let target = resolve(from, &reply.origin, location);
    let uri: Uri = target.parse().map_err(|_| refused("not a URL"))?;
    match uri.scheme_str() {
        Some("https") => Ok(target),
        Some("http") if from.scheme_str() == Some("http") => Ok(target),
        Some("http") => Err(refused("it leads from HTTPS to plain HTTP")),
        _ => Err(refused("not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relative reference with a URL in its query counted as that URL, scheme and all.
    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://reg.corp:5000/v2/a/blobs/x?y=1".parse().unwrap();
        let table = [
            ("https://cdn.corp/b", "https://cdn.corp/b"),
            ("HTTPS://cdn.corp/b?u=http://c", "HTTPS://cdn.corp/b?u=http://c"),
            ("//cdn.corp/b", "https://cdn.corp/b"),
            ("/signed?next=https://evil/", "https://reg.corp:5000/signed?next=https://evil/"),
            ("/signed?next=ftp://evil/", "https://reg.corp:5000/signed?next=ftp://evil/"),
            ("signed?next=http://evil/", "https://reg.corp:5000/v2/a/blobs/signed?next=http://evil/"),
            ("?next=http://evil/", "https://reg.corp:5000/v2/a/blobs/x?next=http://evil/"),
            ("./b:c", "https://reg.corp:5000/v2/a/blobs/./b:c"),
            ("ftp://evil/", "ftp://evil/"),
        ];
        for (reference, target) in table {
            assert_eq!(resolve(&from, "https://reg.corp:5000", reference), target, "{reference}");
        }
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let same = [
            ("https://Reg.corp/v2/", "https://reg.corp:443/x"),
            ("http://reg.corp:80/", "http://reg.corp/y?z"),
            ("http://[::1]:5000/", "http://[::1]:5000/a"),
        ];
        for (a, b) in same {
            assert_eq!(origin_of(a).unwrap(), origin_of(b).unwrap());
        }
        let differ = [
            ("https://reg.corp/", "http://reg.corp/"),
            ("https://reg.corp/", "https://reg.corp:5000/"),
            ("https://reg.corp/", "https://reg.corp.evil/"),
            ("https://reg.corp/", "https://reg.corp@evil/"),
        ];
        for (a, b) in differ {
            assert_ne!(origin_of(a).unwrap(), origin_of(b).unwrap());
        }
    }
}
