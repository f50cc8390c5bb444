//! `plywood storm`: what it starts, counts and refuses, and that nothing of it is left.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use plywood_kernel::RangeLocks;
use plywood_xtask::containerd::{Server, Settings, Suite, Tree};
use rustix::process::Signal;
use serde_json::Value;

use super::bed::{Bed, Done, eventually, in_bed};
use super::layout::{TestImage, text};

/// A storm as quick as can be: one round that counts, four containers, a small image.
const QUICK: [&str; 6] = ["--containers", "4", "--repeat", "1", "--generate", "layers=5,files=20,size=10"];

impl Bed {
    fn storm(&self, args: &[&str]) -> Done {
        self.plywood(&[&["--json", "storm"], args].concat())
    }

    /// Its arms, and nothing of it left.
    #[track_caller]
    fn arms(&self, args: &[&str]) -> Vec<Value> {
        let done = self.storm(args).check(0);
        self.nothing_left();
        arms(&done)
    }

    /// Beyond what the bed looks at after each test.
    #[track_caller]
    fn nothing_left(&self) {
        self.expect_empty();
        let images = self.json(&["images"])["images"].to_string();
        assert!(!images.contains("plywood.storm"), "{images}");
        for place in ["flat", "layers"] {
            // Those of images that tests have imported stay.
            if images == "[]" {
                assert_eq!(self.listed(place), Vec::<String>::new(), "left in {place}");
            }
        }
        let register = std::path::Path::new("/run/plywood/ids.lock");
        if register.exists() {
            let leased = RangeLocks::open(register).unwrap().held_by_others(0..1 << 34).unwrap();
            assert_eq!(leased, [], "leased on the machine");
        }
    }
}

fn arms(done: &Done) -> Vec<Value> {
    lines_of(&done.stdout)
}

/// Counts of mount operations of an arm: on the host's table, anywhere.
fn mounts(arm: &Value) -> (u64, u64, u64, u64) {
    let of = |name: &str| arm["mount_ops"][name].as_u64().unwrap_or_else(|| panic!("{name}: {arm}"));
    (of("host_attach"), of("host_detach"), of("attach"), of("detach"))
}

/// Mount operations are those predicted, for each mechanism over each lower source.
#[test]
fn root_each_mechanism_mounts_what_it_says() {
    in_bed(|bed| {
        let mechanisms = ["detached", "private", "common-parent", "per-layer", "copy"];
        let sweep = ["--mechanism", &mechanisms.join(","), "--lower", "flat,layers", "--passes", "2"];
        let arms = bed.arms(&[&sweep[..], &QUICK].concat());
        assert_eq!(arms.len(), 10);
        for arm in &arms {
            assert_eq!((&arm["failed"], &arm["launches"]), (&0.into(), &4.into()), "{arm}");
            let lowers = if arm["lower"] == "flat" { 1 } else { 5 };
            let (up, down, anywhere_up, _) = mounts(arm);
            // Each of four containers: a look at the image with the overlay attached, then the layers once more.
            let (host, passes) = match arm["mechanism"].as_str().unwrap() {
                "per-layer" => (4 * (lowers + 1 + lowers), 2),
                "common-parent" => (4 * (1 + 1 + 1), 2),
                _ => (0, 1),
            };
            assert_eq!((up, down, &arm["passes"]), (host, host, &passes.into()), "{arm}");
            if arm["mechanism"] == "per-layer" && lowers == 5 {
                assert_eq!(up + down, 4 * 2 * (1 + 5 + 5));
            }
            // And its root file system, in a namespace of its own. Others on this machine may mount meanwhile.
            let private = if arm["mechanism"] == "private" { 4 } else { 0 };
            assert!(anywhere_up >= host + 4 + private, "{arm}");
        }
    });
}

