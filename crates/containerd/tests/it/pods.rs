//! Pods with user namespaces in a real containerd, and that nothing of them stays.

use std::time::{Duration, Instant};

use plywood_containerd::{Client, Pods, PodsError, Session};
use plywood_kernel::testing::require_root;
use plywood_xtask::containerd::{Settings, Suite};

use crate::containers::{IMAGE, assert_nothing_but, check, layout, mapping, start, traces};

#[test]
fn root_a_pod_with_a_user_namespace_and_nothing_left() {
    require_root();
    let server = start(Suite::Sid, &Settings { pods: true, ..Settings::default() });
    let client = Client::connect(&server.socket()).unwrap();
    let pods = Pods::open(&client).unwrap();
    pods.map_ids().unwrap();
    // What containerd unpacks and keeps of the pause image is not the pod's: a first pod makes it so.
    std::mem::forget(pods.run("first", None).unwrap());
    // Nobody holds it any more, as one whose removal has failed.
    let others = Pods::open(&client).unwrap();
    let held = others.run("held", None).unwrap();
    pods.close().unwrap();
    let pauses = || server.processes().unwrap().len();
    assert!(pauses() > 1, "closing took what is another's");
    held.remove().unwrap();
    others.close().unwrap();
    let before = traces(&server, Pods::NAMESPACE);

    let session = Session::open(&client, Pods::NAMESPACE, "overlayfs").unwrap();
    session.import(&layout(&server), None).unwrap();
    let started = Instant::now();
    while !pods.has_image(IMAGE).unwrap() {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let pod = pods.run("one", Some(&mapping())).unwrap();
    let container = pod.start(IMAGE, &check()).unwrap();
    let started = Instant::now();
    let status = loop {
        match pod.exit_status(&container).unwrap() {
            Some(status) => break status,
            None => assert!(started.elapsed() < Duration::from_secs(60), "{}", server.log()),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status, 0, "{}", server.log());
    pod.remove().unwrap();
    // One that runs when it is dropped.
    let pod = pods.run("two", Some(&mapping())).unwrap();
    pod.start(IMAGE, &["/bin/sleep".to_owned(), "1000".to_owned()]).unwrap();
    drop(pod);
    session.close().unwrap();
    assert_nothing_but(&server, Pods::NAMESPACE, &before);
}

#[test]
fn root_containerds_without_pods_with_user_namespaces_say_who_has_them() {
    require_root();
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let server = start(suite, &Settings::default());
        let client = Client::connect(&server.socket()).unwrap();
        let error = Pods::open(&client).unwrap().map_ids().unwrap_err();
        assert!(matches!(error, PodsError::TooOld(_)), "{suite}: {error:?}");
        assert!(error.to_string().contains("2.0 and newer have"));
    }
}
