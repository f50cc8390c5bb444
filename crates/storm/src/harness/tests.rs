//! The harness with a launcher of known latency: what it must see is known beforehand.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::arm::{LauncherKind, UserNs};
use crate::launcher::{LaunchFailure, Launched};
use crate::record;

/// Sleeps, and keeps an account of who was there.
#[derive(Debug, Default)]
struct Fake {
    takes: Duration,
    /// These take so much longer.
    slow: BTreeSet<usize>,
    slower_by: Duration,
    fails: bool,
    /// The first half of each launch is waiting for its turn.
    queues: bool,
    refuses_to_prepare: bool,
    /// Whether it says which namespace it works in.
    says_where: bool,
    inside: AtomicUsize,
    most: AtomicUsize,
    cpus: Mutex<BTreeSet<u32>>,
    /// What was called.
    calls: Mutex<Vec<&'static str>>,
}

impl Fake {
    fn of(ms: u64) -> Self {
        Self { takes: Duration::from_millis(ms), ..Self::default() }
    }

    fn call(&self, name: &'static str) {
        self.calls.lock().unwrap().push(name);
    }
}

impl Launcher for Fake {
    fn prepare(&self, _round: launcher::Round) -> Result<(), LauncherError> {
        self.call("prepare");
        if self.refuses_to_prepare { Err(LauncherError::new("preparing", "no room")) } else { Ok(()) }
    }

    fn namespace(&self) -> Result<Option<MountNs>, LauncherError> {
        self.says_where
            .then(MountNs::current)
            .transpose()
            .map_err(LauncherError::doing("opening a namespace"))
    }

    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure> {
        self.most.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.cpus.lock().unwrap().insert(plywood_kernel::affinity::current_cpu());
        let begun = Instant::now();
        let more = if self.slow.contains(&container) { self.slower_by } else { Duration::ZERO };
        std::thread::sleep(self.takes + more);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if self.fails {
            return Err(LaunchFailure::new("on purpose"));
        }
        let there = Instant::now();
        Ok(Launched { turn: self.queues.then(|| begun + (there - begun) / 2), ..Launched::at(there) })
    }

    fn remove(&self) -> Result<(), LauncherError> {
        self.call("remove");
        Ok(())
    }

    fn close(&self) -> Result<(), LauncherError> {
        self.call("close");
        Ok(())
    }
}

/// Keeps the lines.
#[derive(Default)]
struct Kept {
    lines: Vec<Line>,
    order: Vec<(usize, u32)>,
    full_after: Option<usize>,
}

impl Around for Kept {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        if self.full_after.is_some_and(|limit| self.lines.len() >= limit) && !matches!(line, Line::End(_)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.lines.push(line.clone());
        Ok(())
    }

    fn begins(&mut self, arm: usize, round: u32) {
        self.order.push((arm, round));
    }
}

impl Kept {
    fn launches(&self, arm: usize, round: u32) -> Vec<&Launch> {
        let launches = self.lines.iter().filter_map(|line| match line {
            Line::Launch(launch) => Some(launch),
            _ => None,
        });
        launches.filter(|launch| (launch.arm, launch.round) == (arm, round)).collect()
    }

    fn rounds(&self) -> Vec<&record::Round> {
        let rounds = self.lines.iter().filter_map(|line| match line {
            Line::Round(round) => Some(&**round),
            _ => None,
        });
        rounds.collect()
    }

    fn end(&self) -> &End {
        match self.lines.last() {
            Some(Line::End(end)) => end,
            other => panic!("not the end: {other:?}"),
        }
    }
}

fn arm(containers: usize, concurrency: usize) -> Arm {
    Arm {
        launcher: LauncherKind::Assembly,
        mechanism: None,
        lower: None,
        snapshotter: None,
        userns: UserNs::Private,
        passes: 1,
        layers: 1,
        containers,
        concurrency,
        admission: None,
        one_cache: false,
    }
}

fn storm(arms: Vec<Arm>, repeat: u32) -> Storm {
    Storm {
        arms,
        repeat,
        pace: Pace::default(),
        hold: Duration::ZERO,
        timeout: Duration::from_secs(30),
        grace: Duration::from_secs(30),
        seats: Seats::Anywhere,
        walks: Vec::new(),
    }
}

