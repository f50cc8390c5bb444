//! The engine against the running kernel: real mounts, in private namespaces.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

mod it {
    mod assembly;
    mod launch;
}
