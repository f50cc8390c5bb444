//! Containers really run by the host's OCI runtime, on a root file system of busybox.

mod contents;
mod directories;
mod ends;
mod exhausted;
mod host;
mod support;
