//! System calls rustix has no wrapper for.
//!
//! `mount_setattr`, `statmount` and `listmount` are missing from rustix 1.1; so are the calls of fanotify and signalfd.

use std::ffi::{CStr, c_int, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Same on every architecture plywood builds for; libc lacks the two names.
pub(crate) const SYS_STATMOUNT: libc::c_long = 457;
pub(crate) const SYS_LISTMOUNT: libc::c_long = 458;

/// `LSMT_ROOT`: list what is below the namespace's root.
pub(crate) const LSMT_ROOT: u64 = u64::MAX;

/// The argument of `mount_setattr`, version 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttr {
    pub(crate) attr_set: u64,
    pub(crate) attr_clr: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// The argument of `statmount` and `listmount`, version 0: the caller's own mount namespace.
#[repr(C)]
struct MntIdReq {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Takes a descriptor a system call has just returned.
pub(crate) fn own(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = RawFd::try_from(check(result)?).map_err(|_| Errno::BADF)?;
    // SAFETY: from_raw_fd wants an open descriptor nobody else owns. The kernel returned `raw` from a call
    // that creates a descriptor, and it has been stored nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Blocks `signals` on this thread: `signalfd(-1, signals, SFD_NONBLOCK|SFD_CLOEXEC)`
pub(crate) fn signalfd(signals: &[c_int]) -> Result<OwnedFd, Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set, which is live and exclusively ours.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: sigaddset wants a set that sigemptyset has made, which is live and exclusively ours. It refuses numbers
        // that are no signals.
        let added = unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
        check(added.into())?;
    }
    // SAFETY: the set is one that sigemptyset has made; the old mask is not asked for. Blocking signals cannot break
    // what other code relies on for memory safety.
    let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if refused != 0 {
        return Err(Errno::from_raw_os_error(refused));
    }
    // SAFETY: the call reads the set, made above, and touches no other memory of ours.
    own(unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) }.into())
}

/// Sends a signal to the calling thread.
#[cfg(test)]
pub(crate) fn raise(signal: c_int) -> Result<(), Errno> {
    // SAFETY: raise touches no memory; the tests that call it block or handle the signal.
    check(unsafe { libc::raise(signal) }.into()).map(drop)
}

/// `mount_setattr(fd, path, flags, attr, sizeof *attr)`
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    path: &CStr,
    flags: c_int,
    attr: &MountAttr,
) -> Result<(), Errno> {
    // SAFETY: the kernel reads a NUL-terminated string (CStr) and exactly `size_of::<MountAttr>()` bytes from
    // `attr`, a live reference to a repr(C) struct without padding; it writes no memory of ours. Every
    // variadic argument has the width of a register.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::c_long::from(fd.as_raw_fd()),
            path.as_ptr(),
            libc::c_long::from(flags),
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// `listmount({LSMT_ROOT, after}, ids, ids.len(), 0)`: how many ids were written.
pub(crate) fn listmount(after: u64, ids: &mut [u64]) -> Result<usize, Errno> {
    let request = MntIdReq { size: size_of::<MntIdReq>() as u32, spare: 0, mnt_id: LSMT_ROOT, param: after };
    // SAFETY: the kernel reads `request.size` bytes of the live repr(C) request and writes at most `ids.len()`
    // u64 values to `ids`, a live exclusive slice of that length.
    let result = unsafe {
        libc::syscall(SYS_LISTMOUNT, &raw const request, ids.as_mut_ptr(), ids.len(), libc::c_long::from(0))
    };
    check(result).map(|count| usize::try_from(count).unwrap_or(0).min(ids.len()))
}

/// `statmount({id, mask}, buffer, buffer.len(), 0)`; EOVERFLOW asks for a larger buffer.
pub(crate) fn statmount(id: u64, mask: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let request = MntIdReq { size: size_of::<MntIdReq>() as u32, spare: 0, mnt_id: id, param: mask };
    // SAFETY: the kernel reads `request.size` bytes of the live repr(C) request and writes at most
    // `buffer.len()` bytes to `buffer`, a live exclusive slice; it copies bytewise, so any alignment will do.
    let result = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            buffer.as_mut_ptr(),
            buffer.len(),
            libc::c_long::from(0),
        )
    };
    check(result).map(drop)
}

/// `fanotify_init(flags, 0)`
pub(crate) fn fanotify_init(flags: c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: both arguments are integers; the kernel touches no memory of ours.
    let result = unsafe { libc::fanotify_init(flags, 0) };
    own(libc::c_long::from(result))
}

