//! How fast an image is unpacked, against `umoci unpack` of the same image, in turns:
//! `cargo bench -p plywood-store --bench unpack [-- --layout DIR[:TAG] --rounds N --raw FILE]`.
//!
//! Ours is the whole import into a fresh store, in a process of its own: digests and diff IDs checked, everything
//! synced and recorded. umoci checks the same digests and syncs nothing. Files are read from the page cache by both
//! (a first round is not counted) and written to the same file system; before each run the last one's files are removed
//! and the disk is synced.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark talks to a person and stops at any error; what it removes it just made, and nothing is mounted there"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use plywood_store::{Cancel, FetchRequest, Source, Store, fetch_image};

/// Marks the process that unpacks.
const CHILD: &str = "--unpack-into";

struct Options {
    layout: PathBuf,
    tag: Option<String>,
    rounds: usize,
    raw: Option<PathBuf>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, layout, root] = arguments.as_slice()
        && mode == CHILD
    {
        return unpack(Path::new(layout), Path::new(root));
    }
    let options = read_options(arguments);
    let tag = options.tag.clone().unwrap_or_else(|| only_tag(&options.layout));
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut ours, mut theirs, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let mut unpacked = 0;
    for round in 0..=options.rounds {
        let (seconds, peak) = run_ours(&options.layout, &scratch.path().join("root"));
        let (umoci_seconds, bytes) = run_umoci(&options.layout, &tag, &scratch.path().join("bundle"));
        unpacked = bytes;
        if round == 0 {
            continue;
        }
        println!(
            "round {round}: plywood {seconds:.3} s, peak {} MiB; umoci {umoci_seconds:.3} s",
            peak >> 20
        );
        ours.push(seconds);
        theirs.push(umoci_seconds);
        peaks.push(peak);
    }
    report(&options, unpacked, &ours, &theirs, peaks.into_iter().max().unwrap_or(0));
}

fn report(options: &Options, unpacked: u64, ours: &[f64], theirs: &[f64], peak: u64) {
    let ratio = median(theirs) / median(ours);
    println!(
        "{} MiB unpacked; medians: plywood {:.3} s, umoci {:.3} s; {ratio:.2} x as fast (bound 1.5); peak {} MiB (bound 256)",
        unpacked >> 20,
        median(ours),
        median(theirs),
        peak >> 20,
    );
    let Some(raw) = &options.raw else { return };
    let line = serde_json::json!({
        "image": options.layout.file_name().and_then(|name| name.to_str()),
        "unpacked_bytes": unpacked,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "plywood_ms": median(ours) * 1e3,
        "umoci_ms": median(theirs) * 1e3,
        "peak_rss_bytes": peak,
        "ratios": [
            {"what": "umoci unpack : plywood", "measured": ratio, "at_least": 1.5},
            {"what": "peak memory of unpacking, MB", "measured": peak as f64 / 1e6, "at_most": 256.0},
        ],
        "samples_ms": {
            "plywood": ours.iter().map(|s| s * 1e3).collect::<Vec<_>>(),
            "umoci": theirs.iter().map(|s| s * 1e3).collect::<Vec<_>>(),
        },
    });
    let mut file = fs::File::create(raw).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// Seconds from start to end of the process, and its peak memory in bytes.
fn run_ours(layout: &Path, root: &Path) -> (f64, u64) {
    settle();
    let start = Instant::now();
    let output = Command::new(std::env::current_exe().unwrap())
        .arg(CHILD)
        .args([layout, root])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "unpacking failed");
    fs::remove_dir_all(root).unwrap();
    (seconds, String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// Seconds, and the bytes of all files unpacked.
fn run_umoci(layout: &Path, tag: &str, bundle: &Path) -> (f64, u64) {
    settle();
    let start = Instant::now();
    let status = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:{tag}", layout.display()))
        .arg(bundle)
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|e| panic!("cannot run umoci ({e}); type: apt-get install umoci"));
    let seconds = start.elapsed().as_secs_f64();
    assert!(status.success(), "umoci failed");
    let bytes = size(&bundle.join("rootfs"));
    fs::remove_dir_all(bundle).unwrap();
    (seconds, bytes)
}

/// What the last run left to be written must not slow down the next.
fn settle() {
    rustix::fs::sync();
}

fn size(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        return fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum();
    }
    if metadata.is_file() { metadata.len() } else { 0 }
}

/// The process that unpacks: prints its peak memory in bytes.
fn unpack(layout: &Path, root: &Path) {
    let store = Store::open(root).unwrap();
    let pins = store.pins().unwrap();
    let request = FetchRequest::new(Source::Layout(layout.to_owned()));
    fetch_image(&store, &pins, &request, &|_| {}, &Cancel::new()).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    println!("{}", peak.trim().parse::<u64>().unwrap() << 10);
}

fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The tag umoci knows the layout's only image by.
fn only_tag(layout: &Path) -> String {
    let index = fs::read(layout.join("index.json"))
        .unwrap_or_else(|e| panic!("{}: {e}; make the image: cargo xtask large-image", layout.display()));
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    name.as_str().expect("the layout's image has a name").to_owned()
}

fn read_options(arguments: Vec<String>) -> Options {
    let layout = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("demo").join("large-image");
    let mut options = Options { layout, tag: None, rounds: 5, raw: None };
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--layout" => match value.split_once(':') {
                Some((path, tag)) => (options.layout, options.tag) = (path.into(), Some(tag.to_owned())),
                None => options.layout = value.into(),
            },
            "--rounds" => options.rounds = value.parse::<usize>().unwrap().max(1),
            "--raw" => options.raw = Some(value.into()),
            _ => panic!("{name}: no such option"),
        }
    }
    options
}
