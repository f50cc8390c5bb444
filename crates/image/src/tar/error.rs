//! What can be wrong with an archive.

use std::fmt;
use std::io;

/// A tar stream that cannot be read, and where.
#[derive(Debug)]
pub struct TarError {
    /// Start of the header block being read, in bytes from the start of the stream.
    offset: u64,
    /// The entry concerned, once its name is known.
    path: Option<Vec<u8>>,
    kind: TarErrorKind,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarErrorKind {
    /// The stream under the archive failed: decompression, or its source.
    #[error("cannot read the stream")]
    Read(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// Not a header block.
    #[error("header checksum mismatch: this is no tar header")]
    Checksum,
    /// One zero block with something behind it.
    #[error("a zero block is followed by more entries")]
    LoneZeroBlock,
    /// A header field is no number, or one that is impossible there.
    #[error("bad number in field {0}")]
    Number(&'static str),
    /// A PAX header does not consist of `length key=value` lines, or a value is impossible.
    #[error("bad PAX header: {0}")]
    Pax(&'static str),
    /// A record that a global header must not set.
    #[error("a global PAX header sets {0}: readers disagree on whether it holds")]
    GlobalPax(&'static str),
    /// Beyond one of [`crate::limits`].
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large, in words.
        what: &'static str,
        /// The limit, in bytes or pieces.
        limit: u64,
    },
    /// The map of a sparse file contradicts itself or the stored data.
    #[error("bad sparse map: {0}")]
    Sparse(&'static str),
    /// Two extensions claim the same property.
    #[error("{0} is given both by a GNU and by a PAX header")]
    Ambiguous(&'static str),
    /// Readers of tar archives read this differently: what one sees is not what another has checked.
    #[error("readers of tar archives disagree on {0}")]
    Disputed(&'static str),
    /// Extension headers with no entry behind them.
    #[error("an extension header is not followed by an entry")]
    Dangling,
}

impl TarError {
    pub(super) fn new(offset: u64, path: &[u8], kind: TarErrorKind) -> TarError {
        TarError { offset, path: (!path.is_empty()).then(|| path.to_vec()), kind }
    }

    /// What is wrong.
    pub fn kind(&self) -> &TarErrorKind {
        &self.kind
    }

    /// Start of the header block concerned, in bytes from the start of the stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Name of the entry concerned, if it was known.
    pub fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => {
                write!(f, "tar entry \"{}\" at byte {}: {}", path.escape_ascii(), self.offset, self.kind)
            }
            None => write!(f, "tar stream at byte {}: {}", self.offset, self.kind),
        }
    }
}

impl std::error::Error for TarError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.kind)
    }
}

impl From<TarError> for io::Error {
    /// A truncated archive is [`io::ErrorKind::UnexpectedEof`], a failed source keeps its kind, anything else is
    /// [`io::ErrorKind::InvalidData`].
    fn from(error: TarError) -> io::Error {
        let kind = match &error.kind {
            TarErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
            TarErrorKind::Read(source) => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
