//! Everything against the running kernel.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

mod it {
    mod browser;
    mod bystander;
    mod containerd;
    mod count;
}
