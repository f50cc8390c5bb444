//! Why a registry did not deliver, and whether asking again may help.

use std::time::Duration;

use plywood_image::Digest;

use crate::transfer::auth::AuthError;
use crate::transfer::http::HttpError;
use crate::transfer::tls::TlsError;

/// Why a registry did not deliver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It has no such manifest or blob.
    #[error("{registry} has no {what}{message}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What it said, led by a colon, or empty.
        message: String,
    },
    /// It refuses: not logged in, or not allowed.
    #[error("{registry} refuses access to {what} ({status}){message}")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// What it said, led by a colon, or empty.
        message: String,
        /// No credentials for it were found.
        anonymous: bool,
    },
    /// Any other status.
    #[error("{origin} answered {status} when asked for {what}{message}")]
    Status {
        /// Who answered.
        origin: String,
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What it said, led by a colon, or empty.
        message: String,
        /// What it asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The exchange broke.
    #[error("{what} cannot be fetched")]
    Http {
        /// What was asked for.
        what: String,
        /// What went wrong.
        #[source]
        source: HttpError,
    },
    /// Authentication failed.
    #[error("{what} cannot be fetched")]
    Auth {
        /// What was asked for.
        what: String,
        /// What went wrong.
        #[source]
        source: Box<AuthError>,
    },
    /// The certificate authorities cannot be read.
    #[error("the certificate authorities for {registry} cannot be read")]
    Tls {
        /// The registry.
        registry: String,
        /// What went wrong.
        #[source]
        source: TlsError,
    },
    /// The body ended early, time after time.
    #[error("{what} ended after {received} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        what: String,
        /// Bytes received.
        received: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// More or fewer bytes than the descriptor announces.
    #[error("{what} has {found} bytes, its descriptor announces {expected}")]
    Size {
        /// What was asked for.
        what: String,
        /// Bytes the server offers.
        found: u64,
        /// Bytes in the descriptor.
        expected: u64,
    },
    /// Larger than allowed.
    #[error("{what} has more than {limit} bytes, the largest accepted")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes are not those the digest names.
    #[error("{what} from {registry} has digest {found}, expected {expected}")]
    Digest {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What came.
        found: Box<Digest>,
        /// What was asked for, or announced by the server.
        expected: Box<Digest>,
    },
    /// The partial blob could not be written.
    #[error("{what} cannot be written to the store")]
    Write {
        /// The blob.
        what: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// Stopped from outside.
    #[error("cancelled")]
    Cancelled,
}

impl RegistryError {
    /// Whether somebody stayed silent for too long.
    pub(super) fn is_timeout(&self) -> bool {
        let http = match self {
            Self::Http { source, .. } => source,
            Self::Auth { source, .. } => match &**source {
                AuthError::Http { source, .. } => source,
                _ => return false,
            },
            _ => return false,
        };
        matches!(http, HttpError::Transport { source, .. } if matches!(**source, ureq::Error::Timeout(_)))
    }

    /// Whether trying again may help, and the pause the server asks for.
    pub(super) fn transient(&self) -> Option<Option<Duration>> {
        let by_status = |status: u16, pause: Option<Duration>| {
            (status == 429 || status == 408 || (500..600).contains(&status) && status != 501).then_some(pause)
        };
        match self {
            Self::Status { status, retry_after, .. } => by_status(*status, *retry_after),
            Self::Http { source, .. } => source.is_transient().then_some(None),
            Self::Auth { source, .. } => match &**source {
                AuthError::Http { source, .. } => source.is_transient().then_some(None),
                AuthError::Refused { status, retry_after, .. } => by_status(*status, *retry_after),
                _ => None,
            },
            Self::Truncated { .. } => Some(None),
            _ => None,
        }
    }
}
