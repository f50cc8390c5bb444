//! The store against the real kernel and file system.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

#[path = "it/blobs.rs"]
mod blobs;
#[path = "it/containers.rs"]
mod containers;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/crowd.rs"]
mod crowd;
#[path = "it/flat.rs"]
mod flat;
#[path = "it/gc.rs"]
mod gc;
#[path = "it/images.rs"]
mod images;
#[path = "it/import.rs"]
mod import;
#[path = "it/import_images.rs"]
mod import_images;
#[path = "it/layers.rs"]
mod layers;
#[path = "it/leases.rs"]
mod leases;
#[path = "it/merged.rs"]
mod merged;
#[path = "it/open.rs"]
mod open;
#[path = "it/pull.rs"]
mod pull;
#[path = "it/small_disk.rs"]
mod small_disk;
#[path = "it/support.rs"]
mod support;
#[path = "it/unpack.rs"]
mod unpack;
