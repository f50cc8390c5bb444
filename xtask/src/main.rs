//! Set-up, demo, tests and checks of plywood.
#![forbid(unsafe_code)]
fn main() {}
