//! Curves that are known, with noise that is known.

use super::*;

/// All threads contend.
fn fit(observed: &[Observed], seed: u64) -> Result<Fit, NoFit> {
    super::fit(observed, |threads| threads, seed)
}

/// Throughput of a law with this relative noise, near enough to normal.
fn observe(law: Law, counts: &[usize], rounds: usize, noise: f64, seed: u64) -> Vec<Observed> {
    let mut random = Random::new(seed);
    let mut uniform = || random.next() as f64 / u64::MAX as f64;
    let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    counts
        .iter()
        .map(|&threads| {
            let exact = law.at(threads as f64);
            Observed {
                contenders: threads,
                ops_per_s: (0..rounds).map(|_| exact * (1.0 + noise * normal())).collect(),
            }
        })
        .collect()
}

const COUNTS: [usize; 8] = [1, 2, 3, 4, 8, 12, 16, 24];

fn near(found: f64, exact: f64, relative: f64) -> bool {
    (found - exact).abs() <= exact.abs() * relative + 1e-9
}

#[test]
fn exact_curves_are_found_again() {
    for (lambda, sigma, kappa) in
        [(1e6, 0.05, 0.002), (5e7, 0.0, 0.01), (300.0, 0.9, 0.0), (1e3, 0.0, 0.0), (1e6, 1.0, 0.3)]
    {
        let law = Law { lambda, sigma, kappa };
        let found = fit(&observe(law, &COUNTS, 1, 0.0, 1), 1).unwrap();
        assert!(near(found.lambda.value, lambda, 1e-6), "{found:?}");
        assert!(near(found.sigma.value, sigma, 1e-5) && near(found.kappa.value, kappa, 1e-5), "{found:?}");
        assert!(found.error < 1e-6 && found.describes());
        assert_eq!(found.lambda.low, None, "one round has no interval");
        if kappa > 0.0 && sigma < 1.0 {
            assert!(near(found.peak_contenders.unwrap().value, ((1.0 - sigma) / kappa).sqrt(), 1e-4));
        }
    }
}

/// With the fewest rounds that have intervals. On the law's edge, a lock that is saturated and loses nothing, all noise is
/// to one side, and intervals of 95 % hold the truth 87 times in 100.
#[test]
fn noisy_curves_are_found_nearly_and_intervals_hold_the_truth() {
    const CURVES: u64 = 150;
    let laws = [
        (Law { lambda: 2e6, sigma: 0.08, kappa: 0.004 }, &COUNTS[..], 0.03, 91),
        (Law { lambda: 2e6, sigma: 0.5, kappa: 0.02 }, &[1, 2, 4][..], 0.02, 91),
        (Law { lambda: 1e6, sigma: 1.0, kappa: 0.0 }, &COUNTS[..], 0.01, 82),
    ];
    for (law, counts, noise, least) in laws {
        let (mut held, mut total) = (0, 0);
        for seed in 0..CURVES {
            let found = fit(&observe(law, counts, FEWEST_ROUNDS, noise, seed), seed).unwrap();
            assert!(near(found.lambda.value, law.lambda, 0.15), "{found:?}");
            assert!(found.describes() && found.error < 2.0 * noise, "{found:?}");
            for prediction in &found.predictions {
                assert!(prediction.prediction);
                let estimate = prediction.ops_per_s;
                let exact = law.at(prediction.threads as f64);
                held += usize::from(estimate.low.unwrap() <= exact && exact <= estimate.high.unwrap());
                total += 1;
            }
        }
        assert!(
            held * 100 >= total * least,
            "{held} of {total} intervals of 95 % hold the truth of {}",
            law.sigma
        );
    }
}

#[test]
fn too_few_rounds_have_no_intervals() {
    let law = Law { lambda: 2e6, sigma: 0.08, kappa: 0.004 };
    let interval = |rounds| fit(&observe(law, &COUNTS, rounds, 0.03, 1), 1).unwrap().predictions[0].ops_per_s;
    assert_eq!(interval(FEWEST_ROUNDS - 1).low, None);
    assert!(interval(FEWEST_ROUNDS).low.is_some());
}

