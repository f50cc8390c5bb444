//! `plywood lockbench`: what it prints, what it refuses, what it leaves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::bed::{in_bed, start};
use super::browser::{dom, unescaped};
use super::layout::text;

fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

const QUICK: [&str; 8] = ["--duration", "10ms", "--rounds", "3", "--placement", "all", "--threads", "1"];

#[test]
fn root_every_lock_is_measured_and_reported_a_line_a_point() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let args = [&["--json", "lockbench", "--matrix", "--raw", text(&raw)], &QUICK[..]].concat();
        let lines = objects(&bed.ok(&args));
        let points = of_kind(&lines, "lock_point");
        let locks: BTreeSet<&str> = points.iter().map(|point| point["lock"].as_str().unwrap()).collect();
        assert_eq!(locks, BTreeSet::from(["cas", "ticket", "mcs", "seqlock", "mutex", "mount"]));
        for point in &points {
            let op = |quantile: &str| point["op_ns"][quantile].as_f64().unwrap();
            assert!(
                0.0 < op("p50") && op("p50") <= op("p90") && op("p90") <= op("p99") && op("p99") <= op("max"),
                "{point}"
            );
            // However busy the machine: a window in which nothing was done goes on.
            assert!(point["ops_per_s"].as_f64().unwrap() > 0.0, "{point}");
            assert!(point["ops_per_s_rounds"].as_array().unwrap().iter().all(|ops| ops.as_f64() > Some(0.0)));
            assert_eq!(
                (&point["placement"], &point["threads"], &point["fairness"]),
                (&"all".into(), &1.into(), &1.0.into())
            );
        }
        let mut kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        kinds.dedup();
        assert_eq!(kinds, ["lock_run", "lock_point", "matrix", "lock_fit", "lock_end"]);
        assert_eq!(lines.last().unwrap()["complete"], true);
        let fit = of_kind(&lines, "lock_fit")[0];
        assert!(fit["fit"].is_null() && fit["no_fit"].as_str().unwrap().contains("3 different"), "{fit}");
        // Raw: the same, and samples, a line a point and round, in whatever order they came.
        let all = objects(&fs::read_to_string(raw).unwrap());
        let samples = of_kind(&all, "lock_sample");
        assert_eq!(samples.len(), points.len() * 3);
        assert_eq!(all.len(), lines.len() + samples.len());
        let rounds: BTreeSet<u64> = samples.iter().map(|sample| sample["round"].as_u64().unwrap()).collect();
        assert_eq!(rounds, BTreeSet::from([0, 1, 2]));
        // The same for people.
        let table = bed.ok(&[&["lockbench", "--lock", "mcs,mutex"], &QUICK[..]].concat());
        for part in ["FAIRNESS", "mcs", "mutex", "no curve for", "online", "reading the clock"] {
            assert!(table.contains(part), "{part}: {table}");
        }
    });
}

/// Figures of the tables of locks, as the browser has them: where in JSON, the value, what is shown.
fn figures(dom: &str, table: &str) -> Vec<(String, Value, String)> {
    dom.split(&format!("<td data-{table}=\""))
        .skip(1)
        .map(|rest| {
            let (pointer, rest) = rest.split_once('"').unwrap();
            let json = rest.split_once("data-json=\"").unwrap().1.split_once('"').unwrap().0;
            let shown = rest.split_once('>').unwrap().1.split_once("</td>").unwrap().0;
            (pointer.to_owned(), serde_json::from_str(&unescaped(json)).unwrap(), unescaped(shown))
        })
        .collect()
}

/// Each point and each curve of the record is in its table, with the figures the record has.
fn assert_figures(dom: &str, lines: &[Value]) {
    for (table, kind, columns) in [("points", "lock_point", 9), ("fits", "lock_fit", 5)] {
        let (found, wanted) = (figures(dom, table), of_kind(lines, kind));
        assert_eq!(found.len(), wanted.len() * columns, "{table}");
        for (at, (pointer, json, shown)) in found.iter().enumerate() {
            let value = wanted[at / columns].pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(*json, value, "{table} {pointer}");
            assert!(!shown.is_empty(), "{table} {pointer}");
        }
    }
}

