//! Paths inside a layer.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::limits;

/// A path relative to the root of a layer, without `.`, `..`, empty components, NUL or surrounding slashes. The root
/// itself is the empty path, shown as `.`.
///
/// It cannot name anything above the root. It says nothing about symbolic links on the way: resolve it beneath a
/// directory descriptor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

/// Why a name cannot be a path in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// A `/` in front of something: what it would be relative to is anybody's guess. A lone `/` is the layer's root,
    /// as kaniko writes it.
    #[error("the name is absolute, it begins with \"/\"")]
    Absolute,
    /// A `..` component.
    #[error("the name contains \"..\"")]
    DotDot,
    /// A NUL byte.
    #[error("the name contains a NUL")]
    Nul,
    /// Longer than the kernel takes in one call.
    #[error("the name is longer than {} bytes", limits::PATH_BYTES - 1)]
    TooLong,
    /// A component longer than file systems hold.
    #[error("a component of the name is longer than {} bytes", limits::COMPONENT_BYTES)]
    ComponentTooLong,
}

impl EntryPath {
    /// The root of the layer.
    pub fn root() -> EntryPath {
        EntryPath(Box::default())
    }

    /// Checks and normalises a name from an archive.
    pub fn new(name: &[u8]) -> Result<EntryPath, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        if name.starts_with(b"/") && name.iter().any(|byte| *byte != b'/') {
            return Err(PathError::Absolute);
        }
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::DotDot),
                _ if component.contains(&0) => return Err(PathError::Nul),
                _ if component.len() > limits::COMPONENT_BYTES => return Err(PathError::ComponentTooLong),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.len() >= limits::PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(EntryPath(path.into_boxed_slice()))
    }

    /// The normalised bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path to open relative to the layer's directory; `.` for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.is_root() { b"." } else { &self.0 }))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory holding this entry; `None` for the root.
    pub fn parent(&self) -> Option<EntryPath> {
        self.split().map(|(parent, _)| EntryPath(parent.into()))
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&OsStr> {
        self.split().map(|(_, name)| OsStr::from_bytes(name))
    }

    /// The components from the root downwards.
    pub fn components(&self) -> Components<'_> {
        Components { rest: &self.0 }
    }

    /// This path with one more component, which must be a plain name.
    pub(super) fn child(&self, name: &[u8]) -> EntryPath {
        debug_assert!(!name.is_empty() && !name.contains(&b'/'));
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        EntryPath(path.into_boxed_slice())
    }

    /// Directory part and last component.
    pub(super) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }

    /// A path known to be normalised: a prefix of another one.
    pub(super) fn from_normalised(path: &[u8]) -> EntryPath {
        EntryPath(path.into())
    }
}

impl std::borrow::Borrow<[u8]> for EntryPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<Path> for EntryPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { write!(f, "{}", self.0.escape_ascii()) }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Components of an [`EntryPath`].
#[derive(Debug, Clone)]
pub struct Components<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Components<'a> {
    type Item = &'a OsStr;

    fn next(&mut self) -> Option<&'a OsStr> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'/').unwrap_or(self.rest.len());
        let (component, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or(&[]);
        Some(OsStr::from_bytes(component))
    }
}
