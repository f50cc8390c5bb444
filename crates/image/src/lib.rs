//! OCI images as pure data.
//!
//! Digests, references, platforms, manifests, configs, the tar stream of a layer and the rules that turn its entries
//! into a filesystem change. Nothing here opens a file, a socket or a clock: every function takes bytes or a generic
//! [`std::io::Read`] and returns data.
//!
//! Everything parsed here is hostile until proven otherwise. The invariant of the crate: a value of one of its types
//! obeys the bounds of [`limits`], and an [`layer::EntryPath`] cannot name anything outside the tree it is used in.
#![forbid(unsafe_code)]

pub mod config;
pub mod digest;
pub mod layer;
pub mod limits;
pub mod manifest;
pub mod platform;
pub mod printable;
pub mod reference;
pub mod signal;
pub mod tar;
#[doc(hidden)]
pub mod testing;

pub use config::ImageConfig;
pub use digest::{ChainId, DiffId, Digest};
pub use manifest::{Descriptor, Document, Index, Manifest};
pub use platform::Platform;
pub use printable::printable;
pub use reference::Reference;
