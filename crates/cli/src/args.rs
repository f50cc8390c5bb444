//! The command line, defined once: help, man pages and shell completions derive from it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;

mod storm;

pub use storm::Storm;

/// plywood: many layers, one mount.
///
/// Launches bursts of user-namespaced containers from many-layer OCI images without contending on the
/// kernel's mount locks.
#[derive(Debug, Parser)]
#[command(name = "plywood", version, max_term_width = 100, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What scripts may rely on.
const EXIT_CODES: &str = "Exit codes:
  0    done; of `run` in the foreground: every container exited with 0
  1    failed; of `run`: a container failed to start, or exited with something else
  2    wrong usage: the command line cannot be read
  130  interrupted, by Ctrl-C or SIGTERM
`exec` exits as its command does; 126 if that cannot be executed, 127 if there is none, 125 if the runtime fails otherwise.
A signal sent to it is passed on to the command, which has ten seconds to end; a second one ends it at once.";

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The state root: images, layers, flat trees, snapshots and the database.
    #[arg(long, global = true, env = "PLYWOOD_ROOT", default_value = "/var/lib/plywood", value_name = "DIR")]
    pub root: PathBuf,
    /// Print one JSON object (durations in ms, sizes in bytes) instead of a table; `lockbench` and `storm` print one a line
    /// as results come. Refused by `exec` and `logs`, which print what the container writes.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bars.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pull an image from a registry.
    Pull(Pull),
    /// Import an image from an OCI layout directory, an OCI archive or a Docker archive.
    Import(Import),
    /// List the images of the store.
    Images,
    /// Remove names of images, and the images nothing names any more.
    Rmi(Rmi),
    /// Remove whatever no image, container or running command refers to.
    Prune,
    /// Launch containers from an image.
    #[command(after_help = EXIT_CODES)]
    Run(Box<Run>),
    /// List containers.
    Ps(Ps),
    /// Stop containers: their stop signal, then KILL.
    Stop(Stop),
    /// Remove containers that have stopped.
    Rm(Rm),
    /// Run a command in a running container.
    #[command(after_help = EXIT_CODES)]
    Exec(Exec),
    /// Print what a detached container wrote.
    Logs(Logs),
    /// Show the plan of a launch: its kernel calls and mount operations, before anything is done.
    Explain(Explain),
    /// Show what this node can do, what will be used, and why not better.
    Doctor,
    /// Measure what a contended global lock costs on this machine's CPUs.
    Lockbench(Lockbench),
    /// Start many containers at once and measure it: the incident against the default, or any sweep.
    #[command(after_help = storm::EXAMPLES)]
    Storm(Box<Storm>),
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Man {
        /// Where to.
        dir: PathBuf,
    },
}

/// Which platform, and what becomes of the layers.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Platform to choose from an index, as os/arch[/variant]; this machine's by default.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Do not merge the layers into a flat tree afterwards; launches then use the layers themselves.
    #[arg(long)]
    pub no_flat: bool,
}

/// How to reach a registry.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// Speak plain HTTP with the registry (loopback registries are tried so by themselves).
    #[arg(long)]
    pub plain_http: bool,
    /// Trust the certificate authorities in this PEM file, too.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Credentials file in Docker's or containers' format.
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// How long a registry may stay silent, instead of the usual limits.
    #[arg(long, hide = true, value_name = "TIME", value_parser = crate::durations::parse)]
    pub registry_timeout: Option<std::time::Duration>,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The image, as docker and podman name it: `debian`, `quay.io/org/app:1.2`, `host:5000/app@sha256:...`.
    #[arg(required = true)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub fetch: FetchArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// An OCI layout directory, or a tar file made by `skopeo copy`, `podman save` or `docker save`, compressed or not;
    /// `-` reads such a file from standard input.
    pub path: PathBuf,
    /// The name to give the image, instead of the one it carries.
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub fetch: FetchArgs,
}

/// Arguments of `rmi`.
#[derive(Debug, Args)]
pub struct Rmi {
    /// Names, ids, digests of manifests, or unique prefixes of them. An id or digest stands for every name of every image
    /// that has it.
    #[arg(required = true)]
    pub images: Vec<String>,
    /// Remove every name of the image.
    #[arg(long, short)]
    pub force: bool,
}

/// How the containers reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// A network namespace with nothing but a loopback device.
    None,
    /// The host's network.
    Host,
}

