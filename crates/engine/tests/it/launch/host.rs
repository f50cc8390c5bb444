//! What the host notices of launches: nothing.

use std::collections::BTreeSet;

use plywood_engine::launch::Event;
use plywood_engine::runtime::RunMode;
use plywood_kernel::testing::in_private_mount_ns;
use plywood_kernel::{MountWatch, table};

use super::support::{Host, command, shell};

#[test]
fn root_the_hosts_mount_table_never_changes() {
    let host = Host::new();
    // In a namespace of the test's own, so that nothing else on this machine counts.
    in_private_mount_ns(|| {
        let before = table::count().unwrap();
        let mut watch = MountWatch::start().unwrap();
        for mode in [RunMode::Attached, RunMode::Detached] {
            let (launcher, events) = host.launcher(mode);
            for _ in 0..20 {
                launcher.submit(host.launch(command(&["true"])).2);
            }
            launcher.close();
            let ends = events.iter().filter(|event| matches!(event, Event::Exited { code: 0, .. })).count();
            assert_eq!(ends, 20);
            launcher.finish().unwrap();
        }
        let counts = watch.counts().unwrap();
        assert_eq!(counts.total(), 0, "{counts:?}");
        assert_eq!(table::count().unwrap(), before);
    });
}

#[test]
fn root_a_container_starts_in_a_namespace_of_a_few_mounts() {
    let host = Host::new();
    let (code, output) = host.run(RunMode::Attached, shell("cat /proc/self/mountinfo"));
    assert_eq!(code, 0);
    let points: BTreeSet<&str> = output.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(points.contains("/") && points.contains("/proc") && points.contains("/dev/shm"), "{output}");
    let anchor = host.directories.anchor.to_str().unwrap();
    assert!(!points.iter().any(|point| point.starts_with(anchor)), "{output}");
}

#[test]
fn root_twenty_containers_have_twenty_ranges() {
    let host = Host::new();
    let (launcher, events) = host.launcher(RunMode::Attached);
    let mut outputs = Vec::new();
    for _ in 0..20 {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut wish = command(&["cat", "/proc/self/uid_map"]);
        wish.stdout = Some(output.reopen().unwrap());
        let (_, range, launch) = host.launch(wish);
        outputs.push((range, output));
        launcher.submit(launch);
    }
    launcher.close();
    for event in &events {
        if let Event::Started { timing, .. } = &event {
            assert!(timing.launch() <= timing.total());
        }
        assert!(matches!(event, Event::Started { .. } | Event::Exited { code: 0, .. }), "{event:?}");
    }
    launcher.finish().unwrap();
    let mut seen = BTreeSet::new();
    for (range, output) in &outputs {
        let text = std::fs::read_to_string(output.path()).unwrap();
        let fields: Vec<u32> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
        assert_eq!(fields, [0, range.start, range.length]);
        seen.insert(fields[1]);
    }
    assert_eq!(seen.len(), 20);
}
