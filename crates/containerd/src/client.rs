//! The connection, and how a blocking caller waits for an answer.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response};

use crate::error::{CallError, ConnectError};
use crate::proto::containerd::services::version::v1::version_client::VersionClient;
use crate::version::Version;

/// Two are enough to read and write messages; what waits for answers are the callers' threads.
const THREADS: usize = 2;

/// No call of an idle containerd takes a second. In a storm they queue up, and one must not hang a program for ever.
const PATIENCE: Duration = Duration::from_secs(600);

/// A connection to a containerd. Clones share it, and any thread may use it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    channel: Channel,
    socket: PathBuf,
    pid: Option<u32>,
    version: Version,
}

impl Client {
    /// Connects to a socket, `/run/containerd/containerd.sock` where nobody has changed it.
    ///
    /// # Errors
    /// There is no such socket, it is for others, nobody answers, or somebody who is no containerd.
    pub fn connect(socket: &Path) -> Result<Client, ConnectError> {
        let pid = probe(socket)?;
        let client = |source: io::Error| ConnectError::Client { socket: socket.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("containerd")
            .enable_all()
            .build()
            .map_err(client)?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|e| client(io::Error::other(e)))?;
        let _context = runtime.enter();
        let channel = endpoint.connect_lazy();
        let version =
            wait(&runtime, || "Version".into(), VersionClient::new(channel.clone()).version(patient(())))
                .map_err(|source| ConnectError::Stranger { socket: socket.to_owned(), source })?;
        let version = Version::parse(&version.version);
        drop(_context);
        Ok(Client { inner: Arc::new(Inner { runtime, channel, socket: socket.to_owned(), pid, version }) })
    }

    /// The socket it is connected to.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// The version of containerd.
    pub fn version(&self) -> &Version {
        &self.inner.version
    }

    /// The process that listens on the socket, in whose mount namespace containerd and its shims mount. `None` if it
    /// lives in a PID namespace that this process cannot see into.
    pub fn pid(&self) -> Option<u32> {
        self.inner.pid
    }

    pub(crate) fn channel(&self) -> Channel {
        self.inner.channel.clone()
    }

    /// Waits for an answer; `call` names the call and what it was about, should there be an error to tell.
    pub(crate) fn wait<T>(
        &self,
        call: impl FnOnce() -> String,
        answer: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        wait(&self.inner.runtime, call, answer)
    }
}

fn wait<T>(
    runtime: &Runtime,
    call: impl FnOnce() -> String,
    answer: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, CallError> {
    runtime.block_on(answer).map(Response::into_inner).map_err(|status| CallError::new(call(), &status))
}

/// Who listens on the socket. A plain connection, since its errors are the kernel's own.
fn probe(socket: &Path) -> Result<Option<u32>, ConnectError> {
    let stream = UnixStream::connect(socket).map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => ConnectError::Missing { socket },
            io::ErrorKind::PermissionDenied => ConnectError::Denied { socket },
            _ => ConnectError::Refused { socket, source },
        }
    })?;
    // A process beyond our PID namespace has the number 0, which rustix takes for an error.
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok();
    Ok(credentials.map(|credentials| credentials.pid.as_raw_nonzero().get().cast_unsigned()))
}

/// A request that is given up some day.
pub(crate) fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// A request about one of containerd's namespaces; what it makes belongs to the lease.
pub(crate) fn in_namespace<T>(
    namespace: &MetadataValue<Ascii>,
    lease: Option<&MetadataValue<Ascii>>,
    message: T,
) -> Request<T> {
    let mut request = patient(message);
    request.metadata_mut().insert("containerd-namespace", namespace.clone());
    if let Some(lease) = lease {
        request.metadata_mut().insert("containerd-lease", lease.clone());
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_connected_to_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.sock");
        assert!(
            matches!(Client::connect(&missing).unwrap_err(), ConnectError::Missing { socket } if socket == missing)
        );
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Client::connect(&file).unwrap_err(), ConnectError::Refused { .. }));
        // It listens, and hangs up on everybody.
        let socket = dir.path().join("stranger.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        assert!(matches!(Client::connect(&socket).unwrap_err(), ConnectError::Stranger { .. }));
        assert_eq!(probe(&socket).unwrap(), Some(std::process::id()));
    }
}
