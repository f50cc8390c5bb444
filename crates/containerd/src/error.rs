//! Why containerd could not be reached, or would not do what it was asked.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tonic::Code;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such socket: containerd does not run, or listens elsewhere.
    #[error("there is no socket {}", socket.display())]
    Missing {
        /// The path.
        socket: PathBuf,
    },
    /// The socket is root's.
    #[error("not allowed to connect to {}", socket.display())]
    Denied {
        /// The path.
        socket: PathBuf,
    },
    /// Nobody listens, or the file is no socket.
    #[error("cannot connect to {}", socket.display())]
    Refused {
        /// The path.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody listens who is no containerd.
    #[error("what listens on {} does not answer as containerd does", socket.display())]
    Stranger {
        /// The path.
        socket: PathBuf,
        /// The answer.
        #[source]
        source: CallError,
    },
    /// It had not answered when this process was asked to stop.
    #[error("asked to stop before containerd answered on {}", socket.display())]
    Stopped {
        /// The path.
        socket: PathBuf,
        /// The call that was given up.
        #[source]
        source: CallError,
    },
    /// This process could not do its part.
    #[error("cannot make a client for {}", socket.display())]
    Client {
        /// The path.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A call that containerd refused or never answered.
#[derive(Debug, thiserror::Error)]
#[error("containerd: {call}")]
pub struct CallError {
    call: String,
    #[source]
    status: Status,
}

impl CallError {
    pub(crate) fn new(call: String, status: &tonic::Status) -> CallError {
        CallError { call, status: Status { code: status.code(), message: status.message().to_owned() } }
    }

    /// What to do about it depends on this.
    pub fn kind(&self) -> Kind {
        match self.status.code {
            Code::NotFound => Kind::Missing,
            Code::AlreadyExists => Kind::Exists,
            Code::FailedPrecondition => Kind::Busy,
            Code::Unimplemented => Kind::Unsupported,
            Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
            Code::Unavailable => Kind::Unreachable,
            Code::DeadlineExceeded | Code::Cancelled => Kind::Late,
            _ => Kind::Failed,
        }
    }

    /// What containerd answered.
    pub fn message(&self) -> &str {
        &self.status.message
    }
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such thing.
    Missing,
    /// There is one already.
    Exists,
    /// Not in its present state: still running, still referred to.
    Busy,
    /// This containerd does not have that call.
    Unsupported,
    /// Not for us.
    Denied,
    /// The connection broke.
    Unreachable,
    /// No answer in time, or before somebody asked to stop.
    Late,
    /// Anything else.
    Failed,
}

/// The answer to a refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    code: Code,
    message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{:?}", self.code),
            message => write!(f, "{:?}: {message}", self.code),
        }
    }
}

impl std::error::Error for Status {}

/// `Ok` for a refusal that means what was asked for is so already.
pub(crate) fn unless(kinds: &[Kind], result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_the_call_and_its_source_the_answer() {
        let error = CallError::new(
            "Remove snapshot \"x\"".into(),
            &tonic::Status::failed_precondition("has children"),
        );
        assert_eq!(error.to_string(), "containerd: Remove snapshot \"x\"");
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "FailedPrecondition: has children"
        );
        assert_eq!(error.kind(), Kind::Busy);
        assert!(unless(&[Kind::Busy], Err(error)).is_ok());
    }
}
