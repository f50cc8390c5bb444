//! `plywood lockbench`: what it prints, what it refuses, what it leaves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::bed::{in_bed, start};
use super::layout::text;

fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn root_every_lock_is_measured_and_reported_a_line_a_point() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let quick = ["--duration", "10ms", "--rounds", "3", "--placement", "all", "--threads", "1"];
        let args = [&["--json", "lockbench", "--matrix", "--raw", text(&raw)], &quick[..]].concat();
        let lines = objects(&bed.ok(&args));
        let points: Vec<&Value> = lines.iter().filter(|line| line.get("lock").is_some()).collect();
        let locks: BTreeSet<&str> = points.iter().map(|point| point["lock"].as_str().unwrap()).collect();
        assert_eq!(locks, BTreeSet::from(["cas", "ticket", "mcs", "seqlock", "mutex", "mount"]));
        for point in &points {
            let op = |quantile: &str| point["op_ns"][quantile].as_f64().unwrap();
            assert!(
                0.0 < op("p50") && op("p50") <= op("p90") && op("p90") <= op("p99") && op("p99") <= op("max"),
                "{point}"
            );
            assert!(point["ops_per_s"].as_f64().unwrap() > 0.0, "{point}");
            assert_eq!(
                (&point["placement"], &point["threads"], &point["fairness"]),
                (&"all".into(), &1.into(), &1.0.into())
            );
        }
        let kinds: Vec<&str> = lines[points.len()..]
            .iter()
            .map(|line| line.as_object().unwrap().keys().next().unwrap().as_str())
            .collect();
        assert_eq!((kinds[0], kinds[1..7].iter().collect::<BTreeSet<_>>().len()), ("matrix", 1));
        assert_eq!((kinds[1], kinds.last()), ("fit", Some(&"conditions")));
        let fit = &lines[points.len() + 1]["fit"];
        assert!(fit["fit"].is_null() && fit["no_fit"].as_str().unwrap().contains("3 different"), "{fit}");
        // Raw samples: a line a point and round, in whatever order they came.
        let samples = objects(&fs::read_to_string(raw).unwrap());
        assert_eq!(samples.len(), points.len() * 3);
        let rounds: BTreeSet<u64> = samples.iter().map(|sample| sample["round"].as_u64().unwrap()).collect();
        assert_eq!(rounds, BTreeSet::from([0, 1, 2]));
        // The same for people.
        let table = bed.ok(&[&["lockbench", "--lock", "mcs,mutex"], &quick[..]].concat());
        for part in ["FAIRNESS", "mcs", "mutex", "no curve for", "online", "reading the clock"] {
            assert!(table.contains(part), "{part}: {table}");
        }
    });
}

#[test]
fn root_a_curve_of_a_blocking_lock_predicts_and_says_so() {
    in_bed(|bed| {
        let args = ["--json", "lockbench", "--lock", "mutex", "--placement", "all", "--oversubscribe"];
        let cpus = std::thread::available_parallelism().unwrap().get();
        let threads = format!("1,{},{}", 2 * cpus, 4 * cpus);
        let more = ["--threads", &threads, "--duration", "20ms", "--rounds", "4"];
        let lines = objects(&bed.ok(&[&args[..], &more].concat()));
        let fit = &lines.iter().find(|line| line.get("fit").is_some()).unwrap()["fit"];
        assert_eq!(fit["oversubscribed"], true);
        let predictions = fit["fit"]["predictions"].as_array().unwrap();
        assert!(!predictions.is_empty());
        for prediction in predictions {
            assert_eq!(prediction["prediction"], true, "{prediction}");
            assert!(prediction["threads"].as_u64().unwrap() > 4 * cpus as u64, "{prediction}");
        }
    });
}

#[test]
fn root_what_this_machine_cannot_measure_is_named_with_a_remedy() {
    in_bed(|bed| {
        let cases: [(&[&str], i32, &[&str]); 9] = [
            (&["--threads", "5000"], 1, &["5000 threads are too many", "--oversubscribe", "--threads"]),
            (&["--threads", "0"], 2, &["--threads counts from 1"]),
            (&["--rounds", "0"], 1, &["no round"]),
            (&["--duration", "0"], 1, &["no time"]),
            (&["--duration", "5"], 2, &["200ms"]),
            (&["--lock", "spin"], 2, &["spin", "ticket"]),
            (&["--placement", "everywhere"], 2, &["everywhere", "all"]),
            (&["--placement", "socket:77"], 1, &["socket:77"]),
            (&["--raw", "/nosuch/raw"], 1, &["/nosuch/raw"]),
        ];
        for (args, code, parts) in cases {
            let begin = Instant::now();
            let error = bed.fails(code, &[&["lockbench"], args].concat());
            assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{args:?}: refused before anything is measured"
            );
        }
        // Without root everything but the mounts, unless those are asked for.
        let unprivileged = |args: &[&str]| {
            let mut command =
                bed.command([&["lockbench", "--duration", "5ms", "--rounds", "1"], args].concat());
            command.uid(65_534).gid(65_534);
            start(command).finish()
        };
        let error = unprivileged(&["--lock", "mount"]).check(1).stderr;
        assert!(error.contains("lock mount") && error.contains("--lock cas,ticket"), "{error}");
        let table = unprivileged(&["--threads", "1", "--placement", "all"]).ok();
        assert!(table.contains("seqlock") && table.contains("mount was left out"), "{table}");
    });
}

/// Nothing is left mounted: the bed compares the host before and after.
#[test]
fn root_ctrl_c_while_mounting() {
    in_bed(|bed| {
        for delay in [0, 30, 300, 700] {
            let args = ["--json", "lockbench", "--lock", "mount,mutex", "--rounds", "1000", "--threads", "1"];
            let run = bed.start(&args).ready();
            std::thread::sleep(Duration::from_millis(delay));
            run.signal(Signal::INT);
            let begin = Instant::now();
            let done = run.finish().check(130);
            assert!(begin.elapsed() < Duration::from_secs(10));
            let lines = objects(&done.stdout);
            assert_eq!(lines.last().unwrap()["conditions"]["cancelled"], true, "{}", done.stdout);
        }
    });
}
