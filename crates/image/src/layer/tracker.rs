//! All entries of one layer together: parents, duplicates, whiteouts.

use std::collections::HashMap;

use super::path::EntryPath;
use super::rules::{
    DiffEntry, LayerError, LayerErrorKind, Meta, Node, NodeKind, opaque_mark_of, whiteout_of,
};
use crate::limits;

/// Follows a layer entry by entry. Directories, files and other nodes are to be made as they come, in the way the
/// returned [`Step`] says; attributes of directories, whiteouts and opaque marks at the end, from [`Tracker::finish`],
/// when everything stands and it is known which marks the layer's own nodes outweigh.
///
/// Its memory is that of the layer's names, which [`limits`] bounds: whether a name comes a second time is told from
/// the same table as whether its parents stand.
#[derive(Debug, Default)]
pub struct Tracker {
    names: HashMap<EntryPath, Seen>,
    name_bytes: usize,
    /// Whiteouts and opaque marks, for the end.
    whiteouts: Vec<EntryPath>,
    opaque: Vec<EntryPath>,
}

/// What stands at a name.
#[derive(Debug)]
enum Seen {
    /// A directory without an entry of its own, so far.
    Implied,
    /// A directory and the attributes of its entry.
    Directory(Box<Meta>),
    /// Anything else, by its name for messages.
    Other(&'static str),
}

/// How to make an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make it: nothing of this layer stands there. First make these implied directories, topmost first (usually none).
    Create {
        /// Parents that are not there yet.
        parents: Vec<EntryPath>,
    },
    /// Nothing: the directory stands there already.
    Stands,
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
    /// All directories with an entry of their own, parents before children, and the attributes to give them.
    pub directories: Vec<(EntryPath, Meta)>,
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

    /// Takes a hard link into the layers below: both names will stand in this layer. Returns the implied directories to
    /// make, topmost first.
    pub fn add_lower_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<Vec<EntryPath>, LayerError> {
        let mut parents = Vec::new();
        for (name, what) in [(target, "target of a hard link"), (path, "hard link")] {
            if let Some(seen) = self.names.get(name) {
                return Err(refusal(name, seen.refuses(&Seen::Other(what))));
            }
            parents.extend(self.make_parents(name)?);
            self.insert(name.clone(), Seen::Other(what))?;
        }
        Ok(parents)
    }

    fn node(&mut self, node: &Node) -> Result<Step, LayerError> {
        let Node { path, kind, meta } = node;
        let refuse = |kind| Err(refusal(path, kind));
        if let NodeKind::HardLink { target } = kind {
            match self.names.get(target) {
                Some(Seen::Other(_)) => {}
                Some(_) => {
                    let target = target.clone();
                    return refuse(LayerErrorKind::LinkKind { target, what: "a directory" });
                }
                None => return refuse(LayerErrorKind::LinkTarget { target: target.clone() }),
            }
        }
        let fresh = match kind {
            NodeKind::Directory => Seen::Directory(Box::new(meta.clone())),
            other => Seen::Other(other.name()),
        };
        match (self.names.get_mut(path), &fresh) {
            // Builders repeat the directories above each file, and repeating changes nothing.
            (Some(Seen::Directory(first)), Seen::Directory(again)) if first == again => Ok(Step::Stands),
            (Some(seen @ Seen::Implied), Seen::Directory(_)) => {
                *seen = fresh;
                Ok(Step::Stands)
            }
            (Some(seen), _) => refuse(seen.refuses(&fresh)),
            (None, _) if path.is_root() => {
                self.insert(path.clone(), fresh)?;
                Ok(Step::Stands)
            }
            (None, _) => {
                let parents = self.make_parents(path)?;
                self.insert(path.clone(), fresh)?;
                Ok(Step::Create { parents })
            }
        }
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
            match self.names.get(at) {
                Some(Seen::Other(kind)) => {
                    let parent = EntryPath::from_normalised(at);
                    let kind = LayerErrorKind::BelowNonDirectory { parent, kind };
                    return Err(refusal(path, kind));
                }
                Some(_) => break,
                None => missing.push(EntryPath::from_normalised(at)),
            }
        }
        missing.reverse();
        for parent in &missing {
            self.insert(parent.clone(), Seen::Implied)?;
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
        let too_many = |what, limit| Err(refusal(path, LayerErrorKind::TooMany { what, limit }));
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
        once(&mut whiteouts, "whiteout", whiteout_of)?;
        once(&mut opaque, "opaque mark", opaque_mark_of)?;

        for dir in &opaque {
            if dir.is_root() {
                continue;
            }
            match self.names.get(dir) {
                Some(Seen::Other(kind)) => {
                    let kind = LayerErrorKind::BelowNonDirectory { parent: dir.clone(), kind };
                    return Err(refusal(dir, kind));
                }
                Some(_) => {}
                None => {
                    marks.parents.extend(self.make_parents(dir)?);
                    self.insert(dir.clone(), Seen::Implied)?;
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
        whiteouts.retain(|path| match self.names.get(path) {
            Some(Seen::Implied | Seen::Directory(_)) => {
                opaque.push(path.clone());
                marks.replaced.push(path.clone());
                false
            }
            Some(Seen::Other(_)) => false,
            None => true,
        });
        // A directory can be opaque for two reasons: it is marked, and its own name whited out.
        opaque.sort_unstable();
        opaque.dedup();
        marks.parents.sort_unstable();
        if !self.names.contains_key(&EntryPath::root()) {
            marks.implied.push(EntryPath::root());
        }
        for (path, seen) in self.names {
            match seen {
                Seen::Implied => marks.implied.push(path),
                Seen::Directory(meta) => marks.directories.push((path, *meta)),
                Seen::Other(_) => {}
            }
        }
        // Not the table's own order: it differs from run to run.
        marks.implied.sort_unstable();
        marks.directories.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Marks { whiteouts, opaque, ..marks })
    }
}

impl Seen {
    /// Why `fresh` cannot come after what stands here.
    fn refuses(&self, fresh: &Seen) -> LayerErrorKind {
        match (self, fresh) {
            (Seen::Directory(_), Seen::Directory(_)) => LayerErrorKind::OtherAttributes,
            (Seen::Directory(_), _) => LayerErrorKind::Duplicate { earlier: NodeKind::Directory.name() },
            (Seen::Implied, _) => LayerErrorKind::ReplacesDirectory,
            (Seen::Other(earlier), _) => LayerErrorKind::Duplicate { earlier },
        }
    }
}

fn refusal(path: &EntryPath, kind: LayerErrorKind) -> LayerError {
    LayerError::new(path.as_path().as_os_str().as_encoded_bytes(), kind)
}

/// Sorts marks of one kind; an error if there are two of one name.
fn once(
    marks: &mut [EntryPath],
    what: &'static str,
    marker: fn(&EntryPath) -> EntryPath,
) -> Result<(), LayerError> {
    marks.sort_unstable();
    match marks.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let kind = LayerErrorKind::Duplicate { earlier: what };
            Err(refusal(&marker(&pair[1]), kind))
        }
        None => Ok(()),
    }
}
