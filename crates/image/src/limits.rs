//! The bounds on foreign input, in one place. Sizes are in bytes.

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Largest manifest or index, the limit the distribution specification asks registries to keep.
pub const MANIFEST_BYTES: u64 = 4 * MIB;
/// Largest image config.
pub const CONFIG_BYTES: u64 = 8 * MIB;
/// Largest compressed layer blob a descriptor may announce.
pub const LAYER_BLOB_BYTES: u64 = 1024 * 1024 * MIB;
/// Most layers in one image. overlayfs itself stops at 500 lower layers (`OVL_MAX_STACK`).
pub const LAYERS: usize = 500;
/// Most entries of one index.
pub const INDEX_ENTRIES: usize = 4096;

/// Longest repository name (host excluded), as the distribution reference grammar has it.
pub const REPOSITORY_BYTES: usize = 255;
/// Longest tag.
pub const TAG_BYTES: usize = 128;
/// Longest registry host with its port: a DNS name is at most 253 bytes.
pub const REGISTRY_BYTES: usize = 261;

/// Longest path or link target in a tar stream, Linux's `PATH_MAX`. The kernel counts the terminating NUL, so the
/// longest name that can be used in one call is a byte shorter; the layer rules check that.
pub const PATH_BYTES: usize = 4096;
/// Longest path component, Linux's `NAME_MAX`.
pub const COMPONENT_BYTES: usize = 255;
/// Largest PAX extended header.
pub const PAX_BYTES: u64 = MIB;
/// Longest extended attribute name, Linux's `XATTR_NAME_MAX`.
pub const XATTR_NAME_BYTES: usize = 255;
/// Largest extended attribute value, Linux's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_BYTES: usize = 64 * 1024;
/// Names and values of all extended attributes of one entry together.
pub const XATTRS_BYTES: usize = 256 * 1024;
/// Most data segments of one sparse file: 2 MiB of memory.
pub const SPARSE_SEGMENTS: usize = 128 * 1024;
/// What a [`crate::layer::Tracker`] may keep in memory of one layer: enough for 2,800,000 files, or 800,000 directories
/// with short names.
pub const LAYER_MEMORY_BYTES: usize = 132 * 1024 * 1024;
