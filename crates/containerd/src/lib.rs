//! A client of containerd and of its CRI: so far the stubs.
#![forbid(unsafe_code)]

#[allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    reason = "generated; the definitions are documented by those who serve them"
)]
pub mod proto;
