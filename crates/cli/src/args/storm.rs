//! Arguments of `storm`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use plywood_storm::admission::Width;
use plywood_storm::arm::{LauncherKind, UserNs};
use plywood_storm::image::generate::Parameters;

use super::one_of;
use crate::durations;

/// What people want to type first.
pub const EXAMPLES: &str = "Examples:
  plywood storm                                        the incident against the default, 100 containers of 50 layers
  plywood storm --mechanism per-layer,detached --passes 2 --layers 1,50,200 --concurrency 1,10,100
  plywood storm --launcher run,containerd --containers 50 --html report.html
  plywood storm --launcher containerd --userns private,host    what mapping ids costs; an old containerd: host alone
  plywood storm --admission all,2,llc --mechanism common-parent
  plywood storm --compare before.jsonl after.jsonl     two files that --raw has written
  plywood storm --show before.jsonl --html before.html the report of one of them

Exit codes:
  0    done, and every launch of the rounds that count was in time
  1    failed; or a launch failed or was too late
  2    wrong usage, or a combination that cannot be
  130  interrupted; everything was taken back, and what was measured until then is shown";

/// Arguments of `storm`.
#[derive(Debug, Args)]
pub struct Storm {
    /// Who starts the containers: the engine alone, without processes; `plywood run`; a containerd; pods by CRI.
    #[arg(long, value_delimiter = ',', value_name = "LAUNCHER", value_parser = one_of::<LauncherKind, _>(LauncherKind::ALL.map(LauncherKind::name)), help_heading = "What is compared")]
    pub launcher: Vec<LauncherKind>,
    /// How root file systems are made; an arm for each.
    #[arg(long, value_delimiter = ',', value_name = "MECHANISM", value_parser = one_of::<Mechanism, _>(Mechanism::ALL.map(Mechanism::name)), help_heading = "What is compared")]
    pub mechanism: Vec<Mechanism>,
    /// The overlay's lower source; by default the layers for per-layer and common-parent, the flat tree for others.
    #[arg(long, value_delimiter = ',', value_name = "SOURCE", value_parser = one_of::<LowerSource, _>(LowerSource::ALL.map(LowerSource::name)), help_heading = "What is compared")]
    pub lower: Vec<LowerSource>,
    /// How often per-layer, common-parent and containerd's root file systems are made for one container; 2 is what
    /// containerd did.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10), help_heading = "What is compared")]
    pub passes: Option<u32>,
    /// Layers of the image, its lowest ones; all by default.
    #[arg(long, value_delimiter = ',', value_name = "COUNT", help_heading = "What is compared")]
    pub layers: Vec<usize>,
    /// Containers starting at a time; all by default.
    #[arg(long, value_delimiter = ',', value_name = "COUNT", help_heading = "What is compared")]
    pub concurrency: Vec<usize>,
    /// How many at a time are let into the part that takes global locks: `all`, a number of threads, `llc` or
    /// `llc:NUMBER` for threads on the CPUs of one last-level cache.
    #[arg(long, value_delimiter = ',', value_name = "WIDTH", help_heading = "What is compared")]
    pub admission: Vec<Width>,
    /// Snapshotters of containerd; overlayfs by default. Pods have the one that the CRI plugin is configured with, and
    /// another one is refused for launcher cri.
    #[arg(long, value_delimiter = ',', value_name = "NAME", help_heading = "What is compared")]
    pub snapshotter: Vec<String>,
    /// Whose ids containers of launchers containerd and cri have: their own, in a user namespace each (containerd 2.0 and
    /// newer), or the host's, which every containerd can; an arm for each. Private by default.
    #[arg(long, value_delimiter = ',', value_name = "USERS", value_parser = one_of::<UserNs, _>(UserNs::ALL.map(UserNs::name)), help_heading = "What is compared")]
    pub userns: Vec<UserNs>,
    /// Of launcher containerd, prepare and mount root file systems only; --passes 2 is the incident.
    #[arg(long, help_heading = "What is compared")]
    pub rootfs_only: bool,
    /// The incident against the default: per-layer over the layers, twice, and what this kernel allows, over a flat
    /// tree. This is also what a storm does that is told nothing of launchers, mechanisms, passes or admission.
    #[arg(long, conflicts_with_all = ["launcher", "mechanism", "lower", "passes", "admission", "snapshotter", "userns"], help_heading = "What is compared")]
    pub incident: bool,

