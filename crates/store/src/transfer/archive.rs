//! An image in one tar file: what `skopeo copy oci-archive:` and `docker save` write.
//!
//! One pass over the file notes where each member's data starts; later reads go straight there. A compressed archive,
//! or one that comes through a pipe, goes into an unnamed file of the store on the way, which disappears with
//! this process whatever happens. Nothing beyond the archive's end goes there, and of what is no archive no more than
//! a buffer. Member names are only keys of a table: nothing is ever created by them.

mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plywood_image::tar::{EntryType, Reader, TarError};

use super::Cancel;
use super::section::Section;
use super::stoppable::{self, Stoppable};
use crate::unpack::decompress::Compression;
use crate::unpack::{Room, RoomError};

/// An image archive has a few members a layer.
const MAX_MEMBERS: usize = 10_000;

/// Bytes of the names of all members, and of what links point to. They are kept as long as the archive is read.
const MAX_NAME_BYTES: usize = 4 << 20;

/// `docker save` of old made one layer a symbolic link to its twin; longer chains have no reason.
const MAX_LINKS: usize = 8;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file cannot be opened or read.
    #[error("cannot read the archive {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// What reading it answered.
        #[source]
        source: io::Error,
    },
    /// The file is not a tar archive, or is damaged.
    #[error("{} is not a readable tar archive", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// An archive that ends where it begins, like a stream of zeros.
    #[error("{} is no archive of an image: there is nothing in it", path.display())]
    Empty {
        /// The archive.
        path: PathBuf,
    },
    /// Too many members.
    #[error("the archive {} has more than {limit} members", path.display())]
    Members {
        /// The archive.
        path: PathBuf,
        /// Most members accepted.
        limit: usize,
    },
    /// Members with names that are too long together.
    #[error("the members of the archive {} have names of more than {limit} bytes", path.display())]
    Names {
        /// The archive.
        path: PathBuf,
        /// Most bytes accepted.
        limit: usize,
    },
    /// The unpacked archive is more than there is room for.
    #[error("the archive {} is too large", path.display())]
    Room {
        /// The archive.
        path: PathBuf,
        /// The bound.
        #[source]
        source: RoomError,
    },
    /// The unpacked archive could not be written to the store.
    #[error("cannot unpack the compressed archive {} into {}", path.display(), into.display())]
    Spool {
        /// The archive.
        path: PathBuf,
        /// The directory.
        into: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// Where everything is in an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    /// Where the archive begins in it.
    base: u64,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    File { start: u64, size: u64 },
    Link(Vec<u8>),
}

impl Archive {
    /// Opens and scans `path`; the rest as in [`Archive::of`].
    pub(crate) fn open(
        path: &Path,
        spool: &Path,
        room: &Room<'_>,
        stop: &Cancel,
    ) -> Result<Self, ArchiveError> {
        let source = stoppable::open(path, stop)
            .map_err(|source| ArchiveError::Read { path: path.to_owned(), source })?;
        Self::of(source, path, spool, room, stop)
    }

    /// Scans what `source` gives from where it stands; errors call it `path`. `spool`: a directory for an unnamed file,
    /// `room` how large it may become. `stop` ends all waiting and reading with an error.
    pub(crate) fn of(
        mut source: File,
        path: &Path,
        spool: &Path,
        room: &Room<'_>,
        stop: &Cancel,
    ) -> Result<Self, ArchiveError> {
        let read_failed = |source| ArchiveError::Read { path: path.to_owned(), source };
        let metadata = source.metadata().map_err(read_failed)?;
        if metadata.is_dir() {
            return Err(read_failed(io::ErrorKind::IsADirectory.into()));
        }
        if metadata.is_file() {
            let base = source.stream_position().map_err(read_failed)?;
            let file = Arc::new(source.try_clone().map_err(read_failed)?);
            let section = Section::new(file.clone(), base, metadata.len().saturating_sub(base));
            let mut start = Vec::with_capacity(4);
            section.clone().take(4).read_to_end(&mut start).map_err(read_failed)?;
            if Compression::of(&start) == Compression::None {
                let members = scan(Stoppable::new(section, stop), path)?;
                return Ok(Self { file, base, members });
            }
        }
        let (file, members) = spool::scan(&source, path, spool, room, stop)?;
        Ok(Self { file: Arc::new(file), base: 0, members })
    }

