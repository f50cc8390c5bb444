//! All entries of one layer together: parents, duplicates, whiteouts.

use std::collections::HashMap;

use super::path::EntryPath;
use super::rules::{DiffEntry, LayerError, LayerErrorKind, Node, NodeKind};
use crate::limits;

/// Follows a layer entry by entry. Directories, files and other nodes are to be made as they come, in the way the
/// returned [`Step`] says; whiteouts and opaque marks at the end, from [`Tracker::finish`], when it is known which of them
/// the layer's own nodes outweigh.
#[derive(Debug, Default)]
pub struct Tracker {
    names: HashMap<EntryPath, Seen>,
    name_bytes: usize,
    /// Whiteouts and opaque marks, for the end.
    whiteouts: Vec<EntryPath>,
    opaque: Vec<EntryPath>,
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    /// A directory below which something else was seen.
    occupied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Implied,
    Directory,
    /// Anything else, by its name for messages.
    Other(&'static str),
}

impl Kind {
    fn is_directory(self) -> bool {
        !matches!(self, Kind::Other(_))
    }
}

/// How to make an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make it: nothing of this layer stands there. First make these implied directories, topmost first (usually none).
    Create {
        /// Parents that are not there yet.
        parents: Vec<EntryPath>,
    },
    /// A directory stands there and is to stay: give it this entry's attributes.
    Update,
    /// Remove the non-directory, or empty directory, that stands there; then make it.
    Replace,
    /// Nothing now: [`Tracker::finish`] returns it if it is needed.
    Later,
}

/// What remains to be done when all nodes stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Implied directories still to make for the marks below, parents before children.
    pub parents: Vec<EntryPath>,
    /// Names to white out. Nothing of this layer stands there.
    pub whiteouts: Vec<EntryPath>,
    /// Directories to mark opaque. They stand, or are in `parents`.
    pub opaque: Vec<EntryPath>,
    /// Those of `opaque` that are so because a whiteout has their own name: nothing of the lower directory is left, its owner
    /// and mode included. The others only hide what is in it.
    pub replaced: Vec<EntryPath>,
    /// All directories without an entry of their own, parents before children, those in `parents` included. Their owner,
    /// mode, times and attributes are those of the directory below, if there is one and it is not `replaced`.
    pub implied: Vec<EntryPath>,
}

impl Tracker {
    /// An empty layer: only its root, implied.
    pub fn new() -> Tracker {
        Tracker::default()
    }

    /// Takes the next entry of the layer.
    pub fn add(&mut self, entry: &DiffEntry) -> Result<Step, LayerError> {
        match entry {
            DiffEntry::Node(node) => self.node(node),
            DiffEntry::Whiteout { path } => self.mark(path, |tracker| &mut tracker.whiteouts),
            DiffEntry::Opaque { dir } => self.mark(dir, |tracker| &mut tracker.opaque),
        }
    }

    /// Whether a node, or an implied directory, stands at `path`.
    pub fn contains(&self, path: &EntryPath) -> bool {
        path.is_root() || self.names.contains_key(path)
    }

    fn node(&mut self, node: &Node) -> Result<Step, LayerError> {
        let Node { path, kind, .. } = node;
        let refuse = |kind| Err(LayerError::new(path.as_bytes(), kind));
        if let NodeKind::HardLink { target } = kind {
            match self.names.get(target).map(|seen| seen.kind) {
                Some(Kind::Other(_)) => {}
                Some(_) => {
                    let target = target.clone();
                    return refuse(LayerErrorKind::LinkKind { target, what: "a directory" });
                }
                None => return refuse(LayerErrorKind::LinkTarget { target: target.clone() }),
            }
        }
        let fresh = match kind {
            NodeKind::Directory => Kind::Directory,
            other => Kind::Other(other.name()),
        };
        if let Some(seen) = self.names.get_mut(path) {
            let directories = (seen.kind.is_directory(), fresh.is_directory());
            if directories == (true, false) && seen.occupied {
                return refuse(LayerErrorKind::ReplacesDirectory);
            }
            seen.kind = fresh;
            return Ok(if directories == (true, true) { Step::Update } else { Step::Replace });
        }
        if path.is_root() {
            self.insert(path.clone(), Seen { kind: fresh, occupied: true })?;
            return Ok(Step::Update);
        }
        let parents = self.make_parents(path)?;
        self.insert(path.clone(), Seen { kind: fresh, occupied: false })?;
        Ok(Step::Create { parents })
    }

