//! Storms made up to be judged.

use super::*;
use crate::harness::Pace;
use crate::summary::tests::{arm, storm};

/// Rounds that differ by a few percent, and steady bystanders.
fn calm(arms: Vec<Arm>, wall: impl Fn(usize) -> f64) -> Vec<Line> {
    let mut lines = storm(arms, 10, |arm, round| wall(arm) * (1.0 + 0.01 * f64::from(round * 7 % 5)));
    for line in &mut lines {
        if let Line::Round(round) = line {
            round.health_ms = vec![(1.0, 10.0); 10];
        }
    }
    lines
}

fn pair() -> Vec<Arm> {
    vec![arm(Mechanism::PerLayer, 2, 20), arm(Mechanism::Detached, 1, 20)]
}

#[test]
fn slow_is_not_stalled() {
    let verdict = verdict(&calm(pair(), |arm| [800.0, 40.0][arm])).unwrap();
    assert_eq!(verdict.finding, Finding::Slows);
    assert_eq!(
        verdict.sentence,
        "Mounting slows container starts on this node and stalls none: 20 containers with 50 layers, 20 at once take \
         816 ms by `assembly per-layer over layers x 2` and 40.8 ms by `assembly detached over flat`, 20.0 x (19.6 x \
         to 20.4 x)."
    );
    assert!(verdict.details.iter().any(|d| d.contains("a sweep is")), "{:?}", verdict.details);
    assert!(verdict.details.iter().any(|d| d.starts_with("2 CPUs cannot contend")), "{:?}", verdict.details);
}

#[test]
fn failures_of_one_alone_are_a_stall() {
    let failing = |arms: &[usize]| {
        let mut lines = calm(pair(), |arm| [800.0, 40.0][arm]);
        for line in &mut lines {
            if let Line::Launch(launch) = line
                && arms.contains(&launch.arm)
                && launch.container == 0
            {
                launch.failed = Some("took longer than 30 s".into());
                launch.late = true;
            }
        }
        verdict(&lines).unwrap()
    };
    assert_eq!(failing(&[0]).finding, Finding::Stalls);
    assert!(failing(&[0]).sentence.contains("5.0 % of launches come too late"), "{}", failing(&[0]).sentence);
    let both = failing(&[0, 1]);
    assert_eq!(both.finding, Finding::Slows);
    assert!(both.details.iter().any(|d| d.starts_with("Both stall")));
}

#[test]
fn slow_readings_of_one_alone_are_a_stall() {
    let mut lines = calm(pair(), |_| 100.0);
    for line in &mut lines {
        if let Line::Round(round) = line
            && round.arm == 0
        {
            round.health_ms[3] = (2500.0, 2500.0);
        }
    }
    let judged = verdict(&lines).unwrap();
    assert_eq!(judged.finding, Finding::Stalls);
    assert!(
        judged.sentence.contains("for 97 % of the time reading the mount table takes"),
        "{}",
        judged.sentence
    );
}

/// One event is chance, and what fails for other reasons than time is not mounting's.
#[test]
fn one_event_is_no_stall_and_neither_is_what_fails_at_once() {
    let mut lines = calm(pair(), |_| 100.0);
    for line in &mut lines {
        match line {
            Line::Round(round) if (round.arm, round.round) == (0, 4) => round.health_ms[3] = (1001.0, 1001.0),
            Line::Launch(launch) if launch.arm == 0 && launch.container < 2 => {
                launch.failed = Some("fork: Resource temporarily unavailable".into());
            }
            _ => {}
        }
    }
    let judged = verdict(&lines).unwrap();
    assert_eq!(judged.finding, Finding::Harmless);
    let said = "By `assembly per-layer over layers x 2` 10 % of launches fail for reasons other than time.";
    assert!(judged.details.iter().any(|detail| detail == said), "{:?}", judged.details);
}

/// However long launches take, a round at a given rate takes as long as the rate says.
#[test]
fn what_is_due_at_a_rate_is_judged_by_its_launches() {
    let mut lines = calm(pair(), |_| 5000.0);
    for line in &mut lines {
        match line {
            Line::Run(run) => run.pace = Pace { burst: None, rate: Some(4.0) },
            Line::Launch(launch) => launch.launch_ms *= [30.0, 10.0][launch.arm],
            _ => {}
        }
    }
    let judged = verdict(&lines).unwrap();
    assert_eq!(judged.finding, Finding::Slows);
    assert!(judged.ratio.is_some_and(|ratio| (2.9..3.1).contains(&ratio)), "{judged:?}");
    assert!(
        judged.sentence.contains("each of 20 containers with 50 layers, 20 at once takes"),
        "{}",
        judged.sentence
    );
}

