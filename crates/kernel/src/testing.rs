//! For tests of all crates: privilege, private mount namespaces, kernels that lack a system call.
//!
//! Functions here panic instead of returning errors: they are called by tests only.

use rustix::mount::MountPropagationFlags;

use crate::mountns::{make_all_private, unshare_current_thread};

/// Panics with the command to type unless the test runs as root.
///
/// # Panics
/// If the effective user id is not 0.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root; run: sudo -E env \"PATH=$PATH\" cargo nextest run"
    );
}

/// Runs `test` on a thread of its own in a private copy of the mount namespace; what it mounts goes with it.
///
/// # Panics
/// If the namespace cannot be made, or `test` panics.
pub fn in_private_mount_ns<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    on_own_thread(|| {
        unshare_current_thread().expect("unshare a mount namespace");
        make_all_private().expect("make all mounts private");
        test()
    })
}

/// The same where all mounts are shared, as systemd makes them on most hosts: whoever copies this namespace and mounts in
/// the copy mounts here, too, unless propagation is cut. Nothing goes on to the caller's namespace.
///
/// # Panics
/// As [`in_private_mount_ns`].
pub fn in_shared_mount_ns<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    in_private_mount_ns(|| {
        rustix::mount::mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
            .expect("make all mounts shared");
        test()
    })
}

/// Runs `test` on a thread of its own, so that what it does to its thread (filters, namespaces) goes with it.
///
/// # Panics
/// If `test` panics.
pub fn on_own_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One system call to be refused.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    /// `libc::SYS_...`
    pub call: libc::c_long,
    /// Refuse only calls whose argument of this index (from 0) has this value in its lower 32 bits.
    pub argument: Option<(usize, u32)>,
    /// What the caller gets: `libc::ENOSYS`, ...
    pub errno: i32,
}

/// Makes the given system calls answer ENOSYS on the calling thread, and on threads and processes it starts
/// from now on, for ever. Call it on a thread of your own.
///
/// # Panics
/// If the filter is refused (it needs CAP_SYS_ADMIN).
pub fn deny_syscalls(calls: &[libc::c_long]) {
    let denied: Vec<Denied> =
        calls.iter().map(|&call| Denied { call, argument: None, errno: libc::ENOSYS }).collect();
    deny(&denied);
}

/// The same with errnos and arguments of choice: a kernel that has `fsconfig` but no `FSCONFIG_SET_FD`.
///
/// # Panics
/// If the filter is refused, or an index is above 5.
pub fn deny(denied: &[Denied]) {
    let mut program = Vec::new();
    for rule in denied {
        program.extend(instructions(rule));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a filter has at most 4096 instructions"),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: SECCOMP_SET_MODE_FILTER reads `filter` and the `len` instructions behind its pointer, both alive
    // and initialised; the kernel verifies and copies the program. Flags 0: this thread only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_long::from(0),
            &raw const filter,
        )
    };
    assert_eq!(result, 0, "seccomp(SECCOMP_SET_MODE_FILTER): {}", std::io::Error::last_os_error());
}

/// Loads the number, compares, loads the argument, compares, returns the errno; otherwise falls through.
fn instructions(rule: &Denied) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let refuse = statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ERRNO | (rule.errno as u32 & libc::SECCOMP_RET_DATA),
    );
    let call = rule.call as u32;
    // Offsets into struct seccomp_data: nr at 0, args at 16, eight bytes each.
    match rule.argument {
        None => vec![statement(LOAD, 0), jump(EQUAL, call, 0, 1), refuse],
        Some((index, value)) => {
            assert!(index < 6, "system calls have six arguments");
            let low_half = if cfg!(target_endian = "little") { 0 } else { 4 };
            vec![
                statement(LOAD, 0),
                jump(EQUAL, call, 0, 3),
                statement(LOAD, 16 + 8 * index as u32 + low_half),
                jump(EQUAL, value, 0, 1),
                refuse,
            ]
        }
    }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
