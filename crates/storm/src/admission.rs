//! Admission: how many launches are in the part that takes the kernel's global locks at a time.
//!
//! Bounded, that part runs on as many threads as are admitted, and whoever launches waits for them. The threads may be
//! confined to the CPUs of one last-level cache, so that cores do not fight over a cache line across the machine.
//! Unbounded, it runs on the thread of whoever launches.
//!
//! Invariant: never more than the width are inside at a time; they are let in as they came.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plywood_kernel::affinity;
use plywood_node::{CpuSet, Topology};

use crate::threads::{self, ThreadsError};

/// How many are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Width {
    /// All who come.
    #[default]
    All,
    /// So many, on any CPU.
    Threads(usize),
    /// So many, on the CPUs of one last-level cache; 0 for as many as it has CPUs.
    OneCache(usize),
}

impl Width {
    /// How many, if they are bounded by a number.
    pub fn count(self) -> Option<usize> {
        match self {
            Self::All | Self::OneCache(0) => None,
            Self::Threads(count) | Self::OneCache(count) => Some(count),
        }
    }

    /// Whether they keep to one last-level cache.
    pub fn on_one_cache(self) -> bool {
        matches!(self, Self::OneCache(_))
    }

    /// The same with a number of threads, on this machine.
    ///
    /// # Errors
    /// It is about one cache, and which CPUs share one is not known.
    pub fn on(self, machine: &Topology) -> Result<Self, NoCache> {
        match self {
            Self::OneCache(count) => {
                let cpus = one_cache(machine)?;
                Ok(Self::OneCache(if count == 0 { cpus.len() } else { count }))
            }
            other => Ok(other),
        }
    }
}

/// The kernel does not tell which CPUs share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel does not show which CPUs share a last-level cache here; give a number of threads instead"
)]
pub struct NoCache;

/// The CPUs of the last-level cache that most allowed CPUs share; of several the first.
///
/// # Errors
/// [`NoCache`]
pub fn one_cache(machine: &Topology) -> Result<CpuSet, NoCache> {
    let domains = machine.caches.iter().map(|cache| cache.cpus.and(&machine.allowed));
    let most = domains.reduce(|most, next| if next.len() > most.len() { next } else { most });
    most.filter(|cpus| !cpus.is_empty()).ok_or(NoCache)
}

/// A text that says no width.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no admission: give a number of threads, `llc`, `llc:NUMBER`, or `all`")]
pub struct WidthError(String);

impl FromStr for Width {
    type Err = WidthError;

    fn from_str(text: &str) -> Result<Self, WidthError> {
        let number = |digits: &str| digits.parse().ok().filter(|&number: &usize| number > 0);
        let width = match text.split_once(':') {
            None if text == "all" => Some(Self::All),
            None if text == "llc" => Some(Self::OneCache(0)),
            None => number(text).map(Self::Threads),
            Some(("llc", digits)) => number(digits).map(Self::OneCache),
            Some(_) => None,
        };
        width.ok_or_else(|| WidthError(text.to_owned()))
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::Threads(count) => write!(f, "{count}"),
            Self::OneCache(0) => f.pad("llc"),
            Self::OneCache(count) => write!(f, "llc:{count}"),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The door. Shared by all launches of an arm.
#[derive(Debug)]
pub struct Admission {
    inside: Option<Inside>,
}

#[derive(Debug)]
struct Inside {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

/// The thread that should have done it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread that was to do it has ended")]
pub struct Gone;

impl Admission {
    /// Lets all in.
    pub fn unbounded() -> Self {
        Self { inside: None }
    }

    /// Starts `width` threads, confined to `cpus` if there are any.
    ///
    /// # Errors
    /// The machine has no room for them, or the CPUs may not be used.
    pub fn bounded(width: usize, cpus: &CpuSet) -> Result<Self, ThreadsError> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let (ready, started) = mpsc::channel();
        let mut threads = Vec::new();
        for _ in 0..width.max(1) {
            let (jobs, ready, cpus) = (Arc::clone(&jobs), ready.clone(), cpus.clone());
            threads.push(threads::spawn("storm-admitted", move || {
                let cpus: Vec<u32> = cpus.iter().collect();
                let confined = if cpus.is_empty() { Ok(()) } else { affinity::confine_current_thread(&cpus) };
                let usable = confined.is_ok();
                // Whoever starts the threads waits for exactly these messages.
                let told = ready.send(confined).is_ok();
                drop(ready);
                if !(usable && told) {
                    return;
                }
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = next else { return };
                    job();
                }
            })?);
        }
        drop(ready);
        let inside = Inside { queue: Mutex::new(Some(queue)), threads };
        // The first refusal ends the others: their queue is dropped.
        started.iter().collect::<Result<Vec<()>, _>>()?;
        Ok(Self { inside: Some(inside) })
    }

    /// Does it when it is its turn; answers also how long that took to come.
    ///
    /// # Errors
    /// [`Gone`] if `job` panicked.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Duration), Gone> {
        let Some(inside) = &self.inside else { return Ok((job(), Duration::ZERO)) };
        let asked = Instant::now();
        let (answer, answered) = mpsc::sync_channel(1);
        let work: Job = Box::new(move || {
            let waited = asked.elapsed();
            // A job that panics must not take its thread with it: others wait for it.
            if let Ok(done) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
                // Whoever gave up waiting does not want to know.
                let _unwanted = answer.send((done, waited));
            }
        });
        let queue = inside.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queue.ok_or(Gone)?.send(work).map_err(|_| Gone)?;
        answered.recv().map_err(|_| Gone)
    }
}

