//! Containers really run by the host's OCI runtime, on a root file system of busybox.

mod contents;
mod directories;
mod ends;
mod host;
mod support;
