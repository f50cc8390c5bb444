//! The worker of `private`: one thread, one private mount namespace, made once per process.
//!
//! The namespace holds only the mounts that cover the directories it was started for. What is attached there
//! while an overlay is made is seen by nobody else, and goes with the process if it is killed.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use plywood_kernel::SyscallError;
use plywood_kernel::mountns::MountNs;

use super::StepError;
use super::machine::{Machine, RunResult};
use crate::plan::Step;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a private mount namespace. Ends when dropped.
#[derive(Debug)]
pub struct PrivateWorker {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl PrivateWorker {
    /// Starts it. `keep` names the directories it will work in: writable directories, and where mount points are made.
    pub fn start(keep: &[&Path]) -> Result<Self, SyscallError> {
        let namespace = MountNs::minimal(keep)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new().name("plywood-private".to_owned()).spawn(move || {
            let entered = namespace.enter();
            let usable = entered.is_ok();
            // The receiver waits for exactly this message; it cannot be gone.
            let told = ready.send(entered).is_ok();
            if usable && told {
                queue.into_iter().for_each(|job| job());
            }
        });
        let thread = thread.map_err(|error| calls_error(&error))?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(SyscallError::new("clone()", rustix::io::Errno::CHILD)),
        }
    }

    /// Runs something on the worker's thread and waits for it. `None` if the thread is gone.
    pub(super) fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody waiting any more is the waiting thread's affair.
            let _gone = answer.send(job());
        });
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        jobs.send(job).ok()?;
        answered.recv().ok()
    }

    /// Takes steps on the worker's thread.
    pub(super) fn run(
        &self,
        machine: Machine,
        steps: Arc<[Step]>,
        range: Range<usize>,
    ) -> (Machine, RunResult) {
        let first = range.start;
        self.call(move || machine.run(&steps, range, None))
            .unwrap_or_else(|| (Machine::new(), Err((first, StepError::WorkerGone))))
    }
}

impl Drop for PrivateWorker {
    fn drop(&mut self) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the worker thread of mechanism private has panicked");
        }
    }
}

fn calls_error(error: &std::io::Error) -> SyscallError {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    SyscallError::new("clone3()", errno)
}
