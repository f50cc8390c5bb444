//! Comparisons of made-up runs.

use plywood_engine::mechanism::Mechanism;

use super::*;
use crate::harness::Pace;
use crate::record::Line;
use crate::summary::tests::{arm, storm};

/// Rounds of 100 ms that differ by a few percent.
fn wall(round: u32) -> f64 {
    100.0 + [0.0, 2.0, -3.0, 1.0, 4.0, -2.0, 0.5, -4.0, 3.0, -1.0, 1.5][round as usize % 11]
}

fn one(factor: f64, repeat: u32) -> Vec<Line> {
    storm(vec![arm(Mechanism::Detached, 1, 20)], repeat, |_, round| factor * wall(round * 3 + 1))
}

#[test]
fn what_the_ratio_decides() {
    let verdict = |factor: f64| {
        let comparison = compare_runs(&one(1.0, 10), &one(factor, 10), THRESHOLD).unwrap();
        (comparison.verdict, comparison.exit_status())
    };
    assert_eq!(verdict(1.0), (Outcome::Same, 0));
    assert_eq!(verdict(1.10), (Outcome::Slower, 1));
    assert_eq!(verdict(0.90), (Outcome::Faster, 0));
    assert_eq!(verdict(1.045), (Outcome::Unclear, 0));
}

/// Too few rounds decide nothing, however far they are apart.
#[test]
fn few_rounds_are_unclear() {
    let comparison = compare_runs(&one(1.0, 3), &one(2.0, 3), THRESHOLD).unwrap();
    assert_eq!(comparison.verdict, Outcome::Unclear);
    assert_eq!(comparison.pairs[0].wall_ms.unwrap().interval_confidence, Some(0.9));
    assert_eq!(compare_runs(&one(1.0, 4), &one(2.0, 4), THRESHOLD).unwrap().verdict, Outcome::Slower);
    assert_eq!(compare_runs(&one(1.0, 1), &one(2.0, 1), THRESHOLD).unwrap().verdict, Outcome::Unclear);
}

#[test]
fn failing_more_is_slower() {
    let mut failing = one(1.0, 10);
    for line in &mut failing {
        if let Line::Launch(launch) = line
            && launch.container == 0
        {
            launch.failed = Some("no".into());
        }
    }
    let comparison = compare_runs(&one(1.0, 10), &failing, THRESHOLD).unwrap();
    assert_eq!((comparison.verdict, comparison.exit_status()), (Outcome::Slower, 1));
    assert_eq!(comparison.sentence, "Slower: 1 of 1 arm, 1 of them failing more often.");
    assert_eq!(compare_runs(&failing, &one(1.0, 10), THRESHOLD).unwrap().verdict, Outcome::Same);
}

/// A gate must not let pass what was not measured.
#[test]
fn what_was_not_measured_does_not_pass() {
    let exit = |after: &[Line]| {
        let comparison = compare_runs(&one(1.0, 10), after, THRESHOLD).unwrap();
        (comparison.missing, comparison.exit_status())
    };
    assert_eq!(exit(&one(1.0, 10)), (false, 0));
    let mut cut = one(1.0, 10);
    cut.pop();
    assert_eq!(exit(&cut), (true, 1));
    let without: Vec<Line> =
        one(1.0, 10).into_iter().filter(|line| !matches!(line, Line::Round(_))).collect();
    assert_eq!(exit(&without), (true, 1));
    let both =
        storm(vec![arm(Mechanism::Detached, 1, 20), arm(Mechanism::Copy, 1, 20)], 10, |_, round| wall(round));
    assert_eq!(compare_runs(&both, &one(1.0, 10), THRESHOLD).unwrap().exit_status(), 1);
    assert_eq!(compare_runs(&one(1.0, 10), &both, THRESHOLD).unwrap().exit_status(), 0);
}

#[test]
fn a_burst_and_a_rate_do_not_compare() {
    let mut paced = one(1.0, 10);
    if let Line::Run(run) = &mut paced[0] {
        run.pace = Pace { burst: Some(5), rate: Some(20.0) };
    }
    let error = compare_runs(&one(1.0, 10), &paced, THRESHOLD).unwrap_err().to_string();
    assert!(error.ends_with("in the first all at once, in the second bursts of 5, 20 a second"), "{error}");
    // Between themselves their launches decide.
    assert_eq!(compare_runs(&paced, &paced, THRESHOLD).unwrap().verdict, Outcome::Same);
}

#[test]
fn a_comparison_says_what_it_cannot_know() {
    let mut other =
        storm(vec![arm(Mechanism::Private, 1, 20), arm(Mechanism::Detached, 1, 20)], 10, |arm, round| {
            wall(round + 2) * if arm == 1 { 1.3 } else { 1.0 }
        });
    let Line::Run(run) = &mut other[0] else { panic!() };
    run.host.kernel = "6.1.0".into();
    run.host.load = 3.0;
    run.host.versions.insert("runc".into(), "1.3".into());
    other.pop();
    let comparison = compare_runs(&one(1.0, 10), &other, THRESHOLD).unwrap();
    insta::assert_snapshot!(comparison, @"
    ARM                                                 BEFORE  AFTER   RATIO   95 %              FAILED      VERDICT
    assembly detached over flat, 50 layers, 20 at once  100 ms  131 ms  1.31 x  1.27 x to 1.34 x  0 % -> 0 %  slower
    only in the second run: assembly private over layers, 50 layers, 20 at once
    note: the runs were made one after the other, not in turn: whatever changed on the machine between them looks like a difference of the arms
    note: the kernel differs: 6.18.0 before, 6.1.0 after
    note: runc differs: none before, 1.3 after
    note: the load average differs: 0.00 before, 3.00 after
    note: the second run did not finish: it was cut off
    note: the second run is of a busy machine: the load average was 3.0 on 2 CPUs before anything was started
    Slower: 1 of 1 arm.
    The second run lacks something: what it did not measure is not passed.
    ");
}

#[test]
fn two_arms_of_one_run() {
    let lines = storm(
        vec![
            arm(Mechanism::PerLayer, 2, 20),
            arm(Mechanism::Detached, 1, 20),
            arm(Mechanism::Detached, 1, 1),
        ],
        10,
        |arm, round| wall(round + arm as u32) * if arm == 0 { 20.0 } else { 1.0 },
    );
    let comparison = compare_arms(&lines, 0, 1, THRESHOLD).unwrap();
    assert_eq!(comparison.verdict, Outcome::Faster);
    assert_eq!(comparison.warnings, Vec::<String>::new());
    assert_eq!(compare_arms(&lines, 1, 2, THRESHOLD).unwrap().warnings.len(), 1);
    assert_eq!(
        compare_arms(&lines, 1, 3, THRESHOLD).unwrap_err(),
        CompareError::NoSuchArm { position: 3, arms: 3 }
    );
    let json = serde_json::to_value(&comparison).unwrap();
    assert_eq!(json["verdict"], "faster");
    assert!(json["pairs"][0]["wall_ms"]["ratio_interval"][0].is_number());
}

#[test]
fn runs_without_a_common_arm_are_refused() {
    let other = storm(vec![arm(Mechanism::Private, 1, 20)], 3, |_, _| 1.0);
    let error = compare_runs(&one(1.0, 3), &other, THRESHOLD).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no arm is in both runs; the first has assembly detached over flat, 50 layers, 20 at once, the second \
         assembly private over layers, 50 layers, 20 at once"
    );
    assert!(matches!(compare_runs(&[], &other, THRESHOLD), Err(CompareError::Before(_))));
}