/// One attach a container, in a namespace of its own, and not one more. Others on this machine mount as well, so it is the
/// calmest of many short rounds that tells.
#[test]
fn root_the_default_attaches_once_a_container() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let size = ["--containers", "4", "--repeat", "40", "--generate", "layers=5,files=20,size=10"];
        bed.arms(&[&["--mechanism", "detached", "--raw", text(&raw)][..], &size].concat());
        let lines = lines_of(&fs::read_to_string(&raw).unwrap());
        let attached = lines.iter().filter(|line| line["kind"] == "round").map(|round| {
            assert_eq!(round["mount_ops"]["host_attach"], 0, "{round}");
            round["mount_ops"]["attach"].as_u64().unwrap()
        });
        assert_eq!(attached.min(), Some(4));
    });
}

/// What cannot be written costs no figures, and what a file says does nothing to a terminal.
#[test]
fn root_figures_are_shown_whatever_becomes_of_the_page() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        bed.ok(&[&["storm", "--raw", text(&raw)], &QUICK[..]].concat());
        let done = bed.plywood(&["storm", "--show", text(&raw), "--html", "/dev/full"]).check(1);
        assert!(done.stdout.contains("host's mount table"), "{}", done.stdout);
        assert!(done.stderr.contains("writing the report to /dev/full"), "{}", done.stderr);
        // It is that file's disk which is full, not the state root's.
        let of_it = |error: &str| error.contains("df /dev/full") && !error.contains("state root");
        assert!(of_it(&done.stderr), "{}", done.stderr);
        let samples = bed.plywood(&[&["storm", "--raw", "/dev/full"], &QUICK[..]].concat()).check(1).stderr;
        assert!(samples.contains("writing the samples to /dev/full") && of_it(&samples), "{samples}");
        let quick =
            ["--duration", "5ms", "--rounds", "1", "--threads", "1", "--lock", "cas", "--placement", "all"];
        let locks = bed.plywood(&[&["lockbench", "--raw", "/dev/full"], &quick[..]].concat()).check(1).stderr;
        assert!(locks.contains("writing samples to /dev/full") && of_it(&locks), "{locks}");
        // A pipe has nothing to be emptied of.
        let page = bed.ok(&["storm", "--show", text(&raw), "--json", "--html", "/dev/stdout"]);
        assert!(page.contains("<html"), "{page}");
        let same = bed.plywood(&[&["storm", "--raw", text(&raw), "--html", text(&raw)], &QUICK[..]].concat());
        assert!(same.check(2).stderr.contains("one would overwrite the other"));
        assert!(!lines_of(&fs::read_to_string(&raw).unwrap()).is_empty());

        let endless = bed.plywood(&["storm", "--show", "/dev/zero"]).check(1);
        assert!(endless.stderr.contains("/dev/zero is longer than 512 MiB"), "{}", endless.stderr);

        let hostile = fs::read_to_string(&raw).unwrap().replace(
            "\"mechanism\":\"per-layer\",\"lower\":\"layers\",\"snapshotter\":null",
            "\"mechanism\":null,\"lower\":null,\"snapshotter\":\"\\u001b]0;taken\\u0007\"",
        );
        fs::write(&raw, hostile).unwrap();
        let shown = bed.ok(&["storm", "--show", text(&raw)]);
        assert!(shown.contains("taken") && !shown.contains('\u{1b}'), "{shown:?}");
        let compared = bed.ok(&["storm", "--compare", text(&raw), text(&raw)]);
        assert!(compared.contains("taken") && !compared.contains('\u{1b}'), "{compared:?}");
    });
}