    fn mark(
        &mut self,
        path: &EntryPath,
        list: impl FnOnce(&mut Tracker) -> &mut Vec<EntryPath>,
    ) -> Result<Step, LayerError> {
        self.charge(path)?;
        list(self).push(path.clone());
        Ok(Step::Later)
    }

    /// Notes the directories above `path` that nothing has named yet, topmost first.
    fn make_parents(&mut self, path: &EntryPath) -> Result<Vec<EntryPath>, LayerError> {
        let mut missing = Vec::new();
        let mut at = path.as_bytes();
        while let Some(slash) = at.iter().rposition(|byte| *byte == b'/') {
            at = &at[..slash];
            match self.names.get_mut(at) {
                Some(Seen { kind: Kind::Other(kind), .. }) => {
                    let parent = EntryPath::from_normalised(at);
                    let kind = LayerErrorKind::BelowNonDirectory { parent, kind };
                    return Err(LayerError::new(path.as_bytes(), kind));
                }
                Some(seen) => {
                    seen.occupied = true;
                    break;
                }
                None => missing.push(EntryPath::from_normalised(at)),
            }
        }
        missing.reverse();
        for parent in &missing {
            self.insert(parent.clone(), Seen { kind: Kind::Implied, occupied: true })?;
        }
        Ok(missing)
    }

    fn insert(&mut self, path: EntryPath, seen: Seen) -> Result<(), LayerError> {
        self.charge(&path)?;
        self.names.insert(path, seen);
        Ok(())
    }

    /// Accounts for a name kept in memory.
    fn charge(&mut self, path: &EntryPath) -> Result<(), LayerError> {
        let too_many =
            |what, limit| Err(LayerError::new(path.as_bytes(), LayerErrorKind::TooMany { what, limit }));
        let count = self.names.len() + self.whiteouts.len() + self.opaque.len();
        if count >= limits::LAYER_NAMES {
            return too_many("names", limits::LAYER_NAMES);
        }
        self.name_bytes += path.as_bytes().len();
        if self.name_bytes > limits::LAYER_NAME_BYTES {
            return too_many("bytes of names", limits::LAYER_NAME_BYTES);
        }
        Ok(())
    }

    /// The layer is complete: what remains to be marked.
    pub fn finish(mut self) -> Result<Marks, LayerError> {
        let mut marks = Marks::default();
        let mut whiteouts = std::mem::take(&mut self.whiteouts);
        let mut opaque = std::mem::take(&mut self.opaque);

        for dir in &opaque {
            if dir.is_root() {
                continue;
            }
            match self.names.get_mut(dir) {
                Some(Seen { kind: Kind::Other(kind), .. }) => {
                    let kind = LayerErrorKind::BelowNonDirectory { parent: dir.clone(), kind };
                    return Err(LayerError::new(dir.as_bytes(), kind));
                }
                Some(_) => {}
                None => {
                    marks.parents.extend(self.make_parents(dir)?);
                    self.insert(dir.clone(), Seen { kind: Kind::Implied, occupied: false })?;
                    marks.parents.push(dir.clone());
                }
            }
        }
        for path in &whiteouts {
            if !self.names.contains_key(path) {
                marks.parents.extend(self.make_parents(path)?);
            }
        }
        // Only now are all directories known, those implied by other marks included.
        whiteouts.retain(|path| match self.names.get(path).map(|seen| seen.kind) {
            Some(kind) if kind.is_directory() => {
                opaque.push(path.clone());
                marks.replaced.push(path.clone());
                false
            }
            Some(_) => false,
            None => true,
        });
        for list in [&mut whiteouts, &mut opaque, &mut marks.replaced] {
            list.sort_unstable();
            list.dedup();
        }
        // Not `names`' own order: it differs from run to run.
        marks.parents.sort_unstable();
        marks.implied = self
            .names
            .iter()
            .filter(|(_, seen)| seen.kind == Kind::Implied)
            .map(|(path, _)| path.clone())
            .collect();
        if !self.names.contains_key(&EntryPath::root()) {
            marks.implied.push(EntryPath::root());
        }
        marks.implied.sort_unstable();
        Ok(Marks { whiteouts, opaque, ..marks })
    }
}