    /// An image of the store; a generated one by default.
    #[arg(long, value_name = "IMAGE", conflicts_with = "generate", help_heading = "Image")]
    pub image: Option<String>,
    /// Generate an image: layers=50,files=500,size=4096,seed=7 is the default; the same parameters make the same bytes.
    #[arg(long, value_name = "PARAMETERS", help_heading = "Image")]
    pub generate: Option<Parameters>,
    /// Leave the generated image in the store.
    #[arg(long, conflicts_with = "image", help_heading = "Image")]
    pub keep_image: bool,
    /// What containers of launchers that start processes run; the image's own command by default.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,

    /// Containers of each round; 100, or as many as start at a time.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Rounds")]
    pub containers: Option<u32>,
    /// Rounds of each arm that count; one more warms up.
    #[arg(long, default_value_t = plywood_storm::stats::DEFAULT_ROUNDS, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Rounds")]
    pub repeat: u32,
    /// So many containers are due at the same moment; without --rate the next burst when the one before has started.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Rounds")]
    pub burst: Option<u32>,
    /// So many containers are due each second, whether those before have started or not.
    #[arg(long, value_name = "PER-SECOND", value_parser = rate, help_heading = "Rounds")]
    pub rate: Option<f64>,
    /// Keep the containers of a round so long before they are removed.
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = durations::parse, help_heading = "Rounds")]
    pub hold: Duration,
    /// A launch that takes longer has failed.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = durations::parse, help_heading = "Rounds")]
    pub timeout: Duration,

    /// CPUs for the threads that launch: a list such as 0-3,8, or a placement such as socket:0, llc or one-per-core.
    #[arg(long, value_name = "CPUS", conflicts_with = "numa", help_heading = "Machine")]
    pub pin: Option<String>,
    /// Keep each launching thread to one NUMA node, in turns.
    #[arg(long, help_heading = "Machine")]
    pub numa: bool,
    /// Host ids leased to each container.
    #[arg(long, default_value_t = 65536, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Machine")]
    pub id_range_length: u32,
    /// OCI runtime of launcher run: a name (crun, runc) or a path.
    #[arg(long, value_name = "RUNTIME", help_heading = "Machine")]
    pub runtime: Option<String>,
    /// Socket of launchers containerd and cri.
    #[arg(
        long,
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET",
        help_heading = "Machine"
    )]
    pub address: PathBuf,

    /// Write every sample to this file, as lines of JSON.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub raw: Option<PathBuf>,
    /// Write a report to this file: one page of HTML that needs no network.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// Put what a contended lock costs on this machine's CPUs into the report, too: a file that `plywood lockbench --raw`
    /// has written.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub locks: Option<PathBuf>,
    /// Show a file that --raw has written, and start nothing; with --html, make its report.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["launcher", "mechanism", "lower", "passes", "layers", "concurrency", "admission", "snapshotter", "userns", "rootfs_only", "incident", "image", "generate", "keep_image", "command", "containers", "repeat", "burst", "rate", "hold", "timeout", "pin", "numa", "id_range_length", "runtime", "address", "raw"], help_heading = "Output")]
    pub show: Option<PathBuf>,
    /// Compare two files that --raw has written, and start nothing.
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with_all = ["launcher", "mechanism", "lower", "passes", "layers", "concurrency", "admission", "snapshotter", "userns", "rootfs_only", "incident", "image", "generate", "keep_image", "command", "containers", "repeat", "burst", "rate", "hold", "timeout", "pin", "numa", "id_range_length", "runtime", "address", "raw", "html", "locks", "show"], help_heading = "Output")]
    pub compare: Vec<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.001..=1e6).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate is between 0.001 and 1000000".to_owned())
    }
}
