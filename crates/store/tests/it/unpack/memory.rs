//! Small blobs that would take much memory, unpacked by a process of their own whose peak is measured.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use plywood_image::Digest;
use plywood_image::testing::TarBuilder;
use plywood_kernel::testing::require_root;
use plywood_store::{FetchRequest, Source, Store};

use super::super::import_images::{LayerBlob, Layout, assert_untouched, chain, fetch};

/// What unpacking promises to stay below, in bytes.
const BOUND: u64 = 256_000_000;
const LAYOUT: &str = "PLYWOOD_TEST_LAYOUT";
const ROOT: &str = "PLYWOOD_TEST_ROOT";

/// The process that unpacks: prints its outcome and its peak memory.
#[test]
#[ignore = "started by the test below"]
fn child() {
    let root = std::env::var_os(ROOT).expect("started by another test");
    let store = Store::open(root.as_ref()).unwrap();
    let pins = store.pins().unwrap();
    let mut request = FetchRequest::new(Source::Layout(std::env::var_os(LAYOUT).unwrap().into()));
    // As on a machine of many CPUs.
    request.unpackers = 16;
    match fetch(&store, &pins, &request) {
        Ok(image) => println!("outcome: {} layers", image.layers.len()),
        Err(error) => println!("outcome: {}", chain(&error)),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    println!("peak: {}", peak.trim().parse::<u64>().unwrap() << 10);
}

/// Unpacks the layers elsewhere, within the bound; the outcome. Nothing is left of what is refused.
fn unpack(what: &str, layers: &[LayerBlob]) -> String {
    let layout = Layout::of("memory", layers);
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "unpack::memory::child", "--ignored", "--nocapture"])
        .env(LAYOUT, layout.path())
        .env(ROOT, &root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |key: &str| {
        let found = text.lines().find_map(|line| line.split_once(key)).map(|(_, rest)| rest.to_owned());
        found.unwrap_or_else(|| panic!("{what}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let (outcome, peak) = (line("outcome: "), line("peak: ").parse::<u64>().unwrap());
    assert!(peak < BOUND, "{what}: {peak} bytes of memory: {outcome}");
    if !outcome.ends_with("layers") {
        assert_untouched(&Store::open(&root).unwrap());
    }
    outcome
}

/// Four layers that do the same by other names.
fn four(layer: impl Fn(usize) -> LayerBlob) -> Vec<LayerBlob> {
    (0..4).map(layer).collect()
}

/// 600 KB of directories with large attributes took 360 MiB: they were kept until the end of the layer, and only names
/// were counted.
#[test]
fn root_attributes_of_directories_are_bounded() {
    require_root();
    let layers = four(|layer| {
        let tar = (0..1000).fold(TarBuilder::new(), |tar, n| {
            let tar = (0..4).fold(tar, |tar, x| tar.xattr(&format!("user.{x}"), vec![b'x'; 62_000]));
            tar.dir(format!("{layer}-{n}"), 0o755)
        });
        LayerBlob::zstd(&tar.finish())
    });
    assert!(layers[0].bytes.len() < 1 << 20);
    let outcome = unpack("attributes of directories", &layers);
    assert!(
        outcome.contains("attributes of directories and zstd window take more than 132 MiB"),
        "{outcome}"
    );
}

/// 50,000 hard links to one lower file took 206 MiB: each had a copy of its target's name.
#[test]
fn root_hard_links_into_lower_layers_are_bounded() {
    require_root();
    let target = format!("{}file", "directory-of-many/".repeat(220));
    let lower = LayerBlob::zstd(&TarBuilder::new().file(&target, "x").finish());
    let links = |layer: usize, count: usize| {
        let first = TarBuilder::new();
        let tar = (0..count).fold(first, |tar, n| tar.hard_link(format!("{layer}-{n}"), &target));
        LayerBlob::zstd(&tar.finish())
    };
    let mut layers = vec![lower.clone()];
    layers.extend(four(|layer| links(layer, 20_000)));
    let outcome = unpack("hard links", &layers);
    assert!(outcome.contains("hard links into lower layers take more than 24 MiB"), "{outcome}");
    assert_eq!(unpack("a few hard links", &[lower, links(0, 100)]), "2 layers");
}

/// A layer that leads through a link of a lower one is unpacked twice, and what it keeps was charged twice.
#[test]
fn root_a_layer_unpacked_again_is_charged_once() {
    require_root();
    let lower = LayerBlob::zstd(&TarBuilder::new().dir("usr", 0o755).symlink("bin", "usr").finish());
    let dir = ["a", "b", "c"].map(|letter| letter.repeat(250)).join("/");
    // Each kept by a name of a kilobyte; none hides anything.
    let whiteouts = |count: usize| {
        let first = TarBuilder::new().file("bin/x", "x");
        let tar = (0..count).fold(first, |tar, n| tar.whiteout(&dir, &format!("{n:0>240}")));
        LayerBlob::zstd(&tar.finish())
    };
    assert_eq!(unpack("unpacked again", &[lower.clone(), whiteouts(16_000)]), "2 layers");
    let outcome = unpack("twice as many", &[lower, whiteouts(32_000)]);
    assert!(outcome.contains("take more than 24 MiB"), "{outcome}");
}

/// Names of marks are kept until the layers below are known.
#[test]
fn root_marks_are_bounded() {
    require_root();
    let layers = four(|layer| {
        let dir = format!("{layer}/{}/{}", "a".repeat(250), "b".repeat(250));
        let tar = (0..80_000).fold(TarBuilder::new(), |tar, n| tar.whiteout(&dir, &format!("{n:0>240}")));
        LayerBlob::zstd(&tar.finish())
    });
    let outcome = unpack("whiteouts", &layers);
    assert!(outcome.contains("take more than 24 MiB"), "{outcome}");
}

/// Four windows of 128 MiB at once took 512 MiB.
#[test]
fn root_windows_are_bounded() {
    require_root();
    let layers = four(|layer| {
        let mut tar = TarBuilder::new().file(format!("{layer}"), "x").finish();
        // Past the end of the archive: decompressed, hashed, and written nowhere.
        tar.resize(160 << 20, 0);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        // Written in two pieces, so that the frame does not know its size.
        encoder.write_all(&tar[..1 << 20]).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&tar[1 << 20..]).unwrap();
        let bytes = encoder.finish().unwrap();
        LayerBlob { bytes, diff_id: Digest::sha256(&tar), ..LayerBlob::zstd(b"") }
    });
    assert_eq!(unpack("zstd windows", &layers), "4 layers");
}
