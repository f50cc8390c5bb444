//! A measuring thread: enters the namespace, works until told to stop, says how much CPU time it took.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use plywood_kernel::{MountNs, SyscallError, cputime};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Where threads work.
#[derive(Debug, Clone)]
pub(super) struct Place {
    namespace: Arc<MountNs>,
    /// Whether threads must move there, or are there from their birth.
    enter: bool,
}

/// A thread at work; dropped, it is stopped and waited for.
#[derive(Debug)]
pub(super) struct Running<T> {
    stop: Stop,
    thread: Option<JoinHandle<Result<(T, Duration), SyscallError>>>,
}

/// An event that stays once it has happened: the time to stop, or to begin.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<OwnedFd>);

impl Place {
    /// In `namespace`, or in that of the calling thread.
    pub(super) fn new(namespace: Option<Arc<MountNs>>) -> Result<Self, SyscallError> {
        match namespace {
            Some(namespace) => Ok(Self { namespace, enter: true }),
            None => Ok(Self { namespace: Arc::new(MountNs::current()?), enter: false }),
        }
    }

    pub(super) fn namespace(&self) -> Arc<MountNs> {
        Arc::clone(&self.namespace)
    }
}

/// Starts a thread that prepares itself, and works once that has succeeded; returns then, or with what failed.
pub(super) fn run<S, T: Send + 'static>(
    name: &str,
    place: &Place,
    prepare: impl FnOnce() -> Result<S, SyscallError> + Send + 'static,
    work: impl FnOnce(S, &Stop) -> Result<T, SyscallError> + Send + 'static,
) -> Result<Running<T>, SyscallError> {
    let stop = Stop::new()?;
    let (ready, is_ready) = mpsc::sync_channel::<()>(1);
    let place = place.clone();
    let stopped = stop.clone();
    let body = move || {
        if place.enter {
            place.namespace.enter()?;
        }
        let prepared = prepare()?;
        // Nobody listens only if the starting thread has gone; then the stop is on its way.
        let _ = ready.send(());
        let result = work(prepared, &stopped)?;
        // All of it, from the thread's first instruction.
        Ok((result, cputime::thread()))
    };
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| failed("clone(CLONE_THREAD)", &error))?;
    let mut running = Running { stop, thread: Some(thread) };
    if is_ready.recv().is_err()
        && let Some(Err(error)) = running.join()
    {
        return Err(error);
    }
    Ok(running)
}

impl<T> Running<T> {
    /// Asks it to stop; does not wait.
    pub(super) fn signal(&self) {
        self.stop.set();
    }

    /// Stops it: what it has found, and its CPU time.
    pub(super) fn stop(mut self) -> Result<(T, Duration), SyscallError> {
        self.signal();
        self.join().unwrap_or_else(|| Err(SyscallError::new("pthread_join()", Errno::SRCH)))
    }

    /// None if it has been joined already. A panic goes on in the caller.
    fn join(&mut self) -> Option<Result<(T, Duration), SyscallError>> {
        let joined = self.thread.take()?.join();
        Some(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.signal();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::debug!(%error, "a measuring thread that nobody waited for had failed");
        }
    }
}

impl Stop {
    pub(super) fn new() -> Result<Self, SyscallError> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(|fd| Self(Arc::new(fd)))
            .map_err(|errno| SyscallError::new("eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK)", errno))
    }

    pub(super) fn set(&self) {
        // Refused only (EAGAIN) after 2^64 - 1 of them: it is set then.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Waits for `begin`; true if it is time to stop before that.
    pub(super) fn comes_before(&self, begin: &Stop) -> Result<bool, SyscallError> {
        let mut events = [PollFd::new(begin, PollFlags::IN), PollFd::new(self, PollFlags::IN)];
        while poll(&mut events, None)? == 0 {}
        Ok(!events[0].revents().contains(PollFlags::IN))
    }

    /// Rests for so long; true at once when it is time to stop.
    pub(super) fn wait(&self, pause: Duration) -> Result<bool, SyscallError> {
        Ok(poll(&mut [PollFd::new(self, PollFlags::IN)], Some(pause))? > 0)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How many of them have something to say; 0 after the timeout. An interruption counts as the timeout.
pub(super) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<usize, SyscallError> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        polled => polled.map_err(|errno| SyscallError::new("ppoll()", errno)),
    }
}

/// CPU time since the last lap.
#[derive(Debug)]
pub(super) struct Lap(Duration);

impl Lap {
    pub(super) fn start() -> Self {
        Self(cputime::thread())
    }

    /// A rest of `times` what was used since the last lap: of the thread's whole time it then takes 1 in `times`.
    pub(super) fn rest(&mut self, times: u32, at_least: Duration) -> Duration {
        let now = cputime::thread();
        let used = now.saturating_sub(self.0);
        self.0 = now;
        used.saturating_mul(times).max(at_least)
    }
}

pub(super) fn failed(call: impl Into<String>, error: &std::io::Error) -> SyscallError {
    SyscallError::new(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_stop_ends_the_rest_at_once_and_stays() {
        let place = Place::new(None).unwrap();
        let running = run(
            "test",
            &place,
            || Ok(7),
            |seven, stop| {
                assert!(stop.wait(Duration::from_secs(600))?);
                assert!(stop.wait(Duration::from_secs(600))?);
                Ok(seven)
            },
        );
        let begin = Instant::now();
        let (seven, cpu) = running.unwrap().stop().unwrap();
        assert_eq!(seven, 7);
        assert!(cpu > Duration::ZERO);
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_fails_before_the_work_fails_the_start() {
        let place = Place::new(None).unwrap();
        let refused = || Err::<(), _>(SyscallError::new("x()", Errno::NOENT));
        let error = run("test", &place, refused, |(), _| Ok(())).unwrap_err();
        assert_eq!(error.call(), "x()");
    }

    #[test]
    fn what_fails_at_work_fails_the_stop() {
        let place = Place::new(None).unwrap();
        let work = |(), _: &Stop| Err::<(), _>(SyscallError::new("y()", Errno::IO));
        let running = run("test", &place, || Ok(()), work).unwrap();
        assert_eq!(running.stop().unwrap_err().call(), "y()");
    }

    #[test]
    fn a_rest_is_a_multiple_of_the_work() {
        let mut lap = Lap::start();
        let begin = cputime::thread();
        while cputime::thread() - begin < Duration::from_millis(2) {}
        assert!(lap.rest(50, Duration::ZERO) >= Duration::from_millis(100));
        assert_eq!(lap.rest(1, Duration::from_secs(9)), Duration::from_secs(9));
    }
}