fn run(storm: &Storm, fakes: &[Arc<Fake>], cancel: &AtomicBool) -> (Kept, Result<(), StormError>) {
    let launchers: Vec<Arc<dyn Launcher>> =
        fakes.iter().map(|fake| Arc::clone(fake) as Arc<dyn Launcher>).collect();
    let mut kept = Kept::default();
    let ended = storm.run(&launchers, &mut kept, cancel);
    (kept, ended)
}

fn ran(storm: &Storm, fakes: &[Arc<Fake>]) -> Kept {
    let (kept, ended) = run(storm, fakes, &AtomicBool::new(false));
    ended.unwrap();
    assert_eq!(kept.end(), &End { complete: true, reason: None });
    kept
}

#[test]
fn no_more_than_the_concurrency_start_at_a_time() {
    for (concurrency, most) in [(1, 1), (3, 3), (12, 12)] {
        let fake = Arc::new(Fake::of(8));
        let kept = ran(&storm(vec![arm(12, concurrency)], 1), &[Arc::clone(&fake)]);
        assert_eq!(fake.most.load(Ordering::SeqCst), most);
        for launch in kept.launches(0, 1) {
            assert!(launch.launch_ms >= 8.0 && launch.failed.is_none(), "{launch:?}");
        }
        // One after the other takes as long as that takes, and waiting for a thread is nobody's latency.
        let wall = kept.rounds()[1].wall_ms;
        assert!(wall >= 8.0 * (12 / concurrency) as f64, "{wall}");
        if concurrency == 1 {
            assert!(kept.launches(0, 1)[11].due_ms >= 88.0);
        }
    }
}

#[test]
fn containers_of_a_rate_are_due_on_time_whoever_is_free() {
    // Each takes as long as four are due, on one thread: they queue up, and that is their latency.
    let mut storm = storm(vec![arm(10, 1)], 0);
    storm.pace = Pace { burst: None, rate: Some(100.0) };
    let kept = ran(&storm, &[Arc::new(Fake::of(40))]);
    let launches = kept.launches(0, 0);
    for (n, launch) in launches.iter().enumerate() {
        assert_eq!(launch.due_ms, 10.0 * n as f64);
    }
    assert!(launches[9].launch_ms >= 10.0 * 40.0 - 90.0, "{launches:?}");
    assert!(launches[9].launch_ms - launches[0].launch_ms >= 9.0 * 30.0, "{launches:?}");
}

#[test]
fn bursts_of_a_rate_are_due_together() {
    let mut storm = storm(vec![arm(9, 9)], 0);
    storm.pace = Pace { burst: Some(3), rate: Some(60.0) };
    let kept = ran(&storm, &[Arc::new(Fake::of(5))]);
    let due: Vec<f64> = kept.launches(0, 0).iter().map(|launch| launch.due_ms).collect();
    assert_eq!(due, [0.0, 0.0, 0.0, 50.0, 50.0, 50.0, 100.0, 100.0, 100.0]);
}

#[test]
fn without_a_rate_a_burst_waits_for_the_one_before() {
    let mut storm = storm(vec![arm(7, 7)], 0);
    storm.pace = Pace { burst: Some(3), rate: None };
    let fake = Arc::new(Fake { slow: [1].into(), slower_by: Duration::from_millis(40), ..Fake::of(10) });
    let kept = ran(&storm, &[Arc::clone(&fake)]);
    assert_eq!(fake.most.load(Ordering::SeqCst), 3);
    let due: Vec<f64> = kept.launches(0, 0).iter().map(|launch| launch.due_ms).collect();
    assert_eq!(due[..3], [0.0; 3]);
    assert!(due[3] >= 50.0 && due[3] == due[5] && due[6] >= 60.0, "{due:?}");
}

#[test]
fn a_launch_past_its_timeout_has_failed_and_the_others_have_not() {
    let mut storm = storm(vec![arm(4, 4)], 0);
    storm.timeout = Duration::from_millis(100);
    let fake = Fake { slow: [2].into(), slower_by: Duration::from_millis(150), ..Fake::of(5) };
    let kept = ran(&storm, &[Arc::new(fake)]);
    let launches = kept.launches(0, 0);
    let failed: Vec<_> = launches.iter().map(|launch| launch.failed.as_deref()).collect();
    assert_eq!(failed, [None, None, Some("it was there only after the timeout"), None]);
    assert!(launches[2].launch_ms >= 150.0 && launches[2].late, "how late it was is kept");
}

