//! Plans, medians, and real measurements, short ones.

use plywood_kernel::affinity;
use plywood_kernel::testing::require_root;

use super::summary::{jain, shares};
use super::*;

fn placement(name: &str, cpus: Vec<u32>) -> Placement {
    let places = (0..cpus.len()).map(|core| [0, 0, 0, core]).collect();
    Placement { name: name.to_owned(), aliases: Vec::new(), what: String::new(), cpus, places }
}

fn here() -> Config {
    let mut config = Config::new(vec![placement("all", affinity::allowed().unwrap())]);
    config.duration = Duration::from_millis(20);
    config.warm_up = Duration::from_millis(5);
    config.rounds = 3;
    config
}

fn measured(config: &Config) -> (Outcome, Vec<Sample>) {
    let mut samples = Vec::new();
    let outcome = run(config, &AtomicBool::new(false), &mut |sample| samples.push(sample.clone())).unwrap();
    (outcome, samples)
}

#[test]
fn curves_go_up_to_every_cpu_and_what_does_not_fit_is_named() {
    let mut config = Config::new(vec![placement("all", (0..10).collect()), placement("llc", vec![0, 1])]);
    config.locks = vec![LockKind::Cas];
    let counts = |config: &Config, placement: usize| {
        let points = plan(config).unwrap().points;
        points.iter().filter(|spec| spec.placement == placement).map(|spec| spec.threads).collect::<Vec<_>>()
    };
    assert_eq!(counts(&config, 0), [1, 2, 3, 4, 6, 8, 10]);
    assert_eq!(counts(&config, 1), [1, 2]);
    config.threads = Some(vec![4, 2, 4]);
    assert_eq!((counts(&config, 0), counts(&config, 1)), (vec![2, 4], vec![2]));
    let left_out = LeftOut { placement: "llc".to_owned(), threads: vec![4], cpus: 2 };
    assert_eq!(plan(&config).unwrap().left_out, [left_out]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let two = Config::new(vec![placement("all", vec![0, 1])]);
    let error = |change: &dyn Fn(&mut Config)| {
        let mut config = two.clone();
        change(&mut config);
        plan(&config).unwrap_err().to_string()
    };
    let many = error(&|config| config.threads = Some(vec![1, 3]));
    assert_eq!(many, "3 threads are too many: the largest placement, all, has 2 CPUs");
    assert!(error(&|config| config.threads = Some(vec![0])).contains("no thread"));
    assert!(error(&|config| config.rounds = 0).contains("no round"));
    assert!(error(&|config| config.duration = Duration::ZERO).contains("no time"));
    assert!(error(&|config| config.locks.clear()).contains("no lock"));
    assert!(error(&|config| config.placements.clear()).contains("no CPU"));
    let mut config = two;
    config.threads = Some(vec![3]);
    config.oversubscribe = true;
    assert_eq!(plan(&config).unwrap().points.len(), config.locks.len());
}

#[test]
fn every_lock_is_measured_on_the_cpus_it_was_put_on() {
    let (outcome, samples) = measured(&here());
    let cpus = affinity::allowed().unwrap();
    assert_eq!(samples.len(), outcome.points.len() * 3);
    for point in &outcome.points {
        let text = format!("{point:?}");
        assert!(point.ops_per_s > 0.0 && point.ops_per_s_rounds.len() == 3, "{text}");
        let op = point.op_ns;
        assert!(op.p50 > 0.0 && op.p50 <= op.p90 && op.p90 <= op.p99 && op.p99 <= op.max, "{text}");
        assert!(point.fairness > 0.0 && point.fairness <= 1.0 + 1e-9, "{text}");
        assert!(point.share.min <= point.share.max && !point.oversubscribed, "{text}");
        let beside = usize::from(point.lock == LockKind::Seqlock && point.threads > 1);
        assert_eq!(
            (point.contenders, point.beside.is_some()),
            (point.threads - beside, beside == 1),
            "{text}"
        );
    }
    for sample in &samples {
        let used: Vec<u32> = sample.per_thread.iter().map(|thread| thread.cpu).collect();
        assert_eq!(used, cpus[..sample.threads]);
    }
    // Rounds come one after the other, each with every point, and not in the same order.
    let order = |round| {
        let of_round = samples.iter().filter(move |sample| sample.round == round);
        of_round.map(|sample| (sample.lock, sample.threads)).collect::<Vec<_>>()
    };
    assert!(samples.is_sorted_by_key(|sample| sample.round));
    assert!((1..3).any(|round| order(round) != order(0)));
    let json = serde_json::to_string(&outcome).unwrap();
    assert!(serde_json::from_str::<Outcome>(&json).is_ok());
}

#[test]
fn longer_sections_are_measured_as_longer() {
    let mut config = here();
    config.locks = vec![LockKind::Mcs];
    config.threads = Some(vec![1]);
    config.think = Duration::ZERO;
    let mut p50 = |section| {
        config.section = Duration::from_nanos(section);
        measured(&config).0.points[0].op_ns.p50
    };
    let wanted = 10_000.0;
    let (short, long) = (p50(0), p50(10_000));
    assert!(short < 2_000.0, "{short}");
    assert!(long > wanted * 0.7 && long < wanted * 3.0, "{long}");
}

/// Rates over windows of their own cannot be added: a thread that came late would count as if it had always been there.
#[test]
fn all_threads_are_measured_in_one_window() {
    let mut config = here();
    config.locks = vec![LockKind::Mutex];
    config.threads = Some(vec![8]);
    config.placements[0].cpus.truncate(1);
    config.oversubscribe = true;
    let (outcome, samples) = measured(&config);
    for sample in &samples {
        let seconds = sample.window_ms / 1e3;
        assert!(seconds >= config.duration.as_secs_f64(), "{sample:?}");
        for thread in &sample.per_thread {
            assert!((thread.ops_per_s * seconds - thread.ops as f64).abs() < 1e-3, "{sample:?}");
        }
        let ops: u64 = sample.per_thread.iter().map(|thread| thread.ops).sum();
        assert!((sample.ops_per_s * seconds - ops as f64).abs() < 1e-3, "{sample:?}");
        assert!(ops > 0);
    }
    assert_eq!(outcome.points[0].ops_per_s_rounds.len(), 3);
}

/// Else the clock would be a good part of what is measured.
#[test]
fn batches_are_longer_than_the_clock_and_slow_operations_need_none() {
    let mut config = here();
    config.locks = vec![LockKind::Mcs];
    config.threads = Some(vec![1]);
    config.think = Duration::ZERO;
    let mut batch = |section: Duration| {
        config.section = section;
        measured(&config).0.points[0].batch
    };
    assert!(batch(Duration::ZERO) > 1);
    assert_eq!(batch(Duration::from_micros(50)), 1);
}

#[test]
fn blocking_locks_are_fitted_beyond_the_cpus_and_spin_locks_are_not() {
    let mut config = here();
    config.locks = vec![LockKind::Mutex, LockKind::Cas];
    config.threads = Some(vec![1, 2, 4, 8]);
    config.placements[0].cpus.truncate(2);
    config.oversubscribe = true;
    let fits = measured(&config).0.fits;
    assert_eq!(fits.len(), 2);
    let fit = fits[0].fit.as_ref().unwrap();
    assert_eq!((fit.measured_contenders.as_slice(), fits[0].oversubscribed), (&[1, 2, 4, 8][..], true));
    let why = fits[1].no_fit.as_ref().unwrap();
    assert!(
        why.contains("3 different numbers") && why.contains("do not count for a lock that spins"),
        "{why}"
    );
    assert!(!fits[1].oversubscribed);
}

#[test]
fn asked_to_stop_it_stops_and_reports_what_it_has() {
    let mut config = here();
    config.rounds = 1000;
    config.locks = vec![LockKind::Ticket];
    let cancel = AtomicBool::new(false);
    let mut seen = 0;
    let outcome = run(&config, &cancel, &mut |_| {
        seen += 1;
        cancel.store(seen >= 3, Ordering::Relaxed);
    });
    let outcome = outcome.unwrap();
    assert!(outcome.cancelled);
    assert_eq!(outcome.points.iter().map(|point| point.ops_per_s_rounds.len()).sum::<usize>(), 3);
}

#[test]
fn root_mounts_are_measured_while_paths_are_walked() {
    require_root();
    let mut config = here();
    config.locks = vec![LockKind::Mount];
    config.threads = Some(vec![1, 2, 4]);
    config.oversubscribe = true;
    let (outcome, _) = measured(&config);
    let [one, two, four] = &outcome.points[..] else { panic!("{outcome:?}") };
    assert_eq!((one.contenders, two.contenders, four.contenders), (1, 1, 2));
    assert_eq!(one.beside, None);
    let walks = two.beside.as_ref().unwrap();
    assert!(walks.what == "path walks" && walks.threads == 1 && walks.ops_per_s > 1000.0, "{walks:?}");
    assert!(two.op_ns.p50 > 1000.0 && two.batch == 1, "a mount takes microseconds: {two:?}");
}

#[test]
fn fairness_of_known_shares() {
    assert_eq!((jain(&[5.0, 5.0, 5.0]), shares(&[5.0, 5.0])), (1.0, (0.5, 0.5)));
    assert!((jain(&[9.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
    assert!((jain(&[4.0, 2.0]) - 0.9).abs() < 1e-9);
    assert_eq!((jain(&[0.0, 0.0]), shares(&[0.0])), (0.0, (0.0, 0.0)));
}
