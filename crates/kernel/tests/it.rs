//! Everything against the running kernel: real mounts, in private namespaces.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

mod it {
    mod fscontext;
    mod mount;
    mod mountns;
    mod perf;
    mod probe;
    mod remove;
    mod table;
    mod userns;
    mod watch;
}
