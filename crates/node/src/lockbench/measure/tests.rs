//! What counts, with phases that change at known operations, and what is common to all threads.

use std::cell::Cell;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// One thread, alone with its window: in operation `n` it does what `at` says.
fn alone(at: impl Fn(u32, &Window)) -> Tally {
    let window = Window::default();
    let thread = Thread { cpu: 0, contends: true, window: &window, pace: Pace::measure() };
    let n = Cell::new(0);
    let operate = || {
        n.set(n.get() + 1);
        std::thread::sleep(MS);
        at(n.get(), &window);
        Ok(())
    };
    thread.work(operate).unwrap()
}

fn max(tally: &Tally) -> Duration {
    Duration::from_nanos(tally.sample(MS).op_ns.max as u64)
}

#[test]
fn what_ends_in_the_window_counts_and_waits_count_across_its_ends() {
    // Operation 20 begins before the window and ends in it, 40 ms later; 30 is under way when it ends.
    let tally = alone(|n, window| match n {
        20 => {
            window.enter(MEASURE, &window.from);
            std::thread::sleep(40 * MS);
        }
        30 => {
            std::thread::sleep(80 * MS);
            window.enter(STOP, &window.to);
            std::thread::sleep(200 * MS);
        }
        _ => {}
    });
    assert_eq!((tally.ops, tally.batch), (10, 1));
    assert!(max(&tally) >= 80 * MS, "{:?}", max(&tally));
    let until_40 = alone(|n, window| match n {
        20 => {
            window.enter(MEASURE, &window.from);
            std::thread::sleep(40 * MS);
        }
        30 => window.enter(STOP, &window.to),
        _ => {}
    });
    assert!(max(&until_40) >= 40 * MS, "{:?}", max(&until_40));
}

#[test]
fn who_gets_nothing_in_the_window_has_waited_all_of_it() {
    for first in [1, 5, 20] {
        let tally = alone(|n, window| {
            if n == first {
                window.enter(MEASURE, &window.from);
                std::thread::sleep(30 * MS);
                window.enter(STOP, &window.to);
            }
        });
        assert_eq!(tally.ops, 0);
        assert!(max(&tally) >= 30 * MS, "{:?}", max(&tally));
    }
}

/// An operation of 40 ms, in a window of one.
struct Slow;

impl Lock for Slow {
    fn new(_roles: &Roles) -> Result<Self, SyscallError> {
        Ok(Self)
    }

    fn operate(&self, _me: usize, _section: &Section) -> Result<(), SyscallError> {
        std::thread::sleep(40 * MS);
        Ok(())
    }
}

#[test]
fn a_window_goes_on_until_something_was_done() {
    let cpus = affinity::allowed().unwrap();
    let places = vec![Default::default(); cpus.len()];
    let placement =
        Placement { name: "all".to_owned(), aliases: Vec::new(), what: String::new(), cpus, places };
    let mut config = Config::new(vec![placement.clone()]);
    (config.duration, config.warm_up) = (MS, MS);
    let roles = Roles::new(LockKind::Mutex, &placement, 1);
    let measure = |cancel| {
        contend::<Slow>(&config, &placement, &roles, Pace::measure(), &AtomicBool::new(cancel)).unwrap()
    };
    let measured = measure(false).unwrap();
    assert!(measured.tallies[0].ops >= 1 && measured.window >= MS, "{:?}", measured.window);
    assert!(measure(true).is_none());
}
