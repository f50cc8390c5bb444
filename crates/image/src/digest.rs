//! Content digests and the two identities built on them.
//!
//! A [`Digest`] names bytes as they are stored or sent. A [`DiffId`] is the digest of a layer's uncompressed tar
//! stream. A [`ChainId`] names a stack of layers from the bottom up, and so what a directory holding the topmost of
//! them looks like over the rest.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// The hash functions the image specification registers and plywood checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name used in digests and in directory names: `sha256` or `sha512`.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hexadecimal form.
    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked digest. Parsed from and displayed as `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Bytes);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Bytes {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:` in front.
    #[error("digest {0:?} has no algorithm; write it as sha256:<64 hex digits>")]
    NoAlgorithm(String),
    /// Neither sha256 nor sha512.
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    UnknownAlgorithm(String),
    /// Too short or too long for the algorithm.
    #[error("a {algorithm} digest has {expected} hex digits, this one {actual}")]
    Length {
        /// The algorithm named.
        algorithm: Algorithm,
        /// Digits it takes.
        expected: usize,
        /// Bytes found after the colon.
        actual: usize,
    },
    /// Something other than `0-9a-f`.
    #[error("digest {0:?} has a character that is not a lower-case hex digit")]
    NotHex(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Bytes::Sha256(_) => Algorithm::Sha256,
            Bytes::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw hash, 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sha256(bytes) => bytes,
            Bytes::Sha512(bytes) => bytes,
        }
    }

    /// The lower-case hex form without the algorithm: a blob's file name.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(self.algorithm().hex_len());
        for byte in self.as_bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Whether `bytes` have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Digest::of(self.algorithm(), bytes) == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(shorten(text)))?;
        match algorithm {
            "sha256" => Ok(Digest(Bytes::Sha256(decode(Algorithm::Sha256, hex)?))),
            "sha512" => Ok(Digest(Bytes::Sha512(decode(Algorithm::Sha512, hex)?))),
            other => Err(DigestError::UnknownAlgorithm(shorten(other))),
        }
    }
}

fn decode<const N: usize>(algorithm: Algorithm, hex: &str) -> Result<[u8; N], DigestError> {
    if hex.len() != 2 * N {
        return Err(DigestError::Length { algorithm, expected: 2 * N, actual: hex.len() });
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(DigestError::NotHex(hex.to_owned())),
        }
    }
    Ok(bytes)
}

/// Foreign text in an error message stays short.
fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An incremental hash. Also an [`io::Write`] sink that cannot fail.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// An empty hash.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Feeds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything fed.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Bytes::Sha256(state.finalize().into()),
            State::Sha512(state) => Bytes::Sha512(state.finalize().into()),
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Sha256(_) => "Hasher(sha256)",
            State::Sha512(_) => "Hasher(sha512)",
        })
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks a stream against what was announced: its digest and, where known, its size.
#[derive(Debug, Clone)]
pub struct Verifier {
    hasher: Hasher,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
}

/// The stream is not what was announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Ended early, or goes on past its announced end.
    #[error("{digest} should have {expected} bytes, but {}{actual} came", if actual > expected { "at least " } else { "only " })]
    Size {
        /// What was announced.
        digest: Digest,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came; when larger than `expected`, reading stopped there.
        actual: u64,
    },
    /// Other bytes.
    #[error("digest mismatch: {expected} was announced, {actual} came")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What the bytes hash to. Boxed to keep the error small.
        actual: Box<Digest>,
    },
}

impl Verifier {
    /// Expects bytes of the digest `expected` and, if given, of exactly `size` bytes.
    pub fn new(expected: Digest, size: Option<u64>) -> Verifier {
        Verifier { hasher: Hasher::new(expected.algorithm()), expected, size, seen: 0 }
    }

    /// Feeds the next bytes. Fails at once when more come than announced, so that the rest need not be stored.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        match self.size {
            Some(size) if self.seen > size => Err(self.size_error(size)),
            _ => {
                self.hasher.update(bytes);
                Ok(())
            }
        }
    }

    /// Bytes fed so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Passes if size and digest are as announced.
    pub fn finish(self) -> Result<(), VerifyError> {
        match self.size {
            Some(size) if self.seen != size => return Err(self.size_error(size)),
            _ => {}
        }
        let actual = self.hasher.finish();
        if actual == self.expected {
            Ok(())
        } else {
            Err(VerifyError::Digest { expected: self.expected, actual: Box::new(actual) })
        }
    }

    fn size_error(&self, expected: u64) -> VerifyError {
        VerifyError::Size { digest: self.expected, expected, actual: self.seen }
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<$name, DigestError> {
                text.parse().map($name)
            }
        }
    };
}

digest_newtype! {
    /// Digest of a layer's uncompressed tar stream.
    DiffId
}
digest_newtype! {
    /// Identity of a stack of layers, bottom first.
    ChainId
}

/// The chain ID of every prefix of `diff_ids`: element `i` names layers `0..=i`.
///
/// The lowest layer's chain ID is its diff ID; each next one is the SHA-256 of `"<chain below> <diff id>"` (image
/// specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[DiffId]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(ChainId(match chain.last() {
            None => diff_id.0,
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        }));
    }
    chain
}

#[cfg(test)]
mod tests;