#[test]
fn root_the_incident_is_what_a_storm_is_about() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let html = bed.path("report.html");
        let files = ["--raw", text(&raw), "--html", text(&html)];
        let arms = bed.arms(&[&files[..], &QUICK].concat());
        let ways: Vec<_> =
            arms.iter().map(|arm| (&arm["mechanism"], &arm["lower"], &arm["passes"])).collect();
        assert_eq!(ways[0], (&"per-layer".into(), &"layers".into(), &2.into()));
        assert_eq!((ways[1].1, ways[1].2), (&"flat".into(), &1.into()));
        assert_eq!((mounts(&arms[0]).0, mounts(&arms[1]).0), (44, 0));
        // The names scripts rely on.
        for name in [
            "launcher",
            "mechanism",
            "lower",
            "snapshotter",
            "userns",
            "passes",
            "layers",
            "containers",
            "concurrency",
            "failed",
            "wall_ms",
            "launch_ms",
            "mount_ops",
            "health_ms",
            "path_walk_us",
            "mount_table_peak",
        ] {
            assert!(arms[0].get(name).is_some(), "{name}: {}", arms[0]);
        }
        // Every sample is there: for each arm a round that warms up and one that counts.
        let lines = lines_of(&fs::read_to_string(&raw).unwrap());
        let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
        assert_eq!((of("run"), of("launch"), of("round"), of("end")), (1, 16, 4, 1));
        assert_eq!(lines[0]["image"], "generated: layers=5,files=20,size=10,seed=7");
        assert_eq!(lines.last().unwrap()["complete"], true);
        let page = fs::read_to_string(&html).unwrap();
        assert!(page.contains("<html"));
        let shown = bed.ok(&["storm", "--show", text(&raw), "--html", text(&html), "--json"]);
        assert_eq!(lines_of(&shown), arms);
        assert_eq!(fs::read_to_string(&html).unwrap(), page);
        // And says the same when it is read again.
        let same = bed.ok(&["storm", "--compare", text(&raw), text(&raw)]);
        assert!(same.contains("same") || same.contains("unclear"), "{same}");
        let same: Value =
            serde_json::from_str(&bed.ok(&["storm", "--compare", text(&raw), text(&raw), "--json"])).unwrap();
        assert_eq!(same["pairs"].as_array().map(Vec::len), Some(2), "{same}");
        // People get a table and a sentence.
        let table = bed.ok(&[&["storm"], &QUICK[..]].concat());
        assert!(
            table.contains("assembly per-layer over layers x 2") && table.contains("host's mount table"),
            "{table}"
        );
        assert!(table.starts_with("4 containers of 5 layers, 1 round each\n"), "{table}");
        let table = bed.ok(&[&["storm", "--layers", "2,5", "--mechanism", "detached"], &QUICK[..]].concat());
        assert!(table.starts_with("4 containers, 1 round each\n") && table.contains("  LAYERS  "), "{table}");
        bed.nothing_left();
    });
}

fn lines_of(raw: &str) -> Vec<Value> {
    raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn root_sweeps_share_layers_and_each_combination_is_an_arm() {
    in_bed(|bed| {
        let sweep =
            ["--mechanism", "detached", "--layers", "1,3,5", "--concurrency", "1,4", "--admission", "all,1"];
        let arms = bed.arms(&[&sweep[..], &QUICK].concat());
        let swept: Vec<_> = arms
            .iter()
            .map(|arm| (arm["layers"].as_u64(), arm["concurrency"].as_u64(), arm["admission"].as_u64()))
            .collect();
        let mut expected = Vec::new();
        for layers in [1, 3, 5] {
            for concurrency in [1, 4] {
                expected
                    .extend([None, Some(1)].map(|admission| (Some(layers), Some(concurrency), admission)));
            }
        }
        assert_eq!(swept, expected);
        assert!(arms.iter().all(|arm| arm["failed"] == 0 && mounts(arm).0 == 0), "{arms:?}");
    });
}

#[test]
fn root_an_image_of_the_store_is_used_and_stays() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(7), "app");
        let before = bed.json(&["images"]);
        let (layers, flat) = (bed.listed("layers"), bed.listed("flat"));
        let quick = ["--image", "app", "--containers", "3", "--repeat", "1"];
        let arms =
            bed.arms(&[&["--layers", "2,7", "--mechanism", "detached,per-layer"], &quick[..]].concat());
        assert_eq!(arms.iter().map(|arm| mounts(arm).0).collect::<Vec<_>>(), [0, 0, 6, 21]);
        assert_eq!(bed.json(&["images"]), before);
        assert_eq!(
            (bed.listed("layers"), bed.listed("flat")),
            (layers, flat),
            "what was made for it is gone"
        );
        let error = bed.fails(2, &[&["storm", "--layers", "8"], &quick[..]].concat());
        assert!(error.contains("8 layers, but the image has 7"), "{error}");
        let error = bed.fails(1, &["storm", "--image", "nothere"]);
        assert!(error.contains("no image \"nothere\" here"), "{error}");
        assert_eq!(bed.json(&["images"]), before);
    });
}

