//! What a run waits for, in one queue: news of its containers, of its own threads, and requests to stop. While there is
//! none it sleeps: a supervisor lives as long as its containers, and costs nothing meanwhile.
//!
//! ```text
//! launcher ───────────> forwarding thread ──┐
//! recorder, namespaces ─────────────────────┼──> queue ──> the run
//! signals, whoever started us ──> poll ─────┘
//! ```

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use plywood_engine::launch::Event;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::signals::Cancel;

/// Until a refused wait is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// One piece of news.
#[derive(Debug)]
pub enum Wake {
    /// Something happened to a container.
    Launcher(Event),
    /// Nothing more will happen to any.
    AllEnded,
    /// What happened so far is recorded.
    Recorded,
    /// The user namespaces are made, as far as they can be.
    Namespaces,
    /// Somebody asked us to stop.
    Stop,
    /// Whoever started us, and wanted the containers for as long as it lives, is gone.
    Forsaken,
}

/// The queue. Dropped, it takes no more signals.
#[derive(Debug)]
pub struct Wakes {
    queue: Receiver<Wake>,
    bell: Sender<Wake>,
    /// The thread that polls ends with it.
    _end: PipeWriter,
}

impl Wakes {
    /// Listens for signals, and for the end of `starter`, a pipe that nobody writes to, if there is one.
    ///
    /// # Errors
    /// There are no descriptors or threads left.
    pub fn start(cancel: &Cancel, starter: Option<OwnedFd>) -> io::Result<Self> {
        let (bell, queue) = mpsc::channel();
        let (over, end) = io::pipe()?;
        let signals = cancel.listen()?;
        let ring = bell.clone();
        thread("plywood-heed", move || heed(&over, Some(signals), starter, &ring))?;
        Ok(Self { queue, bell, _end: end })
    }

    /// For those who have news.
    pub fn bell(&self) -> Sender<Wake> {
        self.bell.clone()
    }

    /// Takes the launcher's news to their end.
    ///
    /// # Errors
    /// There are no threads left.
    pub fn forward(&self, events: Receiver<Event>) -> io::Result<()> {
        let bell = self.bell();
        thread("plywood-events", move || {
            for event in events {
                // A run that is over does not want to know.
                let _unwanted = bell.send(Wake::Launcher(event));
            }
            let _unwanted = bell.send(Wake::AllEnded);
        })
    }

    /// The next piece of news; none if it does not come before `until`.
    pub fn next(&self, until: Option<Instant>) -> Option<Wake> {
        let Some(until) = until else { return self.queue.recv().ok() };
        self.queue.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Tells of each of them once, until `over` is.
fn heed(over: &PipeReader, mut signals: Option<OwnedFd>, mut starter: Option<OwnedFd>, bell: &Sender<Wake>) {
    loop {
        let mut polled = vec![PollFd::new(over, PollFlags::empty())];
        polled.extend(signals.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // Its end alone: what is written to it is not for us.
        polled.extend(starter.iter().map(|fd| PollFd::new(fd, PollFlags::empty())));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::warn!(%errno, "waiting for signals; it is tried again");
                std::thread::sleep(RETRY);
            }
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        let signalled = signals.is_some() && ready[1];
        let forsaken = starter.is_some() && ready[ready.len() - 1];
        // Whatever is told once is not waited for again. A run that is over does not want to know.
        if signals.take_if(|_| signalled).is_some() {
            let _unwanted = bell.send(Wake::Stop);
        }
        if starter.take_if(|_| forsaken).is_some() {
            let _unwanted = bell.send(Wake::Forsaken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Well above what anything takes here.
    const SOON: Duration = Duration::from_secs(20);

    fn next(wakes: &Wakes) -> Option<Wake> {
        wakes.next(Some(Instant::now() + SOON))
    }

    #[test]
    fn the_end_of_a_starter_is_told_once_and_what_it_writes_never() {
        let (starter, mut held) = io::pipe().unwrap();
        let wakes = Wakes::start(&Cancel::default(), Some(starter.into())).unwrap();
        io::Write::write_all(&mut held, b"hello").unwrap();
        assert!(wakes.next(Some(Instant::now() + Duration::from_millis(50))).is_none());
        drop(held);
        assert!(matches!(next(&wakes), Some(Wake::Forsaken)));
        assert!(wakes.next(Some(Instant::now() + Duration::from_millis(50))).is_none());
    }

    #[test]
    fn news_come_in_order_and_end() {
        let wakes = Wakes::start(&Cancel::default(), None).unwrap();
        let (events, receiver) = mpsc::channel();
        wakes.forward(receiver).unwrap();
        events.send(Event::Cancelled { id: "one".to_owned() }).unwrap();
        drop(events);
        assert!(matches!(next(&wakes), Some(Wake::Launcher(event)) if event.id() == "one"));
        assert!(matches!(next(&wakes), Some(Wake::AllEnded)));
        wakes.bell().send(Wake::Recorded).unwrap();
        assert!(matches!(next(&wakes), Some(Wake::Recorded)));
    }

    #[test]
    fn a_request_that_came_before_is_heard() {
        let cancel = Cancel::default();
        cancel.request();
        assert!(matches!(next(&Wakes::start(&cancel, None).unwrap()), Some(Wake::Stop)));
    }
}
