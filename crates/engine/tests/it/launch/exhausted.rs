//! Running out of what the supervisor needs: containers end all the same.

use plywood_engine::launch::{Event, LaunchError};
use plywood_engine::runtime::RunMode;
use plywood_kernel::testing::{Denied, deny, on_own_thread};

use super::support::{Host, command};

/// A launcher all of whose threads find no descriptor for a process; what they start does not either.
fn without_process_descriptors(test: impl FnOnce() + Send) {
    on_own_thread(|| {
        deny(&[Denied { call: libc::SYS_pidfd_open, argument: None, errno: libc::EMFILE }]);
        test();
    });
}

/// A process that could not be watched was never looked at again: the run hung for ever, and Ctrl-C did not end it.
#[test]
fn root_processes_that_cannot_be_watched_are_noticed() {
    let host = Host::new();
    for mode in [RunMode::Attached, RunMode::Detached] {
        without_process_descriptors(|| {
            let (launcher, events) = host.launcher(mode);
            for _ in 0..6 {
                launcher.submit(host.launch(command(&["sh", "-c", "exit 3"])).2);
            }
            launcher.close();
            let codes: Vec<i32> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Started { .. } => None,
                    Event::Exited { code, .. } => Some(code),
                    other => panic!("{mode:?}: {other:?}"),
                })
                .collect();
            assert_eq!(codes, [3; 6], "{mode:?}");
            launcher.finish().unwrap();
            host.assert_nothing_left("");
        });
    }
}

#[test]
fn root_processes_that_cannot_be_watched_are_cancelled() {
    let host = Host::new();
    for mode in [RunMode::Attached, RunMode::Detached] {
        without_process_descriptors(|| {
            let (launcher, events) = host.launcher(mode);
            let cancel = launcher.cancel_handle();
            let ids: Vec<String> = (0..3)
                .map(|_| {
                    let (id, _, launch) = host.launch(command(&["sleep", "100"]));
                    launcher.submit(launch);
                    id
                })
                .collect();
            launcher.close();
            let mut ended = 0;
            for event in events {
                match event {
                    Event::Started { .. } => cancel.cancel(),
                    Event::Exited { code: 137, .. }
                    | Event::Failed { error: LaunchError::Cancelled, .. }
                    | Event::Cancelled { .. } => ended += 1,
                    other => panic!("{mode:?}: {other:?}"),
                }
            }
            assert_eq!(ended, ids.len(), "{mode:?}");
            launcher.finish().unwrap();
            for id in &ids {
                host.assert_nothing_left(id);
            }
        });
    }
}
