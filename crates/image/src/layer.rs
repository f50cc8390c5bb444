//! What a layer does to the filesystem below it.
//!
//! [`classify`] turns one tar entry into a [`DiffEntry`]; a [`Tracker`] sees all entries of a layer and knows which of
//! them meet at one name. Both are pure. Whoever writes the layer obeys what they return and resolves every path
//! beneath the layer's own directory.
//!
//! Rules, where the image specification leaves a choice:
//!
//! * **Paths** are relative. `./`, doubled and trailing slashes are dropped; a name that begins with `/` is an
//!   error unless it is the root's, and so is a `..` component, even one that stays inside. The target of a hard link is
//!   looked up in the image only, so a slash in front of it changes nothing. Symbolic links may point anywhere: they
//!   are data, resolved by the container in its own root.
//! * **Parents**: an entry below something that this layer made a non-directory is an error, so no path of a layer ever
//!   passes through one of its symbolic links. So is a non-directory that replaces a directory with entries. A parent
//!   without an entry of its own is an *implied directory*: its owner and mode belong to the layer below, if that has
//!   one. Its entry may come after its contents.
//! * **Duplicates**: a second entry of one name is an error, as the specification has it, however the name is written.
//!   What one reader takes from the first and another from the last is no content anybody has approved. Only a
//!   directory may be named again, with the very same attributes: builders repeat the parents of their files.
//! * **Whiteouts** hide lower layers only, whatever their place in the archive (but for hard links, below), and a whiteout is no second entry of what
//!   it hides: of a whiteout and a node with one name the node stays. If the node is a directory, it becomes opaque and
//!   keeps nothing of the lower one, because what the lower layers have there was removed.
//! * **Names** starting with `.wh.` are reserved. `.wh..wh..opq` makes its directory opaque; AUFS's own bookkeeping at
//!   the top of a layer (`.wh..wh.aufs`, `.wh..wh.plnk`, `.wh..wh.orph`) is skipped, as containerd skips it; any other
//!   `.wh..wh.*`, a whiteout of ``, `.` or `..`, and anything below such a name is an error.
//! * **Refused**: extended attributes `trusted.overlay.*` and character devices 0/0, which overlayfs would read as its
//!   own marks; hard links to directories or to themselves; owners that are no Linux ids; entry types that are none of
//!   file, link, directory, device or fifo.
//! * **Hard links** to names the layer does not have are refused by [`Tracker`], which knows one layer only. An unpacker
//!   that knows the layers below may accept them: it looks there before it asks, and names them by
//!   [`Tracker::add_lower_link`]. Here the order counts, as it does for whoever applies a layer entry by entry: a mark
//!   that hides the target is an error before the link, and after it leaves the link alone with the file.
//! * **Modes** keep `07777`.

mod names;
mod path;
mod rules;
mod tracker;

pub use path::{Components, EntryPath, PathError};
pub use rules::{DiffEntry, LayerError, LayerErrorKind, Meta, Node, NodeKind, classify};
pub use tracker::{Marks, Step, Tracker};

#[cfg(test)]
mod tests;