/// `fanotify_mark(group, flags, mask, fd, NULL)`
pub(crate) fn fanotify_mark(
    group: BorrowedFd<'_>,
    flags: c_uint,
    mask: u64,
    fd: BorrowedFd<'_>,
) -> Result<(), Errno> {
    // SAFETY: both descriptors are borrowed and so open during the call; a null path is documented to mean
    // `fd` itself.
    let result =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, fd.as_raw_fd(), std::ptr::null()) };
    check(libc::c_long::from(result)).map(drop)
}

/// `ioctl(pidfd, PIDFD_GET_USER_NAMESPACE)`: a descriptor of the process's user namespace.
pub(crate) fn pidfd_user_namespace(pidfd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    /// `_IO(0xff, 9)`
    const PIDFD_GET_USER_NAMESPACE: libc::Ioctl = 0xff09;
    let none: libc::c_ulong = 0;
    // SAFETY: the request carries no pointer (the kernel insists on a zero argument, passed in the width of a
    // register), so the kernel touches no memory of ours; the descriptor is borrowed and so open meanwhile.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_USER_NAMESPACE, none) };
    own(libc::c_long::from(result))
}

/// `ioctl(ns, NS_MNT_GET_INFO)`: how many mounts the namespace holds.
pub(crate) fn mount_namespace_size(ns: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut info =
        libc::mnt_ns_info { size: size_of::<libc::mnt_ns_info>() as u32, nr_mounts: 0, mnt_ns_id: 0 };
    // SAFETY: the request's number holds the size of the struct, and the kernel writes no more than that through the
    // pointer, a live exclusive local; the descriptor is borrowed and so open meanwhile.
    let result = unsafe { libc::ioctl(ns.as_raw_fd(), libc::NS_MNT_GET_INFO, &raw mut info) };
    check(result.into())?;
    Ok(info.nr_mounts)
}

/// `getrusage(who)`: user and system time in microseconds.
pub(crate) fn cpu_time_us(who: c_int) -> Result<u64, Errno> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes of one struct rusage.
    let result = unsafe { libc::getrusage(who, usage.as_mut_ptr()) };
    check(result.into())?;
    // SAFETY: all zeroes is a valid rusage, and the kernel has filled it.
    let usage = unsafe { usage.assume_init() };
    let us = |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
    Ok(us(usage.ru_utime) + us(usage.ru_stime))
}

/// `waitid(P_PIDFD, pidfd, NULL, WEXITED|__WALL)`, which also reaps children without an exit signal.
///
/// rustix has no `__WALL`.
pub(crate) fn wait_any_child(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the id is a borrowed, open descriptor (never negative); `info` is valid for writes of a
        // siginfo_t.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                info.as_mut_ptr(),
                libc::WEXITED | libc::__WALL,
            )
        };
        match check(libc::c_long::from(result)) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// `fcntl(fd, F_OFD_SETLK, lock)`
pub(crate) fn ofd_lock(fd: BorrowedFd<'_>, kind: c_int, range: &std::ops::Range<u64>) -> Result<(), Errno> {
    let lock = flock(kind, range)?;
    // SAFETY: F_OFD_SETLK reads one struct flock through the pointer, which is a live local; it writes nothing.
    // `flock` is initialised whole, with l_pid 0 as the open file description commands demand.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    check(result.into()).map(drop)
}

/// `fcntl(fd, F_OFD_GETLK, lock)`: one lock of another description that keeps `range` from being locked.
pub(crate) fn ofd_conflict(
    fd: BorrowedFd<'_>,
    range: &std::ops::Range<u64>,
) -> Result<Option<std::ops::Range<u64>>, Errno> {
    let mut lock = flock(libc::F_WRLCK, range)?;
    // SAFETY: F_OFD_GETLK reads and overwrites one struct flock through the pointer, a live exclusive local; l_pid is 0
    // as it demands.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    check(result.into())?;
    if c_int::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = u64::try_from(lock.l_start).map_err(|_| Errno::RANGE)?;
    let length = u64::try_from(lock.l_len).map_err(|_| Errno::RANGE)?;
    // Length 0 means to the end of everything.
    let end = if length == 0 { u64::MAX } else { start + length };
    Ok(Some(start..end))
}

/// Refuses empty ranges: a length of 0 would mean "to the end of the file, however far it grows".
fn flock(kind: c_int, range: &std::ops::Range<u64>) -> Result<libc::flock, Errno> {
    let length = range.end.checked_sub(range.start).filter(|length| *length > 0).ok_or(Errno::INVAL)?;
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| Errno::INVAL)?,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(range.start).map_err(|_| Errno::INVAL)?,
        l_len: i64::try_from(length).map_err(|_| Errno::INVAL)?,
        l_pid: 0,
    })
}
