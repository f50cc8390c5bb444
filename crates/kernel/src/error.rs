//! A refused system call: what was called, what the kernel answered, what it wrote in its log.
//!
//! Display gives the line strace would (`fsconfig(7, FSCONFIG_CMD_CREATE, NULL, NULL, 0) = -1 EINVAL`) and the
//! kernel's fs-context log lines in brackets. The errno's own sentence is the source's business.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

mod names;

/// What this crate's functions return.
pub type Result<T> = core::result::Result<T, SyscallError>;

/// A system call the kernel refused.
///
/// Callers match [`kind`](Self::kind) (or [`errno`](Self::errno) where the kernel documents one); people read
/// the rest.
#[derive(Debug, thiserror::Error)]
pub struct SyscallError {
    call: String,
    #[source]
    errno: Errno,
    kernel_log: Vec<String>,
}

/// The classes of refusal a caller handles differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The kernel or the filesystem does not know the operation: ENOSYS, EOPNOTSUPP, ENOTTY, ENODEV.
    /// EINVAL is not here, it says too many things; a probe that knows its meaning looks at the errno.
    Unsupported,
    /// A privilege is missing: EPERM, EACCES, EROFS.
    Denied,
    /// Something else uses it: EBUSY, ETXTBSY.
    Busy,
    /// No such file, process or device: ENOENT, ESRCH, ENXIO.
    Missing,
    /// Already there: EEXIST, ENOTEMPTY.
    Exists,
    /// A limit or a resource is used up: ENOSPC, EMFILE, ENFILE, ENOMEM, EDQUOT.
    Exhausted,
    /// Everything else.
    Failed,
}

impl SyscallError {
    /// The class of the refusal.
    pub fn kind(&self) -> Kind {
        match self.errno {
            Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NODEV => Kind::Unsupported,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Kind::Denied,
            Errno::BUSY | Errno::TXTBSY => Kind::Busy,
            Errno::NOENT | Errno::SRCH | Errno::NXIO => Kind::Missing,
            Errno::EXIST | Errno::NOTEMPTY => Kind::Exists,
            Errno::NOSPC | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::DQUOT => Kind::Exhausted,
            _ => Kind::Failed,
        }
    }

    /// The kernel's answer.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The call with its arguments, without the result: `open_tree(5</a/b>, "c", OPEN_TREE_CLONE)`.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// What the kernel wrote into the fs context's log about it, one message an element; often empty.
    pub fn kernel_log(&self) -> &[String] {
        &self.kernel_log
    }

    /// A refused call that this crate has no wrapper for; `call` as strace prints it.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno, kernel_log: Vec::new() }
    }

    pub(crate) fn with_log(mut self, log: Vec<String>) -> Self {
        self.kernel_log = log;
        self
    }

    /// For calls made through the standard library; an error that carries no errno becomes EIO.
    pub(crate) fn from_io(call: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = -1 ", self.call)?;
        match names::name(self.errno) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "E{}", self.errno.raw_os_error())?,
        }
        for line in &self.kernel_log {
            write!(f, " [{line}]")?;
        }
        Ok(())
    }
}

/// A descriptor as `strace -y` shows it: `5</var/lib/x>`; the path is what it pointed to when formatted.
pub(crate) fn fd(fd: impl AsFd) -> String {
    let raw = fd.as_fd().as_raw_fd();
    if raw == rustix::fs::CWD.as_raw_fd() {
        return "AT_FDCWD".to_owned();
    }
    match std::fs::read_link(format!("/proc/thread-self/fd/{raw}")) {
        Ok(path) => format!("{raw}<{}>", path.display()),
        Err(_) => raw.to_string(),
    }
}

/// Symbolic flags joined by `|`, `0` when there are none.
pub(crate) fn flags(set: &[(bool, &str)]) -> String {
    let names: Vec<&str> = set.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if names.is_empty() { "0".to_owned() } else { names.join("|") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn display_is_the_strace_line_and_leaves_the_sentence_to_the_source() {
        let error = SyscallError::new("fsopen(\"nofs\", FSOPEN_CLOEXEC)", Errno::NODEV)
            .with_log(vec!["e nofs: nothing".to_owned()]);
        assert_eq!(error.to_string(), "fsopen(\"nofs\", FSOPEN_CLOEXEC) = -1 ENODEV [e nofs: nothing]");
        assert!(error.source().unwrap().to_string().contains("No such device"));
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.call(), "fsopen(\"nofs\", FSOPEN_CLOEXEC)");
    }

    #[test]
    fn kinds_keep_unsupported_denied_and_failed_apart() {
        let kind = |errno| SyscallError::new("x()", errno).kind();
        assert_eq!(kind(Errno::NOSYS), Kind::Unsupported);
        assert_eq!(kind(Errno::PERM), Kind::Denied);
        assert_eq!(kind(Errno::INVAL), Kind::Failed);
        assert_eq!(kind(Errno::MFILE), Kind::Exhausted);
        assert_eq!(kind(Errno::BUSY), Kind::Busy);
        assert_eq!(kind(Errno::NOENT), Kind::Missing);
        assert_eq!(kind(Errno::EXIST), Kind::Exists);
    }

    #[test]
    fn unknown_errnos_print_their_number() {
        let error = SyscallError::new("x()", Errno::from_raw_os_error(3999));
        assert_eq!(error.to_string(), "x() = -1 E3999");
    }

    #[test]
    fn descriptors_show_where_they_point() {
        let root = std::fs::File::open("/").unwrap();
        assert_eq!(fd(&root), format!("{}</>", root.as_raw_fd()));
        assert_eq!(fd(rustix::fs::CWD), "AT_FDCWD");
        assert_eq!(flags(&[(true, "A"), (false, "B"), (true, "C")]), "A|C");
        assert_eq!(flags(&[]), "0");
    }
}
