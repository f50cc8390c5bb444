//! The system call and its ioctls. libc and rustix have neither, nor the struct.

use std::ffi::{CStr, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::sys;

pub(super) const TYPE_SOFTWARE: u32 = 1;
pub(super) const TYPE_TRACEPOINT: u32 = 2;
pub(super) const COUNT_SW_CONTEXT_SWITCHES: u64 = 3;
/// `PERF_FORMAT_GROUP`
pub(super) const FORMAT_GROUP: u64 = 1 << 3;
/// `PERF_SAMPLE_REGS_USER`
pub(super) const SAMPLE_REGS_USER: u64 = 1 << 12;

const FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// `_IO('$', 0)`
const IOC_ENABLE: libc::Ioctl = 0x2400;
/// `_IOW('$', 6, char *)` where pointers have eight bytes.
const IOC_SET_FILTER: libc::Ioctl = 0x4008_2406;

/// What this crate sets of `struct perf_event_attr`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attr {
    pub(super) kind: u32,
    pub(super) config: u64,
    pub(super) read_format: u64,
    pub(super) disabled: bool,
    /// Each event is sampled if this is not 0.
    pub(super) sample_type: u64,
    pub(super) sample_regs_user: u64,
}

/// `struct perf_event_attr`, version 3 (3.7).
#[repr(C)]
#[derive(Default)]
struct RawAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    /// Bit 0: disabled.
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
}

/// `perf_event_open(attr, pid, cpu, group, PERF_FLAG_FD_CLOEXEC)`
pub(super) fn perf_event_open(
    attr: &Attr,
    pid: libc::pid_t,
    cpu: c_int,
    group: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    let raw = RawAttr {
        kind: attr.kind,
        size: size_of::<RawAttr>() as u32,
        config: attr.config,
        sample_period: u64::from(attr.sample_type != 0),
        sample_type: attr.sample_type,
        read_format: attr.read_format,
        flags: u64::from(attr.disabled),
        sample_regs_user: attr.sample_regs_user,
        ..RawAttr::default()
    };
    // SAFETY: the kernel reads `size` bytes of the live repr(C) struct, which has no padding and whose size that is
    // (if it knows less it writes its own size into it: the struct is not shared); it writes nothing else of ours. The
    // group is -1 or a borrowed and so open descriptor. Every variadic argument has the width of a register.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const raw,
            libc::c_long::from(pid),
            libc::c_long::from(cpu),
            libc::c_long::from(group.map_or(-1, |group| group.as_raw_fd())),
            FLAG_FD_CLOEXEC,
        )
    };
    sys::own(result)
}

/// `ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter)`
pub(super) fn set_filter(fd: BorrowedFd<'_>, filter: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a NUL-terminated string through the pointer, alive meanwhile; it writes nothing.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), IOC_SET_FILTER, filter.as_ptr()) };
    sys::check(result.into()).map(drop)
}

/// `ioctl(fd, PERF_EVENT_IOC_ENABLE, 0)`
pub(super) fn enable(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let none: libc::c_ulong = 0;
    // SAFETY: the request takes flags, passed in the width of a register, and no pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), IOC_ENABLE, none) };
    sys::check(result.into()).map(drop)
}