    /// A member's data. `name` as in manifests: relative, without `.` and `..`.
    pub(crate) fn member(&self, name: &[u8]) -> Option<Section> {
        let mut name = normal(name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File { start, size } => {
                    return Some(Section::new(self.file.clone(), self.base.saturating_add(*start), *size));
                }
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// Reads no further than the archive's end, but for a buffer.
fn scan(archive: impl Read, path: &Path) -> Result<HashMap<Vec<u8>, Member>, ArchiveError> {
    let tar_failed = |source| ArchiveError::Tar { path: path.to_owned(), source };
    let mut reader = Reader::new(archive);
    let mut members = HashMap::new();
    let mut name_bytes = 0;
    while let Some(header) = reader.next_entry().map_err(tar_failed)? {
        let Some(name) = normal(&header.path) else {
            tracing::warn!(member = %header.path.escape_ascii(), "archive member outside the archive ignored");
            continue;
        };
        let member = match header.entry_type {
            // A sparse member's bytes are not what its digest covers.
            EntryType::File if header.sparse.is_none() => {
                Member::File { start: reader.position(), size: header.size }
            }
            EntryType::HardLink => match normal(&header.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            EntryType::Symlink => match relative_to(&name, &header.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        name_bytes += name.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
        if name_bytes > MAX_NAME_BYTES {
            return Err(ArchiveError::Names { path: path.to_owned(), limit: MAX_NAME_BYTES });
        }
        // A later member replaces an earlier one, as unpacking would.
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(ArchiveError::Members { path: path.to_owned(), limit: MAX_MEMBERS });
        }
    }
    if members.is_empty() {
        return Err(ArchiveError::Empty { path: path.to_owned() });
    }
    Ok(members)
}

/// A name without `.` and doubled slashes; `None` for one that is absolute or has `..`.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(b"/") {
        return None;
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// What a symbolic link at `name` points to, if that is inside the archive.
fn relative_to(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use plywood_image::testing::TarBuilder;

    use super::*;

    /// 100,000 members with names and targets of 4 KiB were 800 MB.
    #[test]
    fn names_of_members_are_bounded() {
        let name = |n: usize| format!("{n}/{}x", "directory/".repeat(300));
        let many = (0..2000).fold(TarBuilder::new(), |tar, n| tar.file(name(n), ""));
        let links = (0..1000).fold(TarBuilder::new(), |tar, n| tar.symlink(name(n), "x".repeat(2000)));
        for tar in [many, links] {
            let error = scan(&tar.finish()[..], Path::new("a")).unwrap_err();
            assert!(matches!(error, ArchiveError::Names { .. }), "{error}");
        }
        let many = (0..=MAX_MEMBERS).fold(TarBuilder::new(), |tar, n| tar.file(n.to_string(), ""));
        let error = scan(&many.finish()[..], Path::new("a")).unwrap_err();
        assert!(matches!(error, ArchiveError::Members { .. }), "{error}");
    }

    #[test]
    fn names_are_keys_inside_the_archive() {
        let text = |name: Option<Vec<u8>>| name.map(|n| String::from_utf8(n).unwrap());
        assert_eq!(text(normal(b"./a//b/./c")), Some("a/b/c".into()));
        assert_eq!(text(normal(b"/a")), None);
        assert_eq!(text(normal(b"a/../b")), None);
        assert_eq!(text(relative_to(b"x/layer.tar", b"../y/layer.tar")), Some("y/layer.tar".into()));
        assert_eq!(text(relative_to(b"x/layer.tar", b"../../y")), None);
        assert_eq!(text(relative_to(b"x/layer.tar", b"/y")), None);
    }
}