#[test]
fn a_launch_that_never_returns_ends_the_storm_and_not_the_patience() {
    let mut storm = storm(vec![arm(4, 4)], 3);
    storm.timeout = Duration::from_millis(50);
    storm.grace = Duration::from_millis(100);
    let fake = Arc::new(Fake { slow: [2].into(), slower_by: Duration::from_secs(3600), ..Fake::of(5) });
    let started = Instant::now();
    let (kept, ended) = run(&storm, &[Arc::clone(&fake)], &AtomicBool::new(false));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(matches!(ended, Err(StormError::Stuck { count: 1, .. })), "{ended:?}");
    assert!(!kept.end().complete && kept.end().reason.as_ref().unwrap().contains("1 launches of"));
    assert_eq!(*fake.calls.lock().unwrap(), ["prepare", "remove", "close"]);
    // What is known of the round is told, the hanging launch as one that failed.
    let launches = kept.launches(0, 0);
    let failed: Vec<_> = launches.iter().map(|launch| (launch.failed.is_some(), launch.late)).collect();
    assert_eq!(failed, [(false, false), (false, false), (true, true), (false, false)]);
    assert_eq!(kept.rounds().len(), 1);
}

/// At a rate that cannot be kept launches are due long before they begin: that is late, and nothing hangs.
#[test]
fn a_rate_that_is_too_much_is_no_hanging() {
    let mut storm = storm(vec![arm(30, 1)], 0);
    storm.pace = Pace { burst: None, rate: Some(100_000.0) };
    storm.timeout = Duration::from_millis(100);
    storm.grace = Duration::from_millis(200);
    let kept = ran(&storm, &[Arc::new(Fake::of(20))]);
    let late = kept.launches(0, 0).iter().filter(|launch| launch.late).count();
    assert!((20..30).contains(&late), "{late}");
}

/// A launcher that starts fewer at a time than it is given says when each one's turn came.
#[test]
fn a_container_is_due_when_its_turn_comes() {
    let fake = Arc::new(Fake { queues: true, ..Fake::of(40) });
    let kept = ran(&storm(vec![arm(2, 2)], 0), &[fake]);
    for launch in kept.launches(0, 0) {
        assert!(launch.due_ms >= 20.0 && launch.launch_ms < 40.0, "{launch:?}");
    }
}

#[test]
fn rounds_of_all_arms_take_turns_and_the_first_one_rotates() {
    let fakes = [(); 3].map(|()| Arc::new(Fake::of(0)));
    let kept = ran(&storm(vec![arm(1, 1), arm(2, 1), arm(3, 1)], 3), &fakes);
    let arms: Vec<usize> = kept.order.iter().map(|(arm, _)| *arm).collect();
    assert_eq!(arms, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
    assert_eq!(kept.order.iter().map(|(_, round)| *round).max(), Some(3));
    // Each round's launches come before the line of the round.
    let recorded: Vec<(usize, u32)> = kept.rounds().iter().map(|round| (round.arm, round.round)).collect();
    assert_eq!(recorded, kept.order);
    for (index, fake) in fakes.iter().enumerate() {
        assert_eq!(kept.launches(index, 2).len(), index + 1);
        let calls = fake.calls.lock().unwrap();
        assert_eq!(*calls, [["prepare", "remove"].repeat(4), vec!["close"]].concat());
    }
}

#[test]
fn a_request_to_stop_ends_a_storm_after_taking_all_back() {
    let fakes = [Arc::new(Fake::of(5)), Arc::new(Fake::of(20))];
    let cancel = AtomicBool::new(false);
    let (kept, ended) = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(60));
            cancel.store(true, Ordering::Relaxed);
        });
        run(&storm(vec![arm(5, 5), arm(1000, 2)], 9), &fakes, &cancel)
    });
    assert!(matches!(ended, Err(StormError::Cancelled)), "{ended:?}");
    assert_eq!(kept.end(), &End { complete: false, reason: Some("the storm was interrupted".into()) });
    // The round that was cut off is not told of.
    assert_eq!((kept.rounds().len(), kept.launches(1, 0).len()), (1, 0));
    for fake in fakes {
        assert_eq!(*fake.calls.lock().unwrap(), ["prepare", "remove", "close"]);
        assert_eq!(fake.inside.load(Ordering::SeqCst), 0, "nobody is left inside");
    }
}

