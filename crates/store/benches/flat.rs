//! How long the flat tree of a chain takes:
//! `cargo bench -p plywood-store --bench flat [-- FILES LAYERS ROUNDS] [--raw FILE]`.
//!
//! Layers of small files spread over directories as Debian packages spread them: every layer adds files of its own,
//! replaces some of lower layers and removes a few. Prints a line a round, then the median.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark talks to a person and stops at any error"
)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use plywood_image::{ChainId, DiffId, Digest};
use plywood_store::{Basis, BuildFlat, FlatOptions, LayerId, LayerInfo, Store};
use rustix::fs::{CWD, FileType, Mode};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let raw = arguments.iter().position(|argument| argument == "--raw").map(|at| arguments[at + 1].clone());
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<usize>().ok());
    let files = numbers.next().unwrap_or(20_000);
    let layers = numbers.next().unwrap_or(50);
    let rounds = numbers.next().unwrap_or(5);

    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("root")).unwrap();
    let pins = store.pins().unwrap();
    let ids: Vec<LayerId> = (0..layers)
        .map(|n| {
            let staging = store.new_layer_staging().unwrap();
            fill(staging.path(), n, files / layers);
            store.commit_layers(&pins, vec![(staging, info(n))]).unwrap()[0].id
        })
        .collect();

    let mut seconds: Vec<f64> = (0..rounds)
        .map(|round| {
            // A chain of its own each time: trees are built once a chain.
            let chain = ChainId(Digest::sha256(format!("round {round}").as_bytes()));
            let start = Instant::now();
            let built = store.build_flat(&pins, &chain, &ids, FlatOptions::default()).unwrap();
            let took = start.elapsed().as_secs_f64();
            let BuildFlat::Built(flat) = built else { unreachable!("the chain is fresh") };
            println!(
                "round {round}: {} entries, {} bytes copied, {took:.3} s",
                flat.entries, flat.copied_bytes
            );
            took
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("median {median:.3} s, bound 2 s for 20,000 files");
    if let Some(path) = raw {
        let line = serde_json::json!({
            "files": files, "layers": layers, "samples_s": seconds,
            "ratios": [{"what": format!("flat tree of {files} files, seconds"), "measured": median, "at_most": 2.0}],
        });
        fs::write(path, format!("{line}\n")).unwrap();
    }
}

/// `count` new files, 20 a directory, three levels deep; shared parents in all layers.
fn fill(dir: &Path, layer: usize, count: usize) {
    for n in 0..count {
        let parent = dir.join(format!("usr/share/package-{layer}/{}", n / 20));
        fs::create_dir_all(&parent).unwrap();
        fs::write(parent.join(format!("file-{n}")), format!("{layer} {n}")).unwrap();
    }
    fs::create_dir_all(dir.join("var/lib/dpkg")).unwrap();
    fs::write(dir.join("var/lib/dpkg/status"), format!("{layer}")).unwrap();
    if let Some(below) = layer.checked_sub(1) {
        let parent = dir.join(format!("usr/share/package-{below}/0"));
        fs::create_dir_all(&parent).unwrap();
        fs::write(parent.join("file-1"), "replaced").unwrap();
        let whiteout = parent.join("file-2");
        rustix::fs::mknodat(CWD, whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }
}

fn info(n: usize) -> LayerInfo {
    let digest = |what: &str| Digest::sha256(format!("{what} {n}").as_bytes());
    LayerInfo {
        diff_id: DiffId(digest("diff")),
        chain_id: ChainId(digest("chain")),
        basis: Basis::Nothing,
        size_bytes: 0,
        entries: 0,
        max_uid: 0,
        max_gid: 0,
        compressed: digest("blob"),
    }
}