/// When to pull an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    /// If the store does not have it.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Reads one of these names; help, completions and errors list them.
fn one_of<T, const N: usize>(names: [&'static str; N]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

/// How the root file system is made: shared by `run` and `explain`.
#[derive(Debug, Clone, Args)]
pub struct AssemblyArgs {
    /// Force a mechanism instead of the best one that works here.
    #[arg(long, value_name = "MECHANISM", value_parser = one_of::<Mechanism, _>(Mechanism::ALL.map(Mechanism::name)))]
    pub mechanism: Option<Mechanism>,
    /// Force the overlay's lower source.
    #[arg(long, value_name = "SOURCE", value_parser = one_of::<LowerSource, _>(LowerSource::ALL.map(LowerSource::name)))]
    pub lower: Option<LowerSource>,
    /// Host ids leased to each container.
    #[arg(long, default_value_t = 65536, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub id_range_length: u32,
}

/// The environment variable that makes `run -d` the containers' supervisor.
pub const SUPERVISE: &str = "PLYWOOD_SUPERVISE";

/// The environment variable by which detached containers live no longer than whoever started them: until the end of
/// standard input, a pipe then.
pub const UNTIL_EOF: &str = "PLYWOOD_UNTIL_EOF";

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// How many containers.
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Leave them running, print their ids.
    #[arg(long, short)]
    pub detach: bool,
    /// A name; with several containers, `NAME-0`, `NAME-1`, ...
    #[arg(long)]
    pub name: Option<String>,
    /// Mount a host directory or file, idmapped to the container's range.
    #[arg(long = "volume", short = 'v', value_name = "SRC:DST[:ro]")]
    pub volumes: Vec<String>,
    /// Network.
    #[arg(long, value_enum, default_value_t = Net::None)]
    pub net: Net,
    /// Memory limit: bytes, or with a suffix b, k, m, g.
    #[arg(long, short, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory: Option<String>,
    /// CPU limit, in CPUs: 0.5, 2.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub cpus: Option<f64>,
    /// Process limit.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// CPUs to run on: 0-3,8.
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// NUMA nodes to take memory from: 0,1.
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Make the root file system read-only.
    #[arg(long)]
    pub read_only: bool,
    /// User and group inside: names of the image, or ids.
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Set an environment variable; a NAME alone takes the caller's value.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory inside.
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Replace the image's entry point; an empty one takes it away.
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Host name inside; the container's id by default.
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Add a capability inside the container's user namespace.
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL.
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Set a resource limit inside.
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// OCI runtime: a name (crun, runc) or a path.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// Launches under way at once; measured default.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// How long the runtime may take to start a container before it is killed.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::durations::parse_some)]
    pub start_timeout: std::time::Duration,
    /// When to pull the image.
    #[arg(long, value_enum, default_value_t = PullPolicy::Missing)]
    pub pull: PullPolicy,
    #[command(flatten)]
    pub assembly: AssemblyArgs,
    #[command(flatten)]
    pub fetch: FetchArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Run as the process that looks after detached containers.
    #[arg(long, hide = true, env = SUPERVISE, hide_env = true)]
    pub supervise: bool,
    /// End detached containers, and remove them, at the end of standard input.
    #[arg(long, hide = true, env = UNTIL_EOF, hide_env = true)]
    pub until_eof: bool,
    /// The image.
    pub image: String,
    /// The command; the image's own by default.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Containers that have exited, too.
    #[arg(long, short)]
    pub all: bool,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Ids, names or unique prefixes of ids.
    #[arg(required_unless_present = "all")]
    pub containers: Vec<String>,
    /// Every running container.
    #[arg(long, short, conflicts_with = "containers")]
    pub all: bool,
    /// Seconds between the stop signal and KILL.
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    pub time: u64,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Ids, names or unique prefixes of ids.
    #[arg(required_unless_present = "all")]
    pub containers: Vec<String>,
    /// Every container.
    #[arg(long, short, conflicts_with = "containers")]
    pub all: bool,
    /// Kill them if they run.
    #[arg(long, short)]
    pub force: bool,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// User and group inside: names of the image, or ids.
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Set an environment variable.
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Working directory inside.
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Id, name or unique prefix of an id.
    pub container: String,
    /// The command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Id, name or unique prefix of an id.
    pub container: String,
    /// Go on until the container exits.
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// An image of the store.
    pub image: String,
    #[command(flatten)]
    pub assembly: AssemblyArgs,
}

/// Arguments of `lockbench`.
#[derive(Debug, Args)]
pub struct Lockbench {
    /// Locks, comma-separated: cas, ticket, mcs, seqlock, mutex, mount; all by default.
    #[arg(long, value_name = "LOCK", value_delimiter = ',')]
    pub lock: Vec<plywood_node::lockbench::LockKind>,
    /// Where threads are put, comma-separated: all, one-per-core, two-sockets, socket, one-per-core-socket, numa-node,
    /// llc, smt-siblings; socket:N, numa-node:N, llc:N; cpus:LIST. All that differ here by default.
    #[arg(long, value_name = "PLACEMENT", value_delimiter = ',')]
    pub placement: Vec<String>,
    /// Numbers of threads, comma-separated; a curve up to all CPUs of each placement by default.
    #[arg(long, value_name = "COUNT", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// How long each point is measured in each round.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = crate::durations::parse)]
    pub duration: std::time::Duration,
    /// How often every point is measured; figures are medians over rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub rounds: usize,
    /// Work while the lock is held.
    #[arg(long, value_name = "TIME", default_value = "50ns", value_parser = crate::durations::parse)]
    pub section: std::time::Duration,
    /// Work between two operations.
    #[arg(long, value_name = "TIME", default_value = "100ns", value_parser = crate::durations::parse)]
    pub think: std::time::Duration,
    /// Allow more threads than CPUs; spin locks collapse then.
    #[arg(long)]
    pub oversubscribe: bool,
    /// Measure how long a cache line takes between each pair of CPUs, too.
    #[arg(long)]
    pub matrix: bool,
    /// Write every sample and every point into this file, a JSON object a line; `plywood storm --locks` shows it in a
    /// storm's report.
    #[arg(long, value_name = "FILE")]
    pub raw: Option<PathBuf>,
    /// Write a page to this file: pictures and figures, in HTML that needs no network. It has the matrix, too.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Seed of the order of points and of resampling.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, hide_short_help = true)]
    pub seed: u64,
}
