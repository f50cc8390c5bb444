//! The OCI bundle of a container: from an image's config and the caller's wishes to `config.json`. Pure, except for
//! [`write`](fn@write), which puts the bytes into a directory.
//!
//! ```text
//! <run dir>/bundles/<id>/     0700, one per container
//!   config.json               what spec() returned, keys and sets in a fixed order
//!   resolv.conf, hosts        copies of the host's, made by the caller, with the host's network only
//!   runtime.log               the runtime's own messages, JSON lines
//!   exec-<pid>.*              of an `exec` under way: its process as JSON, its process id, the runtime's messages
//! <run dir>/pids/<id>         written by the runtime when the container's first process runs
//! ```
//!
//! There is no root file system in a bundle: the spec names the anchor directory, on which each container's root is
//! attached in its own private mount namespace.
//!
//! Invariants: a container always gets its own user namespace; the same request gives the same bytes.

mod exec;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod volume;
mod write;

use std::fmt;
use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, RootBuilder, Spec, SpecBuilder,
};
use plywood_image::ImageConfig;
use plywood_kernel::{IdMap, IdMapping};

use crate::users::ContainerUser;

pub use exec::{ExecOverrides, exec};
pub use process::{
    CapabilityChange, DEFAULT_PATH, Rlimit, command, environment, user_wanted, working_directory,
};
pub use resources::{Resources, check_id_list, parse_bytes};
pub use volume::{Volume, VolumeError, VolumeMount};
pub use write::{read, to_json, write, write_process};

/// The version of the runtime specification the documents claim; every runtime in use reads it.
const OCI_VERSION: &str = "1.0.2";

/// Everything that decides a container's spec.
#[derive(Clone, Debug)]
pub struct BundleRequest<'a> {
    /// The image's own config.
    pub image: &'a ImageConfig,
    /// What the caller wants otherwise.
    pub overrides: Overrides,
    /// Who it runs as: [`user_wanted`] resolved by [`crate::users::resolve`] against the image's files.
    pub user: ContainerUser,
    /// The host ids behind the container's.
    pub id_map: IdMap,
    /// A user namespace made beforehand with the same map, as a path the runtime can open, such as
    /// `/proc/<pid>/fd/<n>`; `None` lets the runtime make one.
    pub user_namespace: Option<PathBuf>,
    /// Where the root file system will be when the runtime starts; absolute.
    pub rootfs: PathBuf,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// The network.
    pub net: Net,
    /// What `/sys/fs/cgroup` shows.
    pub cgroup_mount: CgroupMount,
    /// Volumes, their sources as the runtime will find them.
    pub volumes: Vec<VolumeMount>,
    /// Limits.
    pub resources: Resources,
    /// Process limits; those not named are inherited.
    pub rlimits: Vec<Rlimit>,
    /// Absolute path of the container's cgroup below each hierarchy, such as `/plywood/<id>`.
    pub cgroups_path: PathBuf,
    /// Changes to the default capabilities.
    pub capabilities: CapabilityChange,
    /// Which system calls it may make.
    pub seccomp: SeccompProfile,
}

/// What replaces parts of the image's config.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Arguments; they replace the image's `Cmd`.
    pub command: Option<Vec<String>>,
    /// Replaces the image's `Entrypoint`, and drops its `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE`, added to the image's or replacing them by name.
    pub env: Vec<String>,
    /// `USER[:GROUP]` instead of the image's.
    pub user: Option<String>,
    /// Absolute working directory instead of the image's.
    pub workdir: Option<String>,
    /// Host name; `None` leaves it to the caller of [`spec`], which then sets none.
    pub hostname: Option<String>,
}

/// The network a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// Its own network namespace, with a loopback device and nothing else.
    #[default]
    None,
    /// The host's network namespace. `/etc/resolv.conf` and `/etc/hosts` are bound from these files, if given.
    Host {
        /// A file to appear as `/etc/resolv.conf`.
        resolv_conf: Option<PathBuf>,
        /// A file to appear as `/etc/hosts`.
        hosts: Option<PathBuf>,
    },
}

/// What a container finds at `/sys/fs/cgroup`.
///
/// With cgroup v2 [`ReadOnly`](Self::ReadOnly) is one mount; with v1 it is one for each hierarchy, and a tmpfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMount {
    /// Its own cgroup, read-only, as Docker and Podman do.
    #[default]
    ReadOnly,
    /// Nothing: language runtimes that size themselves by their limits see none.
    Absent,
}

/// The system call filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Our allow list, opened by the container's capabilities.
    #[default]
    Default,
    /// No filter.
    Unconfined,
}

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Memory.
    Memory,
    /// A size as people write it.
    Size,
    /// CPU time.
    Cpus,
    /// Processes and threads.
    Pids,
    /// CPUs to run on.
    CpusetCpus,
    /// NUMA nodes to take memory from.
    CpusetMems,
    /// A process limit (`setrlimit`).
    Process,
}

impl Limit {
    fn refuse(self, value: impl ToString, why: impl Into<String>) -> BundleError {
        BundleError::BadLimit { limit: self, value: value.to_string(), why: why.into() }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "a memory limit",
            Self::Size => "a size",
            Self::Cpus => "a CPU limit",
            Self::Pids => "a limit of processes",
            Self::CpusetCpus => "a list of CPUs",
            Self::CpusetMems => "a list of NUMA nodes",
            Self::Process => "a process limit",
        })
    }
}