impl Drop for Inside {
    /// Those inside come out first, unless one of them never does: then the thread is left behind.
    fn drop(&mut self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let until = Instant::now() + Duration::from_secs(5);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                if thread.join().is_err() {
                    tracing::error!("a thread of admission panicked");
                }
            } else {
                tracing::warn!("a launch has not returned; its thread is left behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_node::topology::CacheDomain;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn most_inside(admission: &Arc<Admission>, callers: usize) -> usize {
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        std::thread::scope(|scope| {
            for _ in 0..callers {
                let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
                scope.spawn(move || {
                    admission
                        .run(move || {
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(5));
                            inside.fetch_sub(1, Ordering::SeqCst);
                        })
                        .unwrap()
                });
            }
        });
        most.load(Ordering::SeqCst)
    }

    #[test]
    fn never_more_than_the_width_are_inside() {
        for width in [1, 3] {
            let admission = Arc::new(Admission::bounded(width, &CpuSet::EMPTY).unwrap());
            assert_eq!(most_inside(&admission, 24), width);
        }
        assert!(most_inside(&Arc::new(Admission::unbounded()), 24) > 3);
    }

    #[test]
    fn waiting_is_told_apart_from_working() {
        let admission = Admission::bounded(1, &CpuSet::EMPTY).unwrap();
        let waited: Vec<Duration> = std::thread::scope(|scope| {
            let sleep = || admission.run(|| std::thread::sleep(Duration::from_millis(30))).unwrap().1;
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(sleep)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (least, most) = (waited.iter().min().unwrap(), waited.iter().max().unwrap());
        assert!(*most >= Duration::from_millis(20) && *least * 2 < *most, "{waited:?}");
    }

    #[test]
    fn confined_threads_stay_where_they_were_put() {
        let last = *affinity::allowed().unwrap().last().unwrap();
        let admission = Admission::bounded(2, &CpuSet::from_iter([last])).unwrap();
        assert_eq!(admission.run(affinity::current_cpu).unwrap().0, last);
        let error = Admission::bounded(2, &CpuSet::from_iter([60_000])).unwrap_err();
        assert!(error.to_string().contains("sched_setaffinity"), "{error}");
    }

    #[test]
    fn a_job_that_panics_costs_nobody_else_the_thread() {
        let admission = Admission::bounded(1, &CpuSet::EMPTY).unwrap();
        assert_eq!(admission.run(|| panic!("on purpose")).map(|((), _)| ()), Err(Gone));
        assert_eq!(admission.run(|| 7).unwrap().0, 7);
    }

    #[test]
    fn one_cache_is_the_widest_that_may_be_used() {
        let cache = |cpus: &str| CacheDomain { level: 3, size_bytes: None, cpus: cpus.parse().unwrap() };
        let mut machine = Topology { allowed: "1-9".parse().unwrap(), ..Topology::default() };
        assert_eq!(Width::OneCache(0).on(&machine), Err(NoCache));
        assert_eq!(Width::Threads(3).on(&machine), Ok(Width::Threads(3)));
        machine.caches = vec![cache("0-3"), cache("4-7"), cache("8-15")];
        assert_eq!(one_cache(&machine).unwrap().to_string(), "4-7");
        assert_eq!(Width::OneCache(0).on(&machine), Ok(Width::OneCache(4)));
        assert_eq!(Width::OneCache(9).on(&machine), Ok(Width::OneCache(9)));
    }

    #[test]
    fn widths_read_as_they_are_written() {
        let known = [Width::All, Width::Threads(4), Width::OneCache(0), Width::OneCache(2)];
        for width in known {
            assert_eq!(width.to_string().parse::<Width>().unwrap(), width);
        }
        for text in ["", "0", "-1", "llc:0", "llc:", "numa:1", "four"] {
            assert!(text.parse::<Width>().is_err(), "{text}");
        }
    }
}
