//! Running out of what the supervisor needs: containers end all the same.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use plywood_engine::launch::{Event, Launch, LaunchError, Launcher, LauncherConfig};
use plywood_engine::runtime::RunMode;
use plywood_kernel::testing::{Denied, deny, on_own_thread};
use rustix::fs::{FileType, Mode};

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

/// When the kernel refused to wait, the supervisor left: nobody was told how containers ended, and the run never did.
#[test]
fn root_a_supervisor_that_cannot_wait_finishes_what_it_watches() {
    let host = Host::new();
    for mode in [RunMode::Attached, RunMode::Detached] {
        on_own_thread(|| {
            // Ours alone: runtimes wait for another number of events at a time.
            let refused = |call| Denied { call, argument: Some((2, 64)), errno: libc::EBADF };
            deny(&[libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].map(refused));
            #[cfg(target_arch = "x86_64")]
            deny(&[refused(libc::SYS_epoll_wait)]);
            let (launcher, events) = host.launcher(mode);
            for script in ["exit 3", "sleep 0.3; exit 4", "sleep 100"] {
                launcher.submit(host.launch(command(&["sh", "-c", script])).2);
            }
            launcher.close();
            let mut codes = Vec::new();
            loop {
                let event = events.recv_timeout(Duration::from_secs(60));
                match event {
                    Ok(Event::Started { .. }) => {}
                    Ok(Event::Exited { code, .. }) => codes.push(code),
                    Err(RecvTimeoutError::Disconnected) => break,
                    other => panic!("{mode:?}: {other:?}"),
                }
                if codes.len() == 2 {
                    launcher.cancel_handle().cancel();
                }
            }
            codes.sort_unstable();
            assert_eq!(codes, [3, 4, 137], "{mode:?}");
            launcher.finish().unwrap();
            host.assert_nothing_left("");
        });
    }
}

/// An image with a pipe where the runtime reads a file kept the run, and Ctrl-C, waiting for ever.
#[test]
fn root_a_start_that_takes_too_long_is_taken_back() {
    let host = Host::new();
    let passwd = host.rootfs().join("etc/passwd");
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    for mode in [RunMode::Attached, RunMode::Detached] {
        let mut config = LauncherConfig::new(host.runtime.clone(), host.directories.clone(), mode);
        config.start_timeout = Duration::from_secs(3);
        let (launcher, events) = Launcher::start(config, &|| false).unwrap();
        let ids: Vec<String> = (0..2)
            .map(|_| {
                let (id, _, launch) = host.launch(command(&["true"]));
                launcher.submit(launch);
                id
            })
            .collect();
        launcher.close();
        let mut failed = 0;
        for event in events {
            let Event::Failed { error: error @ LaunchError::Overdue { .. }, .. } = &event else {
                panic!("{mode:?}: {event:?}")
            };
            assert!(error.to_string().contains("had not started it after 3 s"), "{error}");
            failed += 1;
        }
        assert_eq!(failed, 2);
        launcher.finish().unwrap();
        ids.iter().for_each(|id| host.assert_nothing_left(id));
    }
}

/// A launcher thread that could not leave a container's namespace went on preparing in it.
#[test]
fn root_a_launcher_thread_that_cannot_go_home_prepares_nothing_more() {
    let host = Host::new();
    for threads in [2, 1] {
        let mut config =
            LauncherConfig::new(host.runtime.clone(), host.directories.clone(), RunMode::Attached);
        config.threads = threads;
        let (launcher, events) = Launcher::start(config, &|| false).unwrap();
        let (first, _, launch) = host.launch(command(&["true"]));
        let prepare = launch.prepare;
        let stranding = move || {
            let prepared = prepare();
            deny(&[Denied { call: libc::SYS_setns, argument: None, errno: libc::EPERM }]);
            prepared
        };
        launcher.submit(Launch { id: launch.id, prepare: Box::new(stranding) });
        // The thread is lost for certain before there is more to do.
        let event = events.recv().unwrap();
        assert!(matches!(&event, Event::Failed { id, error: LaunchError::Mount(_) } if *id == first));
        for _ in 0..4 {
            launcher.submit(host.launch(command(&["true"])).2);
        }
        launcher.close();
        let (mut ran, mut refused) = (0, 0);
        for event in events {
            match event {
                Event::Started { .. } => {}
                Event::Exited { code: 0, .. } => ran += 1,
                Event::Failed { error: LaunchError::Stranded, .. } => refused += 1,
                other => panic!("{threads}: {other:?}"),
            }
        }
        assert_eq!((ran, refused), if threads == 2 { (4, 0) } else { (0, 4) });
        launcher.finish().unwrap();
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
