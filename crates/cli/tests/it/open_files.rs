//! Open files: how many a burst needs, what is refused when there are too few.

use std::fs;
use std::process::{Command, Stdio};

use super::bed::{Bed, Running, in_bed, start};
use super::layout::TestImage;

/// `plywood` under a hard limit on open files.
fn limited(bed: &Bed, limit: u64, args: &[&str]) -> Running {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh");
    command.arg(env!("CARGO_BIN_EXE_plywood")).arg("--root").arg(bed.root()).args(args);
    command.stdin(Stdio::null());
    start(command)
}

/// More than fit are refused with the number that fits, and that number does fit.
#[test]
fn root_a_burst_that_the_limit_cannot_hold_is_refused() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(12), "app");
        for more in [&[][..], &["-d"]] {
            let run = |count: &str| {
                let args = [&["run", "-n", count, "--concurrency", "4"], more, &["app", "--", "sleep", "3"]];
                limited(bed, 200, &args.concat()).finish()
            };
            let error = run("1000").check(1).stderr;
            assert!(error.contains("--count 1000") && error.contains("ulimit -Hn"), "{error}");
            assert!(error.contains("40 containers fit"), "{error}");
            let error = limited(bed, 128, &[&["run"], more, &["app"]].concat()).finish().check(1).stderr;
            assert!(error.contains("0 containers fit") && error.contains("ulimit -n 65536"), "{error}");
            assert!(run("41").check(1).stderr.contains("40 containers fit"));
            bed.expect_empty();
            run("40").check(0);
            bed.ok(&["rm", "--all", "--force"]);
        }
    });
}

/// What a container that runs costs its supervisor: one descriptor, of its process.
#[test]
fn root_a_running_container_costs_one_descriptor() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let supervisor = |count: &str| {
            let id = bed.ok(&["run", "-d", "-n", count, "app", "--", "sleep", "1000"]);
            let first = id.lines().next().unwrap().to_owned();
            let pid = bed.containers().iter().find(|one| one["id"] == *first).unwrap()["pid"].clone();
            parent(&pid.to_string())
        };
        let links = |pid: &str| -> Vec<String> {
            let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let link = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.display().to_string());
            entries.filter_map(|entry| link(entry.unwrap())).collect()
        };
        let (one, twenty) = (supervisor("1"), supervisor("20"));
        for (pid, count) in [(&one, 1), (&twenty, 20)] {
            super::bed::eventually("only processes are watched", || {
                let links = links(pid);
                let of = |kind: &str| links.iter().filter(|link| link.starts_with(kind)).count();
                ((of("anon_inode:[pidfd]") == count || of("pidfd:") == count) && of("user:[") == 0)
                    .then_some(())
            });
        }
        assert_eq!(links(&twenty).len() - links(&one).len(), 19);
        bed.ok(&["rm", "--all", "--force"]);
    });
}

/// The process that has started this one, or taken it over.
pub(crate) fn parent(pid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned()
}
