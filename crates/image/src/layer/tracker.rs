//! All entries of one layer together: parents, duplicates, whiteouts.

use super::names::{self, Names, Seen};
use super::path::EntryPath;
use super::rules::{
    DiffEntry, LayerError, LayerErrorKind, Meta, Node, NodeKind, opaque_mark_of, whiteout_of,
};
use crate::limits;

/// Follows a layer entry by entry. Directories, files and other nodes are to be made as they come, in the way the
/// returned [`Step`] says; attributes of directories, whiteouts and opaque marks at the end, from [`Tracker::finish`],
/// when everything stands and it is known which marks the layer's own nodes outweigh.
///
/// Everything it keeps is charged against [`limits::LAYER_MEMORY_BYTES`]: a few bytes a name, the names and attributes of
/// directories, the names of marks. Whether a name comes a second time is told from the same table as whether its
/// parents stand.
#[derive(Debug, Default)]
pub struct Tracker {
    names: Names,
    directories: Vec<Directory>,
    /// Whiteouts and opaque marks, for the end.
    whiteouts: Vec<EntryPath>,
    opaque: Vec<EntryPath>,
    /// Files of the layers below that hard links are other names of, for the end, when it is known whether they stay.
    link_targets: Vec<EntryPath>,
    /// The one looked at last, which none of so many marks removes: many links may name one file.
    last_kept: Option<(usize, EntryPath)>,
    /// Bytes charged.
    memory: usize,
}

/// A directory and the attributes of its entry, if it has one so far.
#[derive(Debug)]
struct Directory {
    path: EntryPath,
    meta: Option<Box<Meta>>,
}

