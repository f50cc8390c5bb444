//! The mount API, id mapping, namespaces and mount table of Linux, descriptors first.
