//! User namespaces held as descriptors, without a process to keep them alive.
//!
//! The kernel makes a user namespace only together with a process. The cheapest one shares everything it can
//! with us (memory, descriptors), never runs code worth the name, and is gone when [`UserNs::create`] returns:
//!
//! ```text
//! caller                                   child
//! clone(CLONE_VM|CLONE_FILES|CLONE_NEWUSER|CLONE_PIDFD) ---> prctl(PR_SET_PDEATHSIG), ppoll(NULL)
//! write /proc/<pid>/uid_map, gid_map
//! ioctl(pidfd, PIDFD_GET_USER_NAMESPACE)   (6.11; before it: open /proc/<pid>/ns/user)
//! pidfd_send_signal(SIGKILL), waitid(P_PIDFD, __WALL)
//! ```
//!
//! `setgroups` stays allowed inside: the maps are written by root of the parent namespace.

use std::collections::HashSet;
use std::ffi::{c_int, c_void};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::error::{self, Result, SyscallError};
use crate::idmap::{self, IdMap, IdMapping};
use crate::sys;

/// A user namespace. It lives as long as the descriptor, or a mount or process using it.
#[derive(Debug)]
pub struct UserNs(OwnedFd);

impl UserNs {
    /// A new namespace with the given maps, a child of the caller's.
    ///
    /// # Errors
    /// EPERM without CAP_SETUID and CAP_SETGID; EINVAL for overlapping or empty maps; ENOSPC when
    /// `user.max_user_namespaces` is reached.
    pub fn create(map: &IdMap) -> Result<UserNs> {
        let child = Parked::spawn()?;
        child.write_map("uid_map", &map.uid)?;
        child.write_map("gid_map", &map.gid)?;
        child.namespace().map(UserNs)
    }
}

impl AsFd for UserNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes over a descriptor the caller knows to be a user namespace's.
impl From<OwnedFd> for UserNs {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<UserNs> for OwnedFd {
    fn from(ns: UserNs) -> Self {
        ns.0
    }
}

/// The id maps of the user namespaces that living processes are in, but for the caller's own; ids outside are those of
/// the caller's namespace. Each namespace once.
///
/// A look at `/proc`: processes that start meanwhile may be missed, those that end meanwhile are no error.
///
/// # Errors
/// If `/proc` cannot be read, or a map in it makes no sense.
pub fn maps_in_use() -> Result<Vec<IdMap>> {
    let failed = |path: &str, error: &io::Error| SyscallError::from_io(format!("read({path:?})"), error);
    let own = fs::read_link("/proc/self/ns/user").map_err(|error| failed("/proc/self/ns/user", &error))?;
    let mut seen = HashSet::from([own]);
    let mut maps = Vec::new();
    for entry in fs::read_dir("/proc").map_err(|error| failed("/proc", &error))? {
        let name = entry.map_err(|error| failed("/proc", &error))?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        // Gone, or a zombie, or kept from us: then it is not in a namespace we could say anything of.
        let namespace = || fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let Some(found) = namespace().filter(|found| !seen.contains(found)) else { continue };
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
            let map = idmap::parse_map(&text);
            map.ok_or_else(|| SyscallError::new(format!("read({path:?}) = {text:?}"), Errno::INVAL)).map(Some)
        };
        let (uid, gid) = (read("uid_map")?, read("gid_map")?);
        // The process may have ended, and its pid gone to another, between any two of these reads. Then the next process
        // of the namespace tells.
        if let (Some(uid), Some(gid)) = (uid, gid)
            && namespace().as_ref() == Some(&found)
        {
            seen.insert(found);
            maps.push(IdMap { uid, gid });
        }
    }
    Ok(maps)
}

/// Enough for three system calls; the child uses a few hundred bytes of it.
const STACK_BYTES: usize = 16 * 1024;

/// The stack alignment every supported ABI is content with.
#[repr(align(64))]
struct Stack([u8; STACK_BYTES]);

/// The child process. Dropping kills and reaps it, then frees its stack.
struct Parked {
    pid: Pid,
    pidfd: OwnedFd,
    stack: Option<Box<Stack>>,
}

