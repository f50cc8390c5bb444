//! Image names as people type them to podman and docker.
//!
//! ```text
//! [registry/]repository[:tag][@digest]
//! debian                       docker.io/library/debian:latest
//! bitnami/redis:7              docker.io/bitnami/redis:7
//! localhost:5000/a/b           localhost:5000/a/b:latest
//! quay.io/x/y@sha256:...       the same, without a tag
//! ```
//!
//! The first component is a registry if it has a `.`, a `:` or an upper-case letter, or is `localhost`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};
use crate::limits;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// A complete image name. Has a tag, a digest or both. Displayed in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?} is not valid")]
pub struct ReferenceError {
    name: String,
    #[source]
    problem: Problem,
}

/// The part that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing to name an image by.
    #[error("the name is empty")]
    Empty,
    /// A registry host that cannot be one.
    #[error("{0:?} is not a registry host with an optional :port")]
    Registry(String),
    /// Upper case.
    #[error("repository {0:?} has upper-case letters; repository names are lower case")]
    UpperCase(String),
    /// Anything else in the repository.
    #[error(
        "repository {0:?} is not made of lower-case letters and digits, separated by '/', '.', '_', '__' or '-'"
    )]
    Repository(String),
    /// Too long.
    #[error("the {what} is longer than {limit} bytes")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// A tag with other characters.
    #[error("tag {0:?} is not made of letters, digits, '_', '.' and '-' (the last two not at its start)")]
    Tag(String),
    /// A digest that is none.
    #[error("the digest is wrong")]
    Digest(#[source] DigestError),
    /// 64 hex digits, which other tools take for an image ID.
    #[error("64 hex digits are an image ID, not a name; write name@sha256:<digits> for a digest")]
    ImageId,
}

impl ReferenceError {
    /// The part that is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl Reference {
    /// Registry host with its port, if it has one. `docker.io` by default.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Repository within the registry, `library/debian` for Docker's official images.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. `latest` if neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest; where there is one it decides, and a tag beside it is decoration.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { name: text.chars().take(300).collect(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, Problem> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse().map_err(Problem::Digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it is a port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if name.is_empty() {
        return Err(Problem::Empty);
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && is_image_id(repository) {
        return Err(Problem::ImageId);
    }
    check_registry(registry)?;
    check_repository(repository)?;
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    if repository.len() > limits::REPOSITORY_BYTES {
        return Err(Problem::TooLong { what: "repository", limit: limits::REPOSITORY_BYTES });
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(check_tag(tag)?.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_image_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_registry(registry: &str) -> Result<(), Problem> {
    if registry.len() > limits::REGISTRY_BYTES {
        return Err(Problem::TooLong { what: "registry", limit: limits::REGISTRY_BYTES });
    }
    let bad = || Problem::Registry(registry.to_owned());
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (None, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port_ok = port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0));
    if host.is_none_or(|host| host.split('.').all(label)) && port_ok { Ok(()) } else { Err(bad()) }
}

fn check_repository(repository: &str) -> Result<(), Problem> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Problem::UpperCase(repository.to_owned()));
    }
    if repository.split('/').all(is_component) {
        Ok(())
    } else {
        Err(Problem::Repository(repository.chars().take(300).collect()))
    }
}

/// Runs of letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let run = rest.iter().take_while(|byte| alphanumeric(byte)).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        let separator = rest.iter().take_while(|byte| !alphanumeric(byte)).count();
        match &rest[..separator] {
            b"" => return true,
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => return false,
        }
        rest = &rest[separator..];
    }
}

fn check_tag(tag: &str) -> Result<&str, Problem> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.len() > limits::TAG_BYTES {
        return Err(Problem::TooLong { what: "tag", limit: limits::TAG_BYTES });
    }
    match tag.as_bytes() {
        [first, rest @ ..] if word(*first) && rest.iter().all(|byte| word(*byte) || b".-".contains(byte)) => {
            Ok(tag)
        }
        _ => Err(Problem::Tag(tag.to_owned())),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