#[test]
fn whatever_fails_is_the_reason_of_the_end() {
    let ended = |fake: Fake, full_after| {
        let fake = Arc::new(fake);
        let mut kept = Kept { full_after, ..Kept::default() };
        let launchers = [Arc::clone(&fake) as Arc<dyn Launcher>];
        let ended = storm(vec![arm(2, 2)], 2).run(&launchers, &mut kept, &AtomicBool::new(false));
        assert!(ended.is_err() && !kept.end().complete);
        assert_eq!(*fake.calls.lock().unwrap(), ["prepare", "remove", "close"]);
        kept.end().reason.clone().unwrap()
    };
    assert_eq!(
        ended(Fake { fails: true, ..Fake::of(0) }, None),
        "no container of assembly, 1 layer, 2 at once starts: on purpose"
    );
    let refuses = Fake { refuses_to_prepare: true, ..Fake::of(0) };
    assert_eq!(ended(refuses, None), "preparing: no room");
    let full = ended(Fake::of(0), Some(1));
    assert!(full.starts_with("writing down what was measured: "), "{full}");
}

#[test]
fn threads_keep_to_the_cpus_they_were_given() {
    let allowed = plywood_kernel::affinity::allowed().unwrap();
    for &cpu in &allowed {
        let fake = Arc::new(Fake::of(1));
        let mut storm = storm(vec![arm(6, 3)], 0);
        storm.seats = Seats::On(CpuSet::from_iter([cpu]));
        ran(&storm, &[Arc::clone(&fake)]);
        assert_eq!(*fake.cpus.lock().unwrap(), [cpu].into());
    }
    let turns: Vec<CpuSet> = allowed.iter().map(|&cpu| CpuSet::from_iter([cpu])).collect();
    let seats = Seats::InTurns(turns);
    for (thread, &cpu) in allowed.iter().chain(&allowed).enumerate() {
        assert_eq!(seats.of(thread), [cpu]);
    }
    let mut storm = storm(vec![arm(6, 3)], 0);
    storm.seats = Seats::On(CpuSet::from_iter([60_000]));
    let (kept, ended) = run(&storm, &[Arc::new(Fake::of(1))], &AtomicBool::new(false));
    assert!(ended.unwrap_err().to_string().contains("sched_setaffinity"));
    assert!(!kept.end().complete);
}

#[test]
fn a_slowdown_of_a_tenth_shows_in_the_samples() {
    let fakes = [Arc::new(Fake::of(40)), Arc::new(Fake::of(44))];
    let kept = ran(&storm(vec![arm(8, 2), arm(8, 2)], 3), &fakes);
    let median = |arm| {
        let mut samples: Vec<f64> =
            (1..=3).flat_map(|round| kept.launches(arm, round)).map(|launch| launch.launch_ms).collect();
        assert_eq!(samples.len(), 24);
        samples.sort_by(f64::total_cmp);
        samples[12]
    };
    let ratio = median(1) / median(0);
    assert!((1.04..1.2).contains(&ratio), "{ratio}");
}

#[test]
fn four_hundred_at_once_have_a_thread_each_and_little_memory() {
    let fake = Arc::new(Fake::of(300));
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let before = resident();
    ran(&storm(vec![arm(400, 400)], 0), &[Arc::clone(&fake)]);
    assert_eq!(fake.most.load(Ordering::SeqCst), 400);
    assert!(resident() - before < 100, "{} MB more", resident() - before);
}

/// Counters of the machine are hundreds of descriptors on a large one: each namespace has one set, however many arms
/// work in it and however they name it.
#[test]
fn arms_of_one_namespace_share_their_counters() {
    let theirs = || -> Arc<dyn Launcher> { Arc::new(Fake { says_where: true, ..Fake::default() }) };
    let launchers = [theirs(), theirs(), Arc::new(Fake::default())];
    let mut storm = storm(vec![arm(1, 1); 3], 1);
    storm.walks = vec![PathBuf::from("/")];
    let watched = storm.watched(&launchers).unwrap();
    let first = watched[0].as_ref().unwrap();
    assert!(watched.iter().flatten().all(|config| Arc::ptr_eq(config, first)));
    assert_eq!(watched.iter().flatten().count(), 3);
}
