//! The connection, and how a blocking caller waits for an answer.
//!
//! ```text
//! mood       calls that make something    calls that take back
//! Asked      wait for their answer        wait for their answer
//! Stopping   end at once                  wait for their answer
//! Silent     end at once                  end at once
//! ```
//! Once somebody has asked to stop, containerd is asked for its version now and then: while it answers, whatever takes
//! back has the time it needs; when it does not (it is stopped, or the machine stalls), nobody waits for it any longer.

use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
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

/// How often a request to stop is looked for, and containerd asked whether it lives after one.
const LOOK: Duration = Duration::from_millis(50);

/// A containerd that has not told its version for so long is not waited for after a request to stop.
const SILENCE: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mood {
    /// Every answer.
    Asked,
    /// Answers to calls that take back: somebody has asked to stop.
    Stopping,
    /// None: nor does containerd answer.
    Silent,
}

/// A connection to a containerd. Clones share it, and any thread may use it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    mood: watch::Receiver<Mood>,
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
        Self::connect_until(socket, Arc::default())
    }

    /// The same. Once the flag is set, calls that make something end at once, those under way, too, with kind
    /// [`Kind::Late`](crate::Kind::Late); what takes back goes on as long as containerd answers at all.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); or the flag was set before containerd answered.
    pub fn connect_until(socket: &Path, stop: Arc<AtomicBool>) -> Result<Client, ConnectError> {
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
        let (tell, mood) = watch::channel(Mood::Asked);
        runtime.spawn(heed(stop, channel.clone(), tell));
        let mut client = VersionClient::new(channel.clone());
        let answer = client.version(patient(()));
        let version =
            wait(&runtime, &mood, Mood::Stopping, || "Version".into(), answer).map_err(|source| {
                let socket = socket.to_owned();
                match *mood.borrow() {
                    Mood::Asked => ConnectError::Stranger { socket, source },
                    Mood::Stopping | Mood::Silent => ConnectError::Stopped { socket, source },
                }
            })?;
        let version = Version::parse(&version.version);
        drop(_context);
        let socket = socket.to_owned();
        Ok(Client { inner: Arc::new(Inner { runtime, mood, channel, socket, pid, version }) })
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

    /// Waits for an answer; `call` names the call and what it was about, should there be an error to tell. Of a call that
    /// takes nothing back: it ends when somebody asks to stop.
    pub(crate) fn wait<T>(
        &self,
        call: impl FnOnce() -> String,
        answer: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        wait(&self.inner.runtime, &self.inner.mood, Mood::Stopping, call, answer)
    }

    /// The same, of a call that takes something back: it ends when containerd does not answer anybody any more after
    /// somebody has asked to stop.
    pub(crate) fn see_through<T>(
        &self,
        call: impl FnOnce() -> String,
        answer: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        wait(&self.inner.runtime, &self.inner.mood, Mood::Silent, call, answer)
    }

    /// Says whether somebody has asked to stop, between two things that each take back something.
    pub(crate) fn go_on(&self, call: impl FnOnce() -> String) -> Result<(), CallError> {
        match *self.inner.mood.borrow() {
            Mood::Asked => Ok(()),
            mood => Err(CallError::new(call(), &given_up(mood))),
        }
    }
}

fn wait<T>(
    runtime: &Runtime,
    mood: &watch::Receiver<Mood>,
    until: Mood,
    call: impl FnOnce() -> String,
    answer: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, CallError> {
    let mut mood = mood.clone();
    let answer = async {
        let mut given_up = pin!(async {
            match mood.wait_for(|mood| *mood >= until).await {
                Ok(mood) => given_up(*mood),
                // Who tells lives as long as the runtime.
                Err(_) => std::future::pending().await,
            }
        });
        let mut answer = pin!(answer);
        // First, so that nothing is asked for that will not be waited for.
        poll_fn(|context| match given_up.as_mut().poll(context) {
            Poll::Ready(status) => Poll::Ready(Err(status)),
            Poll::Pending => answer.as_mut().poll(context),
        })
        .await
    };
    runtime.block_on(answer).map(Response::into_inner).map_err(|status| CallError::new(call(), &status))
}

fn given_up(mood: Mood) -> tonic::Status {
    match mood {
        Mood::Silent => {
            let seconds = SILENCE.as_secs();
            tonic::Status::deadline_exceeded(format!("containerd has answered nothing for {seconds} s"))
        }
        Mood::Asked | Mood::Stopping => tonic::Status::cancelled("asked to stop"),
    }
}

/// Tells of a request to stop, and from then on whether containerd answers.
async fn heed(stop: Arc<AtomicBool>, channel: Channel, tell: watch::Sender<Mood>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
    tell.send_replace(Mood::Stopping);
    loop {
        let mut client = VersionClient::new(channel.clone());
        // An error is an answer: calls then have errors of their own.
        let answer = tokio::time::timeout(SILENCE, client.version(Request::new(()))).await;
        tell.send_replace(if answer.is_ok() { Mood::Stopping } else { Mood::Silent });
        tokio::time::sleep(LOOK).await;
    }
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
