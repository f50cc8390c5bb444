//! The lower directories of a rootfs: what they are and where they lie.
//!
//! All of them lie below one directory, because one idmapped clone of that directory then covers them all. The
//! engine does not know what keeps them; it is given names.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kernel's limit on overlay lower layers; the 501st is EINVAL.
pub const MAX_LOWERS: usize = 500;

/// What the lower directories are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LowerSource {
    /// One merged tree of the whole image.
    Flat,
    /// The image's layers, one lower directory each.
    Layers,
}

impl LowerSource {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Flat, Self::Layers];

    /// The name people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Layers => "layers",
        }
    }
}

impl fmt::Display for LowerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LowerSource {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| UnknownName { name: name.to_owned(), known: Self::ALL.map(Self::name).join(", ") })
    }
}

/// A name that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is none of {known}")]
pub struct UnknownName {
    /// What was given.
    pub name: String,
    /// What there is.
    pub known: String,
}

/// One lower directory: its name below the common parent, for instance `17/fs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LowerRef(PathBuf);

impl LowerRef {
    /// Accepts plain relative names only: no `..`, no absolute path, nothing empty.
    pub fn new(name: impl Into<PathBuf>) -> Result<Self, LowersError> {
        let name = name.into();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if name.as_os_str().is_empty() || !name.components().all(plain) {
            return Err(LowersError::Name { name });
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn name(&self) -> &Path {
        &self.0
    }
}

/// The lower directories of one image, topmost first, below their common parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowers {
    source: LowerSource,
    parent: PathBuf,
    names: Vec<LowerRef>,
}

/// A set of lower directories no overlay can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LowersError {
    /// There is none.
    #[error("an image needs at least one layer")]
    None,
    /// There are more than the kernel takes.
    #[error(
        "{count} layers, but the kernel's overlay takes at most {MAX_LOWERS}; build the image with fewer: squash \
         them, or copy the result into a last stage of its own"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A flat tree is one directory.
    #[error("a flat tree is one directory, not {count}")]
    FlatIsOne {
        /// How many were given.
        count: usize,
    },
    /// The common parent must be absolute: it is used in more than one working directory.
    #[error("the layers' parent directory `{}` is not an absolute path", parent.display())]
    Parent {
        /// The directory.
        parent: PathBuf,
    },
    /// A name that could leave the parent.
    #[error("`{}` is no plain name below the layers' parent directory", name.display())]
    Name {
        /// The name.
        name: PathBuf,
    },
}

impl Lowers {
    /// The layers of an image, topmost first. 1 to [`MAX_LOWERS`].
    pub fn layers(parent: impl Into<PathBuf>, names: Vec<LowerRef>) -> Result<Self, LowersError> {
        Self::new(LowerSource::Layers, parent.into(), names)
    }

    /// The flat tree of an image.
    pub fn flat(parent: impl Into<PathBuf>, name: LowerRef) -> Result<Self, LowersError> {
        Self::new(LowerSource::Flat, parent.into(), vec![name])
    }

    /// Checks and keeps the names, topmost first.
    pub fn new(source: LowerSource, parent: PathBuf, names: Vec<LowerRef>) -> Result<Self, LowersError> {
        match names.len() {
            0 => return Err(LowersError::None),
            count if source == LowerSource::Flat && count > 1 => {
                return Err(LowersError::FlatIsOne { count });
            }
            count if count > MAX_LOWERS => return Err(LowersError::TooMany { count }),
            _ => {}
        }
        if !parent.is_absolute() {
            return Err(LowersError::Parent { parent });
        }
        Ok(Self { source, parent, names })
    }

    /// What the directories are.
    pub fn source(&self) -> LowerSource {
        self.source
    }

    /// The directory all of them lie below; absolute.
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// The names below the parent, topmost first; never empty.
    pub fn names(&self) -> &[LowerRef] {
        &self.names
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The full path of the topmost one, as the store keeps it.
    pub fn topmost(&self) -> PathBuf {
        self.parent.join(&self.names[0].0)
    }
}
