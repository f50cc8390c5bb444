//! Counting system calls and context switches.

use std::path::Path;

use plywood_kernel::perf::{Counters, Event, MountFlags, Scope, TraceFs, syscall_tracepoints};
use plywood_kernel::testing::{Denied, deny, in_private_mount_ns, on_own_thread, require_root};
use plywood_kernel::{Kind, MountFd, MountWatch, UnmountFlags, table, unmount};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags as Flags, MountPropagationFlags, mount_bind, mount_change, mount_remount};

fn umounts(tracefs: &TraceFs, filter: &str) -> Event {
    Event::tracepoint(tracefs, "syscalls/sys_exit_umount", Some(filter)).unwrap()
}

fn churn(path: &Path, rounds: usize) {
    for _ in 0..rounds {
        MountFd::clone_tree(CWD, path, false).unwrap().attach(CWD, path).unwrap();
        unmount(path, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn root_every_call_that_passes_the_filter_is_counted_once() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let tracefs = TraceFs::open().unwrap();
        let events = [umounts(&tracefs, "ret == 0"), umounts(&tracefs, "ret != 0")];
        let mine = Counters::open(Scope::ThisThread, &events).unwrap();
        let all = Counters::open(Scope::Machine, &events).unwrap();
        churn(dir.path(), 301);
        for _ in 0..7 {
            unmount("/no/such/path", UnmountFlags::empty()).unwrap_err();
        }
        on_own_thread(|| churn(dir.path(), 11));
        assert_eq!(mine.read().unwrap(), [301, 7], "of this thread");
        // From any thread: the counters are of the one that opened them.
        assert_eq!(on_own_thread(|| mine.read().unwrap()), [301, 7]);
        let all = all.read().unwrap();
        assert!(all[0] >= 312 && all[1] >= 7, "of the whole machine: {all:?}");
    });
}

#[test]
fn root_the_flags_of_refused_mounts_are_seen() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    in_private_mount_ns(|| {
        let tracefs = TraceFs::open().unwrap();
        let mut failed = MountFlags::open(&tracefs, Scope::ThisThread, "ret != 0").unwrap();
        assert_eq!(failed.take().unwrap(), [0u64; 0]);
        mount_bind(dir.path(), dir.path()).unwrap();
        mount_bind("/no/such/path", dir.path()).unwrap_err();
        mount_remount("/no/such/path", Flags::BIND | Flags::RDONLY, c"").unwrap_err();
        mount_change("/no/such/path", MountPropagationFlags::PRIVATE).unwrap_err();
        let expected = [libc::MS_BIND, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY, libc::MS_PRIVATE];
        assert_eq!(failed.take().unwrap(), expected);
        assert_eq!(failed.take().unwrap(), [0u64; 0], "each once");
    });
}

/// More samples than the buffer holds: an error, never a smaller number; then it goes on.
#[test]
fn root_lost_samples_are_never_hidden() {
    require_root();
    let tracefs = TraceFs::open().unwrap();
    let mut failed = MountFlags::open(&tracefs, Scope::ThisThread, "ret != 0").unwrap();
    let refused = |times: usize| {
        for _ in 0..times {
            mount_bind("/no/such/path", "/no/such/path").unwrap_err();
        }
    };
    refused(10_000);
    assert_eq!(failed.take().unwrap().len(), 10_000);
    refused(64 * rustix::param::page_size() / 24 + 10);
    assert_eq!(failed.take().unwrap_err().errno(), Errno::OVERFLOW);
    refused(10_000);
    assert_eq!(failed.take().unwrap(), [libc::MS_BIND; 10_000], "wrapped around");
}

#[test]
fn root_context_switches_are_those_proc_stat_shows() {
    require_root();
    let shown = || {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let line = stat.lines().find_map(|line| line.strip_prefix("ctxt ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let counters = Counters::open(Scope::Machine, &[Event::context_switches()]).unwrap();
    let (outer, first) = (shown(), counters.read().unwrap()[0]);
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    let counted = counters.read().unwrap()[0] - first;
    let shown = shown() - outer;
    assert!(counted >= 100, "{counted}");
    // /proc/stat was read before and after, and reading the counters may itself switch.
    assert!(counted <= shown && shown - counted < 100 + shown / 10, "{counted} counted, {shown} shown");
}

#[test]
fn root_tracepoints_are_found_without_mounting_anything() {
    require_root();
    in_private_mount_ns(|| {
        let mounts = table::count().unwrap();
        let mut watch = MountWatch::start().unwrap();
        let tracefs = TraceFs::open().unwrap();
        umounts(&tracefs, "ret == 0");
        drop(tracefs);
        assert_eq!(watch.counts().unwrap().total(), 0);
        assert_eq!(table::count().unwrap(), mounts);
    });
}

#[test]
fn root_mistakes_are_named() {
    require_root();
    let tracefs = TraceFs::open().unwrap();
    let error = Event::tracepoint(&tracefs, "syscalls/sys_exit_nothing", None).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.call().contains("\"syscalls/sys_exit_nothing/id\""), "{error}");
    let event = umounts(&tracefs, "colour == 7");
    let error = Counters::open(Scope::ThisThread, &[event]).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.call().ends_with("PERF_EVENT_IOC_SET_FILTER, \"colour == 7\")"), "{error}");
    assert_eq!(Counters::open(Scope::ThisThread, &[]).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn root_the_probe_tells_a_no_from_a_refusal() {
    require_root();
    assert!(syscall_tracepoints().unwrap());
    let answer = |errno| {
        on_own_thread(|| {
            deny(&[Denied { call: libc::SYS_perf_event_open, argument: None, errno }]);
            syscall_tracepoints()
        })
    };
    assert!(!answer(libc::ENOSYS).unwrap());
    let error = answer(libc::EACCES).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.call().starts_with("perf_event_open({type=PERF_TYPE_TRACEPOINT, config="), "{error}");
    assert!(
        error.call().ends_with("/* syscalls/sys_exit_umount */}, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)"),
        "{error}"
    );
}
