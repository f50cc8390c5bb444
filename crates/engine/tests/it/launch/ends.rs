//! How containers end, and that nothing of them stays.

use std::collections::HashMap;
use std::time::Duration;

use plywood_engine::bundle::{self, ExecOverrides};
use plywood_engine::launch::{Event, Launch, LaunchError};
use plywood_engine::runtime::{ExecRequest, FailureKind, RunMode, Status};
use plywood_engine::users::{self, ContainerUser};
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{FsContext, MountAttrs, UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Host, chain, command, shell};

const MODES: [RunMode; 2] = [RunMode::Attached, RunMode::Detached];

#[test]
fn root_exit_codes_are_the_containers() {
    let host = Host::new();
    for mode in MODES {
        assert_eq!(host.run(mode, command(&["true"])).0, 0, "{mode:?}");
        assert_eq!(host.run(mode, shell("exit 7")).0, 7, "{mode:?}");
        // Another process of the container kills the first one: its own namespace protects it from itself.
        let (code, _) = host.run(mode, shell("trap 'exit 9' TERM; kill -TERM $$; sleep 5"));
        assert_eq!(code, 9, "{mode:?}");
    }
}

#[test]
fn root_a_signal_from_outside_is_128_and_its_number() {
    let host = Host::new();
    for mode in MODES {
        let (launcher, events) = host.launcher(mode);
        let (id, _, launch) = host.launch(command(&["sleep", "60"]));
        launcher.submit(launch);
        launcher.close();
        assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
        assert_eq!(host.runtime.state(&id).unwrap().id, id);
        host.runtime.kill(&id, "KILL").unwrap();
        let end = events.recv().unwrap();
        assert!(matches!(&end, Event::Exited { code: 137, .. }), "{mode:?}: {end:?}");
        launcher.finish().unwrap();
        host.assert_nothing_left(&id);
    }
}

#[test]
fn root_a_command_that_cannot_run_is_told_from_one_that_failed() {
    let host = Host::new();
    let table = [
        ("nosuch", 127, FailureKind::CommandNotFound),
        ("/bin/nosuch", 127, FailureKind::CommandNotFound),
        ("/bin/script", 126, FailureKind::CommandNotExecutable),
        ("/etc", 126, FailureKind::CommandNotExecutable),
    ];
    for mode in MODES {
        for (name, code, kind) in table {
            let event = host.run_to_event(mode, command(&[name]));
            let Event::Failed { error, .. } = event else { panic!("{mode:?} {name}: {event:?}") };
            assert_eq!(error.exit_code(), code, "{mode:?} {name}: {}", chain(&error));
            let LaunchError::Runtime(failure) = error else { panic!("{mode:?} {name}: {error:?}") };
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(name), "{failure}");
        }
    }
}

#[test]
fn root_a_preparation_that_fails_or_panics_fails_alone() {
    let host = Host::new();
    let (launcher, events) = host.launcher(RunMode::Attached);
    launcher.submit(Launch { id: "wrong".to_owned(), prepare: Box::new(|| Err("no layers".into())) });
    launcher.submit(Launch { id: "panics".to_owned(), prepare: Box::new(|| panic!("on purpose")) });
    let (id, _, launch) = host.launch(command(&["true"]));
    launcher.submit(launch);
    launcher.close();
    let events: Vec<Event> = events.iter().collect();
    let failed = |wanted: &str| {
        events.iter().any(
            |event| matches!(event, Event::Failed { id, error: LaunchError::Prepare(_) } if id == wanted),
        )
    };
    assert!(failed("wrong") && failed("panics"), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Exited { code: 0, .. })), "{events:?}");
    launcher.finish().unwrap();
    host.assert_nothing_left(&id);
}

#[test]
fn root_cancelling_leaves_nothing() {
    let host = Host::new();
    for mode in MODES {
        let (launcher, events) = host.launcher(mode);
        let cancel = launcher.cancel_handle();
        let ids: Vec<String> = (0..30)
            .map(|_| {
                let (id, _, launch) = host.launch(command(&["sleep", "60"]));
                launcher.submit(launch);
                id
            })
            .collect();
        launcher.close();
        let mut ended = 0;
        let mut started = 0;
        for event in events {
            match event {
                Event::Started { .. } => {
                    started += 1;
                    if started == 5 {
                        cancel.cancel();
                    }
                }
                Event::Exited { code, .. } => {
                    assert_eq!(code, 137);
                    ended += 1;
                }
                Event::Failed { error: LaunchError::Cancelled, .. } | Event::Cancelled { .. } => ended += 1,
                other @ Event::Failed { .. } => panic!("{other:?}"),
            }
        }
        assert_eq!(ended, ids.len(), "{mode:?}");
        assert!(started < ids.len(), "{mode:?}: all had started before the cancellation");
        launcher.finish().unwrap();
        for id in &ids {
            host.assert_nothing_left(id);
        }
    }
}

