//! Counting what the kernel does, for the whole machine or for one thread: `perf_event_open`.
//!
//! ```text
//! TraceFs ──> Event (tracepoint, filter) ──> Counters      how often, one group a CPU, read together
//!                                       └──> MountFlags    the flags of each mount(2) that passes the filter
//! ```
//!
//! The kernel counts; nothing runs in this process until it asks. A tracepoint of one system call costs that call
//! 60 to 80 ns and every other call nothing measurable (6.18), and no event is dropped, however many there are.
//! 32-bit programs on a 64-bit kernel pass these tracepoints unseen.
//!
//! It refuses to say how often something happened if it cannot know: lost samples are an error. Nothing is ever
//! mounted in any mount table, and everything ends with the descriptors.

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{self, Kind, Result, SyscallError};
use crate::{FsContext, MountAttrs};

mod attr;
mod ring;
mod samples;

use attr::Attr;
pub use samples::MountFlags;

/// The directory of tracepoints.
#[derive(Debug)]
pub struct TraceFs(OwnedFd);

/// Whose events are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everybody's, on all CPUs that are online; needs CAP_PERFMON or CAP_SYS_ADMIN. One descriptor a CPU and event.
    Machine,
    /// The calling thread's only, wherever it runs, whoever reads the counter.
    ThisThread,
}

/// What is counted.
#[derive(Clone, Debug)]
pub struct Event {
    kind: u32,
    config: u64,
    name: String,
    filter: Option<CString>,
}

/// Counters of some events since they were opened.
#[derive(Debug)]
pub struct Counters {
    /// One a CPU: the leader, then the others.
    groups: Vec<Vec<OwnedFd>>,
    events: usize,
}

/// Whether system calls can be counted by their tracepoints.
///
/// No: a kernel without perf events, tracefs or `CONFIG_FTRACE_SYSCALLS`. A missing privilege is an error.
pub fn syscall_tracepoints() -> Result<bool> {
    let tried = TraceFs::open()
        .and_then(|tracefs| Event::tracepoint(&tracefs, "syscalls/sys_exit_umount", Some("ret == 0")))
        .and_then(|event| Counters::open(Scope::ThisThread, &[event]));
    match tried {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Missing) => Ok(false),
        Err(error) => Err(error),
    }
}

impl TraceFs {
    /// Where it is mounted, else a mount of it that is attached nowhere.
    ///
    /// `/sys/kernel/debug/tracing` is not looked at: the first look mounts it there, for everybody.
    pub fn open() -> Result<TraceFs> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // In the empty directory of a tracefs that is not mounted there are no events.
        if let Ok(mounted) = rustix::fs::open("/sys/kernel/tracing/events", flags, Mode::empty()) {
            return Ok(TraceFs(mounted));
        }
        let context = FsContext::open("tracefs")?;
        context.create()?;
        let mount = context.mount(MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?;
        mount.open_dir("events").map(TraceFs)
    }

    /// The number the kernel gave a tracepoint: `syscalls/sys_enter_mount`.
    ///
    /// # Errors
    /// ENOENT if it has none of that name.
    fn id(&self, tracepoint: &str) -> Result<u64> {
        let path = format!("{tracepoint}/id");
        let refused = |errno| {
            SyscallError::new(format!("openat({}, {path:?}, O_RDONLY|O_CLOEXEC)", error::fd(&self.0)), errno)
        };
        let file = rustix::fs::openat(&self.0, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(refused)?;
        let mut text = String::new();
        File::from(file)
            .read_to_string(&mut text)
            .map_err(|error| SyscallError::from_io(format!("read({path:?})"), &error))?;
        text.trim()
            .parse()
            .map_err(|_| SyscallError::new(format!("read({path:?}): {:?}", text.trim()), Errno::BADMSG))
    }
}

impl Event {
    /// A tracepoint by its directory below `events`, all passes of it or those for which `filter` is true: an
    /// expression on the fields of its `format` file, such as `ret == 0`.
    ///
    /// # Errors
    /// ENOENT if there is no such tracepoint. A wrong filter is found by [`Counters::open`].
    pub fn tracepoint(tracefs: &TraceFs, name: &str, filter: Option<&str>) -> Result<Event> {
        let filter = filter.map(CString::new).transpose().map_err(|_| {
            SyscallError::new(format!("ioctl(PERF_EVENT_IOC_SET_FILTER, {filter:?})"), Errno::INVAL)
        })?;
        Ok(Event { kind: attr::TYPE_TRACEPOINT, config: tracefs.id(name)?, name: name.to_owned(), filter })
    }

    /// Switches from one thread to another or to idleness.
    pub fn context_switches() -> Event {
        Event {
            kind: attr::TYPE_SOFTWARE,
            config: attr::COUNT_SW_CONTEXT_SWITCHES,
            name: "PERF_COUNT_SW_CONTEXT_SWITCHES".to_owned(),
            filter: None,
        }
    }

    fn attr(&self) -> Attr {
        Attr { kind: self.kind, config: self.config, ..Attr::default() }
    }