#[test]
fn root_a_generated_image_can_be_kept_and_run() {
    in_bed(|bed| {
        bed.storm(&[&["--keep-image", "--mechanism", "detached"], &QUICK[..]].concat()).check(0);
        let images = bed.json(&["images"]);
        let name = images["images"][0]["names"][0].as_str().unwrap().to_owned();
        assert!(name.starts_with("plywood.storm/generated:"), "{name}");
        bed.ok(&["run", &name, "--", "/bin/exit"]);
        // Another storm of the same parameters finds it, and leaves it.
        bed.storm(&[&["--mechanism", "detached"], &QUICK[..]].concat()).check(0);
        assert_eq!(bed.json(&["images"])["images"][0]["names"][0], name.as_str());
        bed.ok(&["rmi", &name]);
        bed.nothing_left();
    });
}

#[test]
fn root_the_product_itself_is_a_launcher() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let args = [
            "--launcher",
            "run",
            "--layers",
            "2,5",
            "--lower",
            "layers,flat",
            "--burst",
            "3",
            "--raw",
            text(&raw),
        ];
        let arms = bed.arms(&[&args[..], &QUICK].concat());
        assert_eq!(arms.len(), 4);
        for arm in &arms {
            assert_eq!((&arm["failed"], &arm["launches"], mounts(arm).0), (&0.into(), &4.into(), 0), "{arm}");
            // The runtime mounts a good deal for each container.
            assert!(mounts(arm).2 > 4 * 10, "{arm}");
        }
        let lines = lines_of(&fs::read_to_string(&raw).unwrap());
        assert!(lines[0]["host"]["versions"].to_string().contains("version"), "{}", lines[0]);
        let mut due: BTreeMap<u64, f64> = BTreeMap::new();
        for line in
            lines.iter().filter(|line| line["kind"] == "launch" && line["round"] == 1 && line["arm"] == 0)
        {
            due.insert(line["container"].as_u64().unwrap(), line["due_ms"].as_f64().unwrap());
        }
        // Bursts of three and one: the second is due when the first is there.
        assert_eq!((due[&0], due[&1], due[&2]), (0.0, 0.0, 0.0));
        assert!(due[&3] > 1.0, "{due:?}");
    });
}

#[test]
fn root_a_command_that_does_not_start_is_no_storm() {
    in_bed(|bed| {
        let args = [&["storm", "--launcher", "run"], &QUICK[..], &["--", "/bin/nothing"]].concat();
        let error = bed.fails(1, &args);
        assert!(error.contains("no container of run") && error.contains("/bin/nothing"), "{error}");
        bed.nothing_left();
    });
}

#[test]
fn root_launches_that_are_too_late_have_failed() {
    in_bed(|bed| {
        // The whole image is copied for each container: that takes longer than a tenth of a millisecond.
        let args = ["--mechanism", "copy", "--timeout", "100us"];
        let done = bed.storm(&[&args[..], &QUICK].concat()).check(1);
        let arm = &arms(&done)[0];
        assert_eq!(arm["failed"], 4, "{arm}");
        let reason = arm["failures"][0]["reason"].as_str().unwrap();
        assert!(reason.ends_with("only after the timeout"), "{reason}");
        bed.nothing_left();
    });
}