/// What the allocator needs for itself, about.
const ALLOCATION: usize = 16;
/// A directory beside its name and attributes. A vector may be half empty.
const DIRECTORY: usize = 2 * size_of::<Directory>() + ALLOCATION;
/// Attributes beside the extended ones.
const META: usize = size_of::<Meta>() + ALLOCATION;
/// The first node of a map of extended attributes, and what each adds beside its bytes.
const XATTRS: usize = 11 * 2 * size_of::<Box<[u8]>>() + ALLOCATION;
const XATTR: usize = 4 * size_of::<Box<[u8]>>() + 2 * ALLOCATION;
/// A whiteout or an opaque mark beside its name, which may come twice into [`Marks`].
const MARK: usize = 2 * (2 * size_of::<EntryPath>() + ALLOCATION);

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
    /// Targets of hard links into the layers below that an entry after the link removes: nothing stands there, and the
    /// links alone have the file. Sorted.
    pub removed_targets: Vec<EntryPath>,
    /// All directories without an entry of their own, parents before children, those in `parents` included. Their owner,
    /// mode, times and attributes are those of the directory below, if there is one and it is not `replaced`.
    pub implied: Vec<EntryPath>,
    /// All directories with an entry of their own, parents before children, and the attributes to give them.
    pub directories: Vec<(EntryPath, Box<Meta>)>,
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
            DiffEntry::Whiteout { path } => {
                self.mark(path, &whiteout_of(path), names::WHITEOUT)?;
                self.whiteouts.push(path.clone());
                Ok(Step::Later)
            }
            DiffEntry::Opaque { dir } => {
                self.mark(dir, &opaque_mark_of(dir), names::OPAQUE_MARK)?;
                self.opaque.push(dir.clone());
                Ok(Step::Later)
            }
        }
    }

    /// Whether a node, or an implied directory, stands at `path`.
    pub fn contains(&self, path: &EntryPath) -> bool {
        path.is_root() || self.names.get(path.as_bytes()).is_some()
    }

    /// Bytes of memory the layer's entries have taken so far, at most [`limits::LAYER_MEMORY_BYTES`].
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Whether a hard link has named `path` as a file of the layers below.
    pub fn is_lower_target(&self, path: &EntryPath) -> bool {
        self.names.get(path.as_bytes()) == Some(Seen::Other(names::LINK_TARGET))
    }

    /// Takes a hard link into the layers below: both names will stand in this layer, the target's only if nothing later
    /// removes it. Returns the implied directories to make for the link, topmost first; those of the target are among
    /// [`Marks::parents`].
    pub fn add_lower_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<Vec<EntryPath>, LayerError> {
        self.unless_removed(path, target)?;
        for name in [target, path] {
            if let Some(seen) = self.names.get(name.as_bytes()) {
                return Err(refusal(name, self.refuses(seen, false)));
            }
        }
        self.charge(target, 2 * target.as_bytes().len() + MARK)?;
        self.link_targets.push(target.clone());
        self.insert(target, names::LINK_TARGET)?;
        let parents = self.make_parents(path)?;
        self.insert(path, "hard link")?;
        for at in ancestors(target) {
            if let Some(Seen::Other(kind)) = self.names.get(at) {
                let parent = EntryPath::from_normalised(at);
                return Err(refusal(target, LayerErrorKind::BelowNonDirectory { parent, kind }));
            }
        }
        Ok(parents)
    }

    /// An error if this layer has removed `target`, which the hard link `path` names, already.
    fn unless_removed(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), LayerError> {
        let marks = self.whiteouts.len() + self.opaque.len();
        if self.last_kept.as_ref().is_some_and(|last| last.0 == marks && last.1 == *target) {
            return Ok(());
        }
        if self.is_removed(target) {
            return Err(refusal(path, LayerErrorKind::LinkRemoved { target: target.clone() }));
        }
        self.last_kept = Some((marks, target.clone()));
        Ok(())
    }

    /// Whether a mark that came so far hides what the layers below have at `path`.
    fn is_removed(&self, path: &EntryPath) -> bool {
        let marks = self.whiteouts.len() + self.opaque.len();
        // Whichever takes less: looking at all marks, or hashing each part of the path, which may have 2,000.
        if marks <= path.components().count() {
            return self.whiteouts.iter().any(|mark| mark == path || is_above(mark, path))
                || self.opaque.iter().any(|mark| is_above(mark, path));
        }
        let is_marked = |marker: EntryPath| self.names.get(marker.as_bytes()).is_some();
        is_marked(whiteout_of(path))
            || is_marked(opaque_mark_of(&EntryPath::root()))
            || ancestors(path)
                .map(EntryPath::from_normalised)
                .any(|parent| is_marked(whiteout_of(&parent)) || is_marked(opaque_mark_of(&parent)))
    }

    fn node(&mut self, node: &Node) -> Result<Step, LayerError> {
        let Node { path, kind, meta } = node;
        let refuse = |kind| Err(refusal(path, kind));
        if let NodeKind::HardLink { target } = kind {
            match self.names.get(target.as_bytes()) {
                Some(Seen::Other(names::LINK_TARGET)) => self.unless_removed(path, target)?,
                Some(Seen::Other(_)) => {}
                Some(Seen::Directory(_)) => {
                    let target = target.clone();
                    return refuse(LayerErrorKind::LinkKind { target, what: "a directory" });
                }
                None => return refuse(LayerErrorKind::LinkTarget { target: target.clone() }),
            }
        }
        let is_directory = matches!(kind, NodeKind::Directory);
        match self.names.get(path.as_bytes()) {
            Some(Seen::Directory(place)) if is_directory => match &self.directories[place].meta {
                // Builders repeat the directories above each file, and repeating changes nothing.
                Some(first) if **first == *meta => Ok(Step::Stands),
                Some(_) => refuse(LayerErrorKind::OtherAttributes),
                None => {
                    self.charge(path, meta_bytes(meta))?;
                    self.directories[place].meta = Some(Box::new(meta.clone()));
                    Ok(Step::Stands)
                }
            },
            Some(seen) => refuse(self.refuses(seen, is_directory)),
            None => {
                let parents = self.make_parents(path)?;
                if is_directory {
                    self.charge(path, meta_bytes(meta))?;
                    self.insert_directory(path.clone(), Some(Box::new(meta.clone())))?;
                } else {
                    self.insert(path, kind.name())?;
                }
                Ok(if path.is_root() { Step::Stands } else { Step::Create { parents } })
            }
        }
    }

    /// Notes a mark of `path`, which comes once.
    fn mark(&mut self, path: &EntryPath, marker: &EntryPath, what: &'static str) -> Result<(), LayerError> {
        if self.names.get(marker.as_bytes()).is_some() {
            return Err(refusal(marker, LayerErrorKind::Duplicate { earlier: what }));
        }
        // Both lists of marks, and the set of those that are opaque.
        self.charge(path, names::BYTES + 2 * path.as_bytes().len() + MARK)?;
        self.names.insert(marker.as_bytes(), Seen::Other(what));
        Ok(())
    }

    /// Notes the directories above `path` that nothing has named yet, topmost first.
    fn make_parents(&mut self, path: &EntryPath) -> Result<Vec<EntryPath>, LayerError> {
        let mut missing = Vec::new();
        for at in ancestors(path) {
            match self.names.get(at) {
                Some(Seen::Other(kind)) => {
                    let parent = EntryPath::from_normalised(at);
                    let kind = LayerErrorKind::BelowNonDirectory { parent, kind };
                    return Err(refusal(path, kind));
                }
                Some(Seen::Directory(_)) => break,
                None => missing.push(EntryPath::from_normalised(at)),
            }
        }
        missing.reverse();
        for parent in &missing {
            self.insert_directory(parent.clone(), None)?;
        }
        Ok(missing)
    }

    fn insert(&mut self, path: &EntryPath, what: &'static str) -> Result<(), LayerError> {
        self.charge(path, names::BYTES)?;
        self.names.insert(path.as_bytes(), Seen::Other(what));
        Ok(())
    }

    fn insert_directory(&mut self, path: EntryPath, meta: Option<Box<Meta>>) -> Result<(), LayerError> {
        self.charge(&path, names::BYTES + path.as_bytes().len() + DIRECTORY)?;
        self.names.insert(path.as_bytes(), Seen::Directory(self.directories.len()));
        self.directories.push(Directory { path, meta });
        Ok(())
    }

    /// Accounts for what is about to be kept of an entry.
    fn charge(&mut self, path: &EntryPath, bytes: usize) -> Result<(), LayerError> {
        self.memory += bytes;
        if self.memory > limits::LAYER_MEMORY_BYTES {
            return Err(refusal(path, LayerErrorKind::TooMuch));
        }
        Ok(())
    }

    /// Why nothing else can come after what stands at a name.
    fn refuses(&self, seen: Seen, is_directory: bool) -> LayerErrorKind {
        match seen {
            Seen::Directory(place) if self.directories[place].meta.is_none() && !is_directory => {
                LayerErrorKind::ReplacesDirectory
            }
            Seen::Directory(_) => LayerErrorKind::Duplicate { earlier: NodeKind::Directory.name() },
            Seen::Other(earlier) => LayerErrorKind::Duplicate { earlier },
        }
    }

    /// The layer is complete: what remains to be marked.
    pub fn finish(mut self) -> Result<Marks, LayerError> {
        let mut marks = Marks::default();
        for target in std::mem::take(&mut self.link_targets) {
            // Only marks that came after the link are left to do so.
            if self.is_removed(&target) {
                self.names.remove(target.as_bytes());
                marks.removed_targets.push(target);
            } else {
                marks.parents.extend(self.make_parents(&target)?);
            }
        }
        marks.removed_targets.sort_unstable();
        let mut whiteouts = std::mem::take(&mut self.whiteouts);
        let mut opaque = std::mem::take(&mut self.opaque);
        whiteouts.sort_unstable();
        opaque.sort_unstable();

        for dir in &opaque {
            if dir.is_root() {
                continue;
            }
            match self.names.get(dir.as_bytes()) {
                Some(Seen::Other(kind)) => {
                    let kind = LayerErrorKind::BelowNonDirectory { parent: dir.clone(), kind };
                    return Err(refusal(dir, kind));
                }
                Some(_) => {}
                None => {
                    marks.parents.extend(self.make_parents(dir)?);
                    self.insert_directory(dir.clone(), None)?;
                    marks.parents.push(dir.clone());
                }
            }
        }
        for path in &whiteouts {
            if self.names.get(path.as_bytes()).is_none() {
                marks.parents.extend(self.make_parents(path)?);
            }
        }
        // Only now are all directories known, those implied by other marks included.
        whiteouts.retain(|path| match self.names.get(path.as_bytes()) {
            Some(Seen::Directory(_)) => {
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
        if self.names.get(EntryPath::root().as_bytes()).is_none() {
            marks.implied.push(EntryPath::root());
        }
        // What follows takes no more than this gives back.
        drop(std::mem::take(&mut self.names));
        for Directory { path, meta } in self.directories {
            match meta {
                None => marks.implied.push(path),
                Some(meta) => marks.directories.push((path, meta)),
            }
        }
        marks.implied.sort_unstable();
        marks.directories.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Marks { whiteouts, opaque, ..marks })
    }
}

/// What keeping these attributes takes.
fn meta_bytes(meta: &Meta) -> usize {
    let attributes: usize = meta.xattrs.iter().map(|(name, value)| XATTR + name.len() + value.len()).sum();
    META + if meta.xattrs.is_empty() { 0 } else { XATTRS } + attributes
}

fn refusal(path: &EntryPath, kind: LayerErrorKind) -> LayerError {
    LayerError::new(path.as_path().as_os_str().as_encoded_bytes(), kind)
}

/// Whether `dir` is a directory above `path`.
fn is_above(dir: &EntryPath, path: &EntryPath) -> bool {
    let below = path.as_bytes().strip_prefix(dir.as_bytes());
    dir.is_root() || below.is_some_and(|below| below.first() == Some(&b'/'))
}

/// The directories above `path`, the nearest first, but for the root.
fn ancestors(path: &EntryPath) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path.as_bytes()), |at| {
        at.iter().rposition(|byte| *byte == b'/').map(|slash| &at[..slash])
    })
    .skip(1)
}
