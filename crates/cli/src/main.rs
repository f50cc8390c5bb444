//! The plywood command.
#![forbid(unsafe_code)]
fn main() {}
