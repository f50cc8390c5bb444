//! A client of containerd and of its CRI: images, snapshots with id mappings, containers, pods.
//!
//! [`Client`] connects to a socket; a [`Session`] is everything one process makes in one namespace of containerd, and
//! takes it back; [`Pods`] does the same through CRI. All calls block; the few threads that do the work belong to the
//! client. What a containerd can do is asked of it ([`Client::snapshotters`], [`Pods::map_ids`]). Only how its own client
//! mounts root file systems ([`Version::mounting`]) can be told by nothing but its version.
//!
//! It refuses to mount: [`Rootfs`] says what containerd would have mounted, whoever wants to mounts it.
//!
//! Invariant: whatever is made carries the identity of the process that made it, so that the next session finds and
//! removes what a killed one left, and nothing else.
#![forbid(unsafe_code)]

mod client;
mod container;
mod error;
mod image;
mod introspect;
mod pods;
mod rootfs;
mod session;
mod spec;
mod version;

#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated; the definitions are documented by those who serve them"
)]
pub mod proto;

pub use client::Client;
pub use container::{Snapshot, Task};
pub use error::{CallError, ConnectError, Kind, Status};
pub use image::{Image, ImageError};
pub use introspect::Snapshotter;
pub use pods::{Pod, Pods, PodsError};
pub use rootfs::{Rootfs, RootfsError};
pub use session::{NAMESPACE, Session, SessionError};
pub use version::{Mounting, Version};
