//! Integration tests.

#[path = "it/stubs.rs"]
mod stubs;