/// A lock that is saturated and loses nothing: the law is right, and what it leaves is noise. R² was 0.5.
#[test]
fn a_flat_curve_is_described() {
    let law = Law { lambda: 1e6, sigma: 1.0, kappa: 0.0 };
    for seed in 0..20 {
        let found = fit(&observe(law, &COUNTS, 1, 0.01, seed), seed).unwrap();
        assert!(found.describes() && found.error < 0.03, "{found:?}");
    }
    // One that gets faster with threads, or that falls and rises, is not.
    for throughputs in [[1.0, 4.0, 16.0, 64.0], [5.0, 1.0, 9.0, 2.0]] {
        let observed = [1, 2, 4, 8].into_iter().zip(throughputs);
        let observed: Vec<_> =
            observed.map(|(contenders, ops)| Observed { contenders, ops_per_s: vec![ops] }).collect();
        let found = fit(&observed, 1).unwrap();
        assert!(!found.describes(), "{found:?}");
    }
}

/// A machine of 48 threads has 24 that mount: what the law says is of those.
#[test]
fn predictions_are_for_all_threads_of_a_machine() {
    let law = Law { lambda: 1e6, sigma: 0.1, kappa: 0.001 };
    let half = |threads: usize| threads.div_ceil(2);
    let found = super::fit(&observe(law, &[1, 2, 4, 24], 1, 0.0, 1), half, 1).unwrap();
    let told: Vec<_> = found.predictions.iter().map(|one| (one.threads, one.contenders)).collect();
    assert_eq!(told, [(96, 48), (192, 96)]);
    for one in &found.predictions {
        assert!(near(one.ops_per_s.value, law.at(one.contenders as f64), 1e-6), "{one:?}");
    }
}

#[test]
fn what_was_measured_is_not_predicted() {
    let law = Law { lambda: 1e6, sigma: 0.1, kappa: 0.001 };
    let threads = |counts: &[usize]| {
        let found = fit(&observe(law, counts, 3, 0.0, 1), 1).unwrap();
        found.predictions.iter().map(|one| one.threads).collect::<Vec<_>>()
    };
    assert_eq!(threads(&[1, 2, 4]), [48, 96, 192]);
    assert_eq!(threads(&[1, 32, 96]), [192]);
    assert_eq!(threads(&[1, 96, 192]), Vec::<usize>::new());
}

#[test]
fn too_little_is_refused() {
    let law = Law { lambda: 1e6, sigma: 0.1, kappa: 0.001 };
    let error = fit(&observe(law, &[1, 2, 2], 3, 0.0, 1), 1).unwrap_err();
    assert_eq!(error.to_string(), "the law needs 3 different numbers of contending threads, [1, 2] are 2");
    assert_eq!(fit(&[], 1).unwrap_err(), NoFit::TooFewCounts { found: vec![] });
    let mut dead = observe(law, &[1, 2, 4], 3, 0.0, 1);
    dead[2].ops_per_s = vec![0.0; 3];
    assert_eq!(fit(&dead, 1).unwrap_err(), NoFit::NoThroughput { contenders: 4 });
}

/// A lock that gets faster with threads, or one thread slower than its share: the bounds hold.
#[test]
fn curves_outside_the_law_stay_within_its_bounds() {
    for throughputs in [[1.0, 4.0, 16.0], [1.0, 0.1, 0.05], [1.0, 1.0, 1.0], [1.0, 3.0, 1.0], [5.0, 1.0, 9.0]]
    {
        let observed: Vec<Observed> = [1, 2, 4]
            .into_iter()
            .zip(throughputs)
            .map(|(threads, ops)| Observed {
                contenders: threads,
                ops_per_s: vec![ops, ops * 1.01, ops * 0.99],
            })
            .collect();
        let found = fit(&observed, 1).unwrap();
        assert!(
            found.lambda.value > 0.0 && (0.0..=1.0).contains(&found.sigma.value) && found.kappa.value >= 0.0,
            "{found:?}"
        );
    }
}