impl Parked {
    fn spawn() -> Result<Parked> {
        const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_NEWUSER | libc::CLONE_PIDFD;
        let mut stack = Box::new(Stack([0; STACK_BYTES]));
        let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let mut pidfd: c_int = -1;
        // The child shares our memory and thread-local storage; a signal handler of ours run by it would
        // corrupt both. It inherits this mask and keeps it; only SIGKILL and SIGSTOP reach it.
        let blocked = SignalsBlocked::new();
        // SAFETY: clone wants a stack that outlives the child: `stack` is heap memory freed only after the
        // child is reaped (Drop), and `top` is its aligned upper end. `park` does not return to our frames and
        // touches no memory but that stack. CLONE_PIDFD writes one int through the fifth argument, which
        // points to the live `pidfd`. No exit signal is set, so no SIGCHLD disturbs the program.
        // What is weak here: `libc::syscall` would write the shared `errno` if a call of the child failed; none of
        // them does (see `park`).
        let pid = unsafe { libc::clone(park, top, FLAGS, parent as usize as *mut c_void, &raw mut pidfd) };
        let errno = io::Error::last_os_error();
        drop(blocked);
        let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Err(SyscallError::from_io(
                "clone(CLONE_VM|CLONE_FILES|CLONE_NEWUSER|CLONE_PIDFD)",
                &errno,
            ));
        };
        // SAFETY: from_raw_fd wants an open descriptor nobody else owns: clone succeeded, so the kernel has
        // stored in `pidfd` the new descriptor it made for us (close-on-exec by itself).
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Parked { pid, pidfd, stack: Some(stack) })
    }

    /// The pid cannot be another process's: ours is not reaped before Drop.
    fn write_map(&self, file: &str, map: &[IdMapping]) -> Result<()> {
        let path = format!("/proc/{}/{file}", self.pid.as_raw_nonzero());
        let text = idmap::map_text(map);
        let mut file = File::options().write(true).open(&path).map_err(|error| {
            SyscallError::from_io(format!("openat(AT_FDCWD, {path:?}, O_WRONLY)"), &error)
        })?;
        file.write_all(text.as_bytes()).map_err(|error| {
            SyscallError::from_io(format!("write({}, {text:?}, {})", error::fd(&file), text.len()), &error)
        })
    }

    fn namespace(&self) -> Result<OwnedFd> {
        match sys::pidfd_user_namespace(self.pidfd.as_fd()) {
            Ok(fd) => Ok(fd),
            // Before 6.11: ENOTTY, or EINVAL where pidfds know other ioctls only.
            Err(Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                let path = format!("/proc/{}/ns/user", self.pid.as_raw_nonzero());
                File::open(&path).map(OwnedFd::from).map_err(|error| {
                    SyscallError::from_io(format!("openat(AT_FDCWD, {path:?}, O_RDONLY|O_CLOEXEC)"), &error)
                })
            }
            Err(errno) => Err(SyscallError::new(
                format!("ioctl({}, PIDFD_GET_USER_NAMESPACE, 0)", error::fd(&self.pidfd)),
                errno,
            )),
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let killed = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let reaped = sys::wait_any_child(self.pidfd.as_fd());
        if killed.is_err() || reaped.is_err() {
            // Its stack may still be in use: better to lose 16 KiB than to hand them to the allocator.
            std::mem::forget(self.stack.take());
            tracing::warn!(
                pid = self.pid.as_raw_nonzero(),
                ?killed,
                ?reaped,
                "user namespace child not reaped"
            );
        }
    }
}

/// What the child runs: dies with its parent, otherwise sleeps until killed.
///
/// It runs in our memory with our thread-local storage, which holds the parent thread's `errno` and libc's record of
/// that thread. So: no allocation, no panic, no call that can fail, and no wrapper of libc that keeps records:
/// waiting ones such as `pause` are cancellation points, which glibc before 2.41 notes in the record of the thread.
/// `libc::syscall` is none, and touches nothing but `errno`, after a failure. prctl with a valid signal and getppid
/// cannot fail; ppoll without descriptors and without a time ends only by a signal handler (a stop restarts it), and
/// all signals are blocked. Returning is `_exit`.
extern "C" fn park(parent: *mut c_void) -> c_int {
    // Each argument has the width of a register, as syscall wants them.
    const NONE: libc::c_ulong = 0;
    // SAFETY: PR_SET_PDEATHSIG takes a signal's number and reads nothing else.
    unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_PDEATHSIG as libc::c_ulong,
            libc::SIGKILL as libc::c_ulong,
            NONE,
            NONE,
            NONE,
        )
    };
    // The parent may have died before the line above; then nobody would ever kill us.
    // SAFETY: getppid has no requirements.
    if unsafe { libc::syscall(libc::SYS_getppid) } as usize != parent as usize {
        return 1;
    }
    loop {
        // SAFETY: ppoll reads no descriptors when told of none, and takes null for no time limit and for the mask as
        // it is. Not pause: aarch64 has no such call.
        unsafe { libc::syscall(libc::SYS_ppoll, NONE, NONE, NONE, NONE, NONE) };
    }
}

/// All signals blocked on this thread until dropped.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises the set behind the pointer, which is valid for writes.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` is initialised by sigfillset, `before` is valid for writes; SIG_SETMASK is a valid how.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: pthread_sigmask fails only for a bad how, so it has filled `before`.
        SignalsBlocked(unsafe { before.assume_init() })
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask; a null third argument is documented to be ignored.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