#[test]
fn no_difference_and_no_certainty() {
    assert_eq!(verdict(&calm(pair(), |_| 100.0)).unwrap().finding, Finding::Harmless);
    assert_eq!(verdict(&calm(pair(), |arm| [130.0, 100.0][arm])).unwrap().finding, Finding::Unclear);
}

#[test]
fn one_way_says_nothing_about_the_other() {
    let one = verdict(&calm(vec![arm(Mechanism::PerLayer, 2, 20)], |_| 100.0)).unwrap();
    assert_eq!(one.finding, Finding::OneWay);
    assert!(one.sentence.contains("cannot be said") && one.details[0].contains("--mechanism"), "{one:?}");
    let alike = vec![arm(Mechanism::Detached, 1, 20), arm(Mechanism::Detached, 1, 1)];
    assert_eq!(verdict(&calm(alike, |_| 100.0)).unwrap().finding, Finding::OneWay);
    let lines = calm(pair(), |_| 1.0);
    assert!(verdict(&lines[..3]).unwrap().sentence.contains("no round was finished"));
}

/// Another program does more than mount in another way.
#[test]
fn other_programs_are_not_judged_by_their_mounts() {
    let lines =
        calm(vec![containerd("overlayfs", UserNs::Private), arm(Mechanism::Detached, 1, 20)], |arm| {
            [900.0, 90.0][arm]
        });
    let verdict = verdict(&lines).unwrap();
    assert_eq!(verdict.finding, Finding::OneWay);
    assert!(
        verdict.sentence.contains("the program that starts the containers, too: 20 containers"),
        "{verdict:?}"
    );
    assert!(verdict.ratio.is_some_and(|ratio| (ratio - 10.0).abs() < 0.1));
}

fn containerd(snapshotter: &str, userns: UserNs) -> Arm {
    Arm {
        launcher: LauncherKind::Containerd,
        mechanism: None,
        lower: None,
        snapshotter: Some(snapshotter.into()),
        userns,
        ..arm(Mechanism::Detached, 1, 20)
    }
}

/// They differ in more than mounts: each of the one kind has a user namespace, too.
#[test]
fn users_of_their_own_are_held_against_the_hosts_and_called_mapping() {
    let arms = || vec![containerd("overlayfs", UserNs::Host), containerd("overlayfs", UserNs::Private)];
    let slow = verdict(&calm(arms(), |arm| [100.0, 200.0][arm])).unwrap();
    assert_eq!(slow.finding, Finding::Slows);
    assert!(
        slow.sentence
            .starts_with("Mapping ids slows container starts on this node and stalls none: 20 containers")
            && slow.sentence.contains("204 ms by `containerd overlayfs` and")
            && slow.sentence.contains("102 ms by `containerd overlayfs with host users`, 2.00 x"),
        "{}",
        slow.sentence
    );
    let harmless = verdict(&calm(arms(), |_| 100.0)).unwrap();
    assert!(harmless.sentence.starts_with("Whether ids are mapped matters little"), "{}", harmless.sentence);

    // Two ways to mount say what they are about, whatever there is besides.
    let mut four = arms();
    four.extend([containerd("plywood", UserNs::Host), containerd("plywood", UserNs::Private)]);
    let mounting = verdict(&calm(four, |arm| [100.0, 200.0, 90.0, 50.0][arm])).unwrap();
    assert!(
        mounting.sentence.starts_with("Mounting slows container starts")
            && mounting.sentence.contains("204 ms by `containerd overlayfs` and")
            && mounting.sentence.contains("by `containerd plywood`,"),
        "{}",
        mounting.sentence
    );

    let alone = verdict(&calm(vec![containerd("overlayfs", UserNs::Host)], |_| 100.0)).unwrap();
    assert_eq!(alone.finding, Finding::OneWay);
    assert!(alone.details[0].contains("`--userns private,host`"), "{:?}", alone.details);
}

/// Contention is what grows with the number at once, at the heaviest load there is.
#[test]
fn more_at_once_shows_contention() {
    let arms = vec![
        arm(Mechanism::PerLayer, 2, 1),
        arm(Mechanism::Detached, 1, 1),
        arm(Mechanism::PerLayer, 2, 4),
        arm(Mechanism::PerLayer, 2, 20),
        arm(Mechanism::Detached, 1, 20),
    ];
    let verdict = verdict(&calm(arms, |arm| [900.0, 40.0, 500.0, 900.0, 30.0][arm])).unwrap();
    assert!(verdict.ratio.is_some_and(|ratio| (ratio - 30.0).abs() < 0.5), "{verdict:?}");
    let detail = verdict.details.iter().find(|d| d.starts_with("The same burst")).unwrap();
    assert!(
        detail.contains("1.80 x as long (1.77 x to 1.84 x) with 20 at once as with 4")
            && detail.contains("it waits for something shared"),
        "{detail}"
    );
    assert!(detail.contains("0.75 x") && detail.contains("no sign of waiting"), "{detail}");
}