/// What is measured is what the page shows, by itself and in a storm's page, as it is run and from saved files.
#[test]
fn root_browser_pages_show_what_was_measured() {
    in_bed(|bed| {
        let [raw, html, storm, saved, later] =
            ["l.jsonl", "l.html", "s.html", "s.jsonl", "later.html"].map(|name| bed.path(name));
        let cpus = std::thread::available_parallelism().unwrap().get();
        let threads = format!("1,{cpus},{}", 2 * cpus);
        let args = ["--json", "lockbench", "--lock", "mutex,mount", "--placement", "all", "--oversubscribe"];
        let more = ["--threads", &threads, "--duration", "10ms", "--rounds", "3"];
        let files = ["--raw", text(&raw), "--html", text(&html)];
        let lines = objects(&bed.ok(&[&args[..], &more, &files].concat()));
        let pictures = ["lock-mutex", "lock-mutex-done", "lock-mount", "lock-mount-done", "cores-0"];
        let shown = |page: &Path| {
            let dom = dom(page);
            assert_figures(&dom, &lines);
            for picture in pictures {
                assert!(dom.contains(&format!("id=\"{picture}-t\"")), "no picture {picture}");
            }
            // A marker of latency a point and quantile, with its figure.
            let markers = dom.split("<title>").filter(|rest| rest.starts_with("p99, all, ")).count();
            assert_eq!(markers, of_kind(&lines, "lock_point").len());
            dom
        };
        let page = shown(&html);
        let embedded = page.split_once("id=\"locks\">").unwrap().1.split_once("</script>").unwrap().0;
        assert_eq!(serde_json::from_str::<Vec<Value>>(embedded).unwrap(), lines);
        // Of each pair of CPUs the matrix has both ways.
        let matrix = of_kind(&lines, "matrix")[0];
        let measured = matrix["ns"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        let measured = measured.filter(|ns| !ns.is_null()).count();
        assert_eq!(measured, cpus * (cpus - 1));
        let squares = page.split("class=\"heat ").skip(1).map(|rest| rest.split_once("</path>").unwrap().0);
        let squares: usize = squares.map(|path| path.matches('M').count()).sum();
        // The shades of the key are squares, too.
        assert_eq!(squares, measured + 8);

        let args = ["storm", "--containers", "2", "--repeat", "1", "--generate", "layers=2,files=5,size=10"];
        let files = ["--locks", text(&raw), "--html", text(&storm), "--raw", text(&saved)];
        bed.ok(&[&args[..], &files].concat());
        let dom = shown(&storm);
        assert!(
            dom.contains("Measured by <code>plywood lockbench</code>") && !dom.contains("another machine")
        );
        // The storm's own record has them from then on; and a record without them takes them.
        bed.ok(&["storm", "--show", text(&saved), "--html", text(&later)]);
        shown(&later);
        let kept = fs::read_to_string(&saved).unwrap();
        let without = kept.lines().filter(|line| !line.contains("\"lock_") && !line.contains("\"matrix\""));
        fs::write(&saved, without.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        bed.ok(&["storm", "--show", text(&saved), "--html", text(&later), "--locks", text(&raw)]);
        shown(&later);
        bed.ok(&["storm", "--show", text(&saved), "--html", text(&later)]);
        assert!(!fs::read_to_string(&later).unwrap().contains("lockbench"));

        let error = bed.fails(1, &["storm", "--show", text(&saved), "--locks", text(&saved)]);
        assert!(
            error.contains("no point of a lock benchmark") && error.contains("lockbench --raw"),
            "{error}"
        );
        let both = ["lockbench", "--raw", text(&raw), "--html", text(&raw)];
        let error = bed.fails(2, &both);
        assert!(error.contains("--raw and --html both name"), "{error}");
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
        let fit = of_kind(&lines, "lock_fit")[0];
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
        let cases: [(&[&str], i32, &[&str]); 11] = [
            (&["--threads", "5000"], 2, &["5000 threads are too many", "--oversubscribe", "--threads"]),
            (&["--threads", "0"], 2, &["--threads counts from 1"]),
            (&["--threads", "40000", "--oversubscribe"], 1, &["40000 threads more", "--threads"]),
            (&["--threads", "1000000", "--oversubscribe"], 1, &["vm.max_map_count", "threads-max allows"]),
            (&["--rounds", "0"], 2, &["no round"]),
            (&["--duration", "0"], 2, &["no time"]),
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
            assert_eq!(lines.last().unwrap()["complete"], false, "{}", done.stdout);
        }
    });
}