/// Control groups that stay busy were waited for by the one thread that hears of all ends, ten seconds each.
#[test]
fn root_a_container_that_leaves_its_groups_slowly_keeps_no_other_waiting() {
    require_root();
    in_private_mount_ns(|| {
        let host = Host::new();
        let (launcher, events) = host.launcher(RunMode::Detached);
        let mut pids = HashMap::new();
        let ids = [(); 2].map(|()| {
            let (id, _, launch) = host.launch(command(&["sleep", "60"]));
            launcher.submit(launch);
            id
        });
        launcher.close();
        while pids.len() < 2 {
            let Event::Started { id, pid, .. } = events.recv().unwrap() else { panic!("not started") };
            pids.insert(id, Pid::from_raw(pid).unwrap());
        }
        // A directory that something is mounted on cannot be removed, as one with processes cannot.
        let [slow, quick] = &ids;
        let group = host.cgroups.directories(slow).remove(0);
        let tmpfs = FsContext::open("tmpfs").unwrap();
        tmpfs.create().unwrap();
        tmpfs.mount(MountAttrs::NONE).unwrap().attach(rustix::fs::CWD, &group).unwrap();
        let kill = |id: &String| kill_process(pids[id], Signal::KILL).unwrap();
        kill(slow);
        // By then the runtime, which tries for a moment, too, has let go.
        std::thread::sleep(Duration::from_millis(1500));
        kill(quick);
        assert_eq!(events.recv_timeout(Duration::from_secs(6)).unwrap().id(), quick);
        // Whoever is looking into the group at this moment keeps the mount busy, not the place it is on.
        unmount(&group, UnmountFlags::DETACH).unwrap();
        let event = events.recv_timeout(Duration::from_secs(6)).unwrap();
        assert!(matches!(&event, Event::Exited { id, code: 137 } if id == slow), "{event:?}");
        launcher.finish().unwrap();
        if host.runtime.ids().unwrap().contains(slow) {
            // One that could not remove a group keeps its record.
            host.runtime.delete(slow, true).unwrap();
        }
        for id in &ids {
            host.assert_nothing_left(id);
        }
    });
}

#[test]
fn root_another_process_joins_a_running_container() {
    let host = Host::new();
    let (launcher, events) = host.launcher(RunMode::Detached);
    let (id, range, launch) = host.launch(command(&["sleep", "60"]));
    launcher.submit(launch);
    assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
    assert_eq!(host.runtime.state(&id).unwrap().status, Status::Running);
    let bundle = host.directories.bundle(&id);
    let exec = |script: &str, user: Option<ContainerUser>| {
        let wanted = ExecOverrides {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["X=y".to_owned()],
            workdir: Some("/tmp".to_owned()),
            user,
        };
        let process = bundle::exec(&bundle::read(&bundle).unwrap(), &wanted).unwrap();
        let [file, pid_file, log] = ["exec.json", "exec.pid", "exec.log"].map(|name| bundle.join(name));
        bundle::write_process(&file, &process).unwrap();
        let request = ExecRequest { process: &file, pid_file: &pid_file, log: &log };
        host.runtime.exec_command(&id, &request).output().unwrap()
    };
    let user = users::resolve("12:34", b"", b"").unwrap();
    let output = exec("cat /proc/self/uid_map; echo $X; pwd; hostname; id -u; exit 5", Some(user));
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let start = range.start.to_string();
    assert_eq!(words, ["0", start.as_str(), "65536", "y", "/tmp", "box", "12"]);
    assert_eq!(output.status.code(), Some(5));

    launcher.cancel_handle().cancel();
    launcher.finish().unwrap();
    assert!(matches!(events.recv().unwrap(), Event::Exited { code: 137, .. }));
    host.assert_nothing_left(&id);
    assert!(host.runtime.state(&id).unwrap_err().to_string().contains("does not exist"));
}

#[test]
fn root_leftovers_of_a_killed_runtime_are_removed() {
    let host = Host::new();
    let (launcher, events) = host.launcher(RunMode::Detached);
    let (id, _, launch) = host.launch(shell("sleep 61 & sleep 62"));
    launcher.submit(launch);
    launcher.close();
    assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
    assert!(host.cgroups.ids().unwrap().contains(&id));
    assert!(!host.cgroups.processes(&id).unwrap().is_empty());
    // Groups can be removed without asking the runtime, as after a crash.
    host.cgroups.remove(&id).unwrap();
    assert_eq!(host.cgroups.directories(&id).len(), 0);
    assert!(matches!(events.recv().unwrap(), Event::Exited { code: 137, .. }));
    launcher.finish().unwrap();
    host.assert_nothing_left(&id);
}
