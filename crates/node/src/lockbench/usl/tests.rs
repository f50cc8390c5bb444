//! Curves that are known, with noise that is known.

use super::*;

/// Throughput of a law with this relative noise, near enough to normal.
fn observe(law: Law, counts: &[usize], rounds: usize, noise: f64, seed: u64) -> Vec<Observed> {
    let mut random = Random::new(seed);
    let mut uniform = || random.next() as f64 / u64::MAX as f64;
    let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    counts
        .iter()
        .map(|&threads| {
            let exact = law.at(threads as f64);
            Observed { threads, ops_per_s: (0..rounds).map(|_| exact * (1.0 + noise * normal())).collect() }
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
        assert!(found.r_squared > 0.999_999);
        assert_eq!(found.lambda.low, None, "one round has no interval");
        if kappa > 0.0 && sigma < 1.0 {
            assert!(near(found.peak_threads.unwrap().value, ((1.0 - sigma) / kappa).sqrt(), 1e-4));
        }
    }
}

#[test]
fn noisy_curves_are_found_nearly_and_intervals_hold_the_truth() {
    let law = Law { lambda: 2e6, sigma: 0.08, kappa: 0.004 };
    let (mut held, mut total) = (0, 0);
    for seed in 0..60 {
        let found = fit(&observe(law, &COUNTS, 12, 0.03, seed), seed).unwrap();
        assert!(near(found.lambda.value, law.lambda, 0.10), "{found:?}");
        assert!(near(found.peak_threads.unwrap().value, 15.17, 0.15), "{found:?}");
        assert!(found.r_squared > 0.9, "{found:?}");
        for prediction in &found.predictions {
            assert!(prediction.prediction);
            let estimate = prediction.ops_per_s;
            let exact = law.at(prediction.threads as f64);
            assert!(near(estimate.value, exact, 0.25), "{prediction:?}");
            held += usize::from(estimate.low.unwrap() <= exact && exact <= estimate.high.unwrap());
            total += 1;
        }
    }
    assert!(held * 100 >= total * 80, "{held} of {total} intervals of 95 % hold the truth");
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
    assert_eq!(fit(&dead, 1).unwrap_err(), NoFit::NoThroughput { threads: 4 });
}

/// A lock that gets faster with threads, or one thread slower than its share: the bounds hold.
#[test]
fn curves_outside_the_law_stay_within_its_bounds() {
    for throughputs in [[1.0, 4.0, 16.0], [1.0, 0.1, 0.05], [1.0, 1.0, 1.0], [1.0, 3.0, 1.0], [5.0, 1.0, 9.0]]
    {
        let observed: Vec<Observed> = [1, 2, 4]
            .into_iter()
            .zip(throughputs)
            .map(|(threads, ops)| Observed { threads, ops_per_s: vec![ops, ops * 1.01, ops * 0.99] })
            .collect();
        let found = fit(&observed, 1).unwrap();
        assert!(
            found.lambda.value > 0.0 && (0.0..=1.0).contains(&found.sigma.value) && found.kappa.value >= 0.0,
            "{found:?}"
        );
    }
}