    /// Opens it on one CPU (or wherever the calling thread runs), as one of the leader's group if there is one.
    fn open(&self, attr: &Attr, scope: Scope, cpu: Option<u32>, leader: Option<&OwnedFd>) -> Result<OwnedFd> {
        let pid = if scope == Scope::Machine { -1 } else { 0 };
        let cpu = cpu.and_then(|cpu| i32::try_from(cpu).ok()).unwrap_or(-1);
        let opened = attr::perf_event_open(attr, pid, cpu, leader.map(AsFd::as_fd));
        let fd = opened.map_err(|errno| {
            let leader = leader.map_or_else(|| "-1".to_owned(), error::fd);
            let call = format!("perf_event_open({self}, {pid}, {cpu}, {leader}, PERF_FLAG_FD_CLOEXEC)");
            SyscallError::new(call, errno)
        })?;
        if let Some(filter) = &self.filter {
            attr::set_filter(fd.as_fd(), filter).map_err(|errno| {
                let call = format!("ioctl({}, PERF_EVENT_IOC_SET_FILTER, {filter:?})", error::fd(&fd));
                SyscallError::new(call, errno)
            })?;
        }
        Ok(fd)
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind =
            if self.kind == attr::TYPE_TRACEPOINT { "PERF_TYPE_TRACEPOINT" } else { "PERF_TYPE_SOFTWARE" };
        write!(f, "{{type={kind}, config={} /* {} */}}", self.config, self.name)
    }
}

impl Counters {
    /// Counts from now on. The events of one CPU are counted and read together.
    ///
    /// # Errors
    /// EACCES or EPERM without the privilege [`Scope`] names; EMFILE when descriptors run out; EINVAL for a filter the
    /// kernel does not understand, or no events.
    pub fn open(scope: Scope, events: &[Event]) -> Result<Counters> {
        let Some((first, others)) = events.split_first() else {
            return Err(SyscallError::new("perf_event_open(NULL)", Errno::INVAL));
        };
        let mut groups = Vec::new();
        for cpu in cpus(scope)? {
            let grouped =
                |event: &Event, disabled| Attr { read_format: attr::FORMAT_GROUP, disabled, ..event.attr() };
            // The others of a group count only while its leader does: nothing is counted before its filter is set.
            let mut group = vec![first.open(&grouped(first, true), scope, cpu, None)?];
            for event in others {
                let next = event.open(&grouped(event, false), scope, cpu, group.first())?;
                group.push(next);
            }
            groups.push(group);
        }
        for leader in groups.iter().filter_map(|group| group.first()) {
            enable(leader)?;
        }
        Ok(Counters { groups, events: events.len() })
    }

    /// How often each event has happened since [`open`](Self::open), in the order they were given: one read a CPU.
    pub fn read(&self) -> Result<Vec<u64>> {
        let mut sums = vec![0u64; self.events];
        // Their number, then a value each.
        let mut buffer = vec![0u8; (1 + self.events) * size_of::<u64>()];
        for leader in self.groups.iter().filter_map(|group| group.first()) {
            read_values(leader, &mut buffer)?;
            for (sum, value) in sums.iter_mut().zip(values(&buffer).skip(1)) {
                *sum += value;
            }
        }
        Ok(sums)
    }
}

/// Where to open an event: once on every CPU, or once for the thread.
fn cpus(scope: Scope) -> Result<Vec<Option<u32>>> {
    match scope {
        Scope::ThisThread => Ok(vec![None]),
        Scope::Machine => {
            let path = "/sys/devices/system/cpu/online";
            let list = std::fs::read_to_string(path)
                .map_err(|error| SyscallError::from_io(format!("read({path:?})"), &error))?;
            let online = parse_cpu_list(list.trim())
                .ok_or_else(|| SyscallError::new(format!("read({path:?}): {list:?}"), Errno::BADMSG))?;
            Ok(online.into_iter().map(Some).collect())
        }
    }
}

/// `0-3,8` as the kernel writes it; None for anything else.
fn parse_cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last >= crate::affinity::MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn enable(fd: &OwnedFd) -> Result<()> {
    attr::enable(fd.as_fd()).map_err(|errno| {
        SyscallError::new(format!("ioctl({}, PERF_EVENT_IOC_ENABLE, 0)", error::fd(fd)), errno)
    })
}

/// Fills the buffer whole or fails.
fn read_values(fd: &OwnedFd, buffer: &mut [u8]) -> Result<()> {
    let refused = |errno| SyscallError::new(format!("read({})", error::fd(fd)), errno);
    let length = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)).map_err(refused)?;
    if length == buffer.len() { Ok(()) } else { Err(refused(Errno::BADMSG)) }
}

fn values(buffer: &[u8]) -> impl Iterator<Item = u64> {
    buffer.as_chunks::<8>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        for wrong in ["", "a", "3-1", "0,", "-", "0-4294967295"] {
            assert_eq!(parse_cpu_list(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn values_follow_each_other() {
        let bytes: Vec<u8> = [2u64, 7, 9].into_iter().flat_map(u64::to_ne_bytes).collect();
        assert_eq!(values(&bytes).collect::<Vec<_>>(), [2, 7, 9]);
    }
}