#[test]
fn root_ctrl_c_takes_everything_back() {
    in_bed(|bed| {
        for (number, launcher) in ["assembly", "assembly", "assembly", "run", "run"].into_iter().enumerate() {
            let raw = bed.path(&format!("raw-{number}.jsonl"));
            let size = ["--containers", "30", "--repeat", "1000", "--generate", "layers=9,files=40,size=10"];
            let args = ["--launcher", launcher, "--hold", "200ms", "--raw", text(&raw)];
            let storm = bed.start(&[&["--json", "storm"], &args[..], &size].concat()).ready();
            // Anywhere: while the image is made, in the warm-up, in a round.
            let rounds = number % 3;
            eventually("the storm is far enough", || {
                let raw = fs::read_to_string(&raw).unwrap_or_default();
                (raw.matches(r#""kind":"round""#).count() >= rounds).then_some(())
            });
            std::thread::sleep(Duration::from_millis(37 * number as u64));
            let done = storm.interrupt(Signal::INT);
            let code = done.status.code();
            assert!(code == Some(130), "{launcher} {code:?}\n{}\n{}", done.stdout, done.stderr);
            let raw = fs::read_to_string(&raw).unwrap();
            if let Some(end) = lines_of(&raw).last() {
                assert_eq!((&end["kind"], &end["complete"]), (&"end".into(), &false.into()), "{end}");
            }
            bed.nothing_left();
        }
    });
}

/// What a killed storm leaves, the next command takes back.
#[test]
fn root_sigkill_is_mended_by_the_next_command() {
    in_bed(|bed| {
        let raw = bed.path("raw.jsonl");
        let args = ["--json", "storm", "--mechanism", "per-layer", "--repeat", "1000", "--raw", text(&raw)];
        let storm = bed.start(&[&args[..], &["--generate", "layers=30,files=60,size=10"]].concat()).ready();
        eventually("a round", || fs::read_to_string(&raw).ok()?.contains(r#""kind":"round""#).then_some(()));
        storm.signal(Signal::KILL);
        assert_eq!(storm.finish().status.code(), None);
        // Layers, too: nothing but `images` was asked.
        assert_eq!(bed.json(&["images"])["images"], serde_json::json!([]));
        bed.expect_empty();
        bed.nothing_left();
    });
}

/// A killed storm left what it had started by `run -d` until somebody removed it.
#[test]
fn root_sigkill_of_a_storm_of_runs_ends_its_containers() {
    in_bed(|bed| {
        for rounds in [0, 1] {
            let raw = bed.path(&format!("raw-{rounds}.jsonl"));
            let args = ["--json", "storm", "--launcher", "run", "--repeat", "1000", "--hold", "10m"];
            let size = ["--containers", "6", "--generate", "layers=5,files=20,size=10", "--raw", text(&raw)];
            let held = [&args[..], &size].concat();
            let brief: Vec<&str> = held.iter().map(|arg| if *arg == "10m" { "1ms" } else { *arg }).collect();
            // While its containers run, and in the midst of starting and removing some.
            let storm = bed.start(if rounds == 0 { &held } else { &brief }).ready();
            let running = || bed.containers().iter().filter(|one| one["state"] == "running").count();
            eventually("it is far enough", || match rounds {
                0 => (running() == 6).then_some(()),
                _ => fs::read_to_string(&raw).ok()?.contains(r#""kind":"round""#).then_some(()),
            });
            storm.signal(Signal::KILL);
            assert_eq!(storm.finish().status.code(), None);
            eventually("all is taken back", || bed.containers().is_empty().then_some(()));
            eventually("supervisors have ended", || bed.listed("run/bundles").is_empty().then_some(()));
        }
        // Whichever command came first takes the images back, and may be at it.
        eventually("images are taken back", || {
            let images = bed.json(&["images"])["images"].to_string();
            (images == "[]" && bed.listed("trash").is_empty()).then_some(())
        });
        bed.nothing_left();
    });
}

#[test]
fn root_what_cannot_be_is_refused_before_anything_starts() {
    in_bed(|bed| {
        let refused = |code: i32, args: &[&str], why: &str| {
            let error = bed.fails(code, &[&["storm"], args].concat());
            assert!(error.contains(why), "{args:?}: {error}");
        };
        refused(2, &["--mechanism", "magic"], "invalid value 'magic'");
        refused(2, &["--launcher", "docker"], "invalid value 'docker'");
        refused(2, &["--containers", "4", "--concurrency", "5"], "only 4 containers");
        refused(2, &["--concurrency", "0"], "at least 1");
        refused(2, &["--layers", "501"], "1 to 500");
        refused(2, &["--layers", "5", "--generate", "layers=4"], "5 layers, but the image has 4");
        refused(2, &["--generate", "colour=red"], "colour=red");
        refused(2, &["--rate", "0"], "a rate is between");
        refused(2, &["--timeout", "0"], "--timeout must be longer");
        refused(2, &["--timeout", "soon"], "is no duration");
        refused(2, &["--incident", "--passes", "2"], "cannot be used with");
        refused(2, &["--launcher", "run", "--passes", "2"], "passes is for");
        refused(2, &["--snapshotter", "overlayfs"], "snapshotter is for launchers containerd and cri");
        refused(2, &["--launcher", "run", "--userns", "host"], "userns is for launchers containerd and cri");
        refused(2, &["--launcher", "cri", "--userns", "guest"], "invalid value 'guest'");
        refused(2, &["--incident", "--userns", "host"], "cannot be used with");
        refused(2, &["--launcher", "run", "--rootfs-only"], "rootfs-only is for launcher containerd");
        refused(2, &["--pin", "5000"], "--pin 5000: CPUs 5000");
        refused(2, &["--pin", "moon"], "no placement \"moon\"");
        refused(2, &["--admission", "0"], "is no admission");
        let raw = bed.path("raw.jsonl");
        fs::write(&raw, "samples").unwrap();
        refused(2, &["--concurrency", "0", "--raw", text(&raw)], "at least 1");
        assert_eq!(fs::read_to_string(&raw).unwrap(), "samples", "those of an earlier storm are gone");
        let nowhere = bed.path("nowhere/raw.jsonl");
        refused(1, &["--raw", text(&nowhere)], "writing the samples to");
        refused(1, &["--html", text(&nowhere)], "writing the report to");
        refused(1, &["--compare", text(&nowhere), text(&nowhere)], "reading");
        // Ranges of a quarter of all ids: there is room for none, and so for no hundred.
        refused(1, &["--id-range-length", "1000000000"], "ids");
        refused(1, &["--containers", "5000", "--concurrency", "1", "--mechanism", "detached"], "free ranges");
        bed.nothing_left();
    });
}

/// The same image, generated, in a real containerd: tasks, root file systems alone, and pods.
#[test]
fn root_a_real_containerd_is_a_launcher() {
    in_bed(|bed| {
        let settings = Settings { pods: true, ..Settings::default() };
        let server = Server::start(Tree::open(Suite::Sid).unwrap(), &settings).unwrap();
        let socket = server.socket();
        let to = ["--address", text(&socket), "--layers", "3,5"];
        let arms = bed.arms(&[&["--launcher", "assembly,containerd,cri"], &to[..], &QUICK].concat());
        assert_eq!(arms.len(), 6);
        for arm in &arms {
            assert_eq!((&arm["failed"], &arm["launches"]), (&0.into(), &4.into()), "{arm}");
            // Ours are the only ones that leave the table they work in alone.
            assert_eq!(mounts(arm).0 == 0, arm["launcher"] == "assembly", "{arm}");
        }
        let rootfs = ["--launcher", "containerd", "--rootfs-only", "--passes", "2"];
        let arms = bed.arms(&[&rootfs[..], &to, &QUICK].concat());
        assert_eq!((arms.len(), &arms[0]["passes"]), (2, &2.into()));
        assert!(arms.iter().all(|arm| mounts(arm).0 > 0 && arm["failed"] == 0), "{arms:?}");
        // Pods would have the configured one all the same.
        let other = ["storm", "--launcher", "cri", "--snapshotter", "native", "--address", text(&socket)];
        let error = bed.fails(2, &other);
        assert!(error.contains("native") && error.contains("configured with overlayfs"), "{error}");
        assert!(arms.iter().all(|arm| arm["snapshotter"] == "overlayfs"), "{arms:?}");
        // Its own image of a name, if it has one.
        let error = bed.fails(
            1,
            &["storm", "--launcher", "containerd", "--image", "nothere", "--address", text(&socket)],
        );
        assert!(error.contains("no image \"nothere\""), "{error}");
    });
}