/// Why no spec can be made of a request.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Neither the image nor the caller says what to run.
    #[error("nothing to run: the image has no command, give one after `--`")]
    NoCommand,
    /// A variable that is none.
    #[error("environment variable `{0}` is not of the form NAME=VALUE")]
    BadVariable(String),
    /// A working directory that is not absolute.
    #[error("working directory `{0}` is not an absolute path")]
    RelativeWorkdir(String),
    /// A capability nobody knows.
    #[error("no capability `{0}`; name one as in capabilities(7), or ALL")]
    NoSuchCapability(String),
    /// A NUL byte where the kernel takes a C string.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
    /// More than the kernel takes.
    #[error("{what}: {bytes} bytes, and the kernel takes {limit} at most")]
    TooLong {
        /// What is too long.
        what: String,
        /// Its length.
        bytes: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// A host name the kernel would not take.
    #[error("host name `{0}` is not 1 to 64 characters of letters, digits, `-`, `.` and `_`")]
    BadHostname(String),
    /// An id outside the container's range.
    #[error("the container runs as {kind} {id}, outside its {length} ids; lease a longer range")]
    IdOutsideRange {
        /// `user` or `group`.
        kind: &'static str,
        /// The id inside the container.
        id: u32,
        /// Ids mapped.
        length: u64,
    },
    /// A limit that cannot be.
    #[error("{limit} of `{value}` is not possible: {why}")]
    BadLimit {
        /// Which limit.
        limit: Limit,
        /// What was asked for.
        value: String,
        /// What would be possible.
        why: String,
    },
    /// Two volumes at one place, or one over the runtime's own mounts.
    #[error("a volume cannot be mounted at {0}: something else is there already")]
    VolumeInTheWay(String),
    /// The spec of a container without a process.
    #[error("the container's configuration has no process")]
    NoProcess,
    /// The document could not be put together.
    #[error("building the runtime spec")]
    Build(#[from] OciSpecError),
}

/// The runtime spec for `request`.
pub fn spec(request: &BundleRequest<'_>) -> Result<Spec, BundleError> {
    ids_are_mapped(&request.user, &request.id_map)?;
    let capabilities = process::capabilities(&request.capabilities)?;
    let process = process::process(request, &capabilities)?;
    let root = RootBuilder::default().path(&request.rootfs).readonly(request.read_only).build()?;

    let mut linux = LinuxBuilder::default()
        .uid_mappings(mappings(&request.id_map.uid)?)
        .gid_mappings(mappings(&request.id_map.gid)?)
        .namespaces(namespaces(request)?)
        .cgroups_path(&request.cgroups_path)
        .resources(resources::resources(&request.resources)?)
        .masked_paths(mounts::MASKED_PATHS.map(str::to_owned))
        .readonly_paths(mounts::READ_ONLY_PATHS.map(str::to_owned));
    if request.seccomp == SeccompProfile::Default {
        linux = linux.seccomp(seccomp::profile(&capabilities)?);
    }

    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .mounts(mounts::mounts(request)?)
        .process(process)
        .linux(linux.build()?)
        .build()?;
    spec.set_annotations(None);
    spec.set_hostname(request.overrides.hostname.as_deref().map(hostname).transpose()?);
    Ok(spec)
}

/// Whether what the caller asks for is possible with any image: capabilities, environment, working directory, host name.
///
/// # Errors
/// [`BundleError`]: what is not.
pub fn check(overrides: &Overrides, capabilities: &CapabilityChange) -> Result<(), BundleError> {
    process::capabilities(capabilities)?;
    process::variables(&overrides.env)?;
    if let Some(path) = overrides.workdir.as_deref().filter(|path| !path.starts_with('/')) {
        return Err(BundleError::RelativeWorkdir(path.to_owned()));
    }
    overrides.hostname.as_deref().map(hostname).transpose().map(drop)
}

/// An unmapped id would only fail deep inside the runtime.
fn ids_are_mapped(user: &ContainerUser, map: &IdMap) -> Result<(), BundleError> {
    let outside = |kind, id, table: &[IdMapping]| BundleError::IdOutsideRange {
        kind,
        id,
        length: table.iter().map(|line| u64::from(line.length)).sum(),
    };
    if map.to_host_uid(user.uid).is_none() {
        return Err(outside("user", user.uid, &map.uid));
    }
    for gid in std::iter::once(user.gid).chain(user.groups.iter().copied()) {
        if map.to_host_gid(gid).is_none() {
            return Err(outside("group", gid, &map.gid));
        }
    }
    Ok(())
}

fn mappings(table: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    let entry = |line: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(line.inside)
            .host_id(line.outside)
            .size(line.length)
            .build()
    };
    table.iter().map(entry).collect()
}

fn namespaces(request: &BundleRequest<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let mut namespaces = vec![
        new(LinuxNamespaceType::Pid)?,
        new(LinuxNamespaceType::Ipc)?,
        new(LinuxNamespaceType::Uts)?,
        new(LinuxNamespaceType::Mount)?,
        new(LinuxNamespaceType::Cgroup)?,
    ];
    if request.net == Net::None {
        namespaces.push(new(LinuxNamespaceType::Network)?);
    }
    let user = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User);
    namespaces.push(match &request.user_namespace {
        Some(path) => user.path(path).build()?,
        None => user.build()?,
    });
    Ok(namespaces)
}

fn hostname(name: &str) -> Result<String, BundleError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // 64 is the kernel's __NEW_UTS_LEN.
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(name.to_owned())
    } else {
        Err(BundleError::BadHostname(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
