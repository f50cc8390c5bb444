//! Records made up for tests, and what the summary makes of them.

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use proptest::prelude::*;

use super::*;
use crate::arm::{Arm, UserNs};
use crate::harness::Pace;
use crate::record::{End, Host, Launch, MountOps as Counted, Round, Run, VERSION, Watcher as Watching};

pub(crate) fn arm(mechanism: Mechanism, passes: u32, concurrency: usize) -> Arm {
    let lower = if mechanism == Mechanism::Detached { LowerSource::Flat } else { LowerSource::Layers };
    Arm {
        launcher: LauncherKind::Assembly,
        mechanism: Some(mechanism),
        lower: Some(lower),
        snapshotter: None,
        userns: UserNs::Private,
        passes,
        layers: 50,
        containers: 20,
        concurrency,
        admission: None,
        one_cache: false,
    }
}

pub(crate) fn run(arms: Vec<Arm>, repeat: u32) -> Run {
    Run {
        version: VERSION,
        plywood: "0.1.0".into(),
        command: vec!["plywood".into(), "storm".into()],
        started_at_ms: 1_700_000_000_000,
        image: "generated: 50 layers".into(),
        arms,
        repeat,
        timeout_ms: 30_000.0,
        pace: Pace::default(),
        hold_ms: 0.0,
        program: Vec::new(),
        host: Host { kernel: "6.18.0".into(), cpu_model: "A CPU".into(), cpus: 2, ..Host::default() },
    }
}

/// A whole storm: `wall(arm, round)` milliseconds a round; a launch takes a tenth of it, more the later it is.
pub(crate) fn storm(arms: Vec<Arm>, repeat: u32, wall: impl Fn(usize, u32) -> f64) -> Vec<Line> {
    let mut lines = vec![Line::Run(Box::new(run(arms.clone(), repeat)))];
    for number in 0..=repeat {
        for (position, arm) in arms.iter().enumerate() {
            let wall_ms = wall(position, number);
            for container in 0..arm.containers {
                lines.push(Line::Launch(Launch {
                    arm: position,
                    round: number,
                    container,
                    due_ms: 0.0,
                    launch_ms: wall_ms * (0.1 + container as f64 / 1000.0),
                    waited_ms: 0.0,
                    failed: None,
                    late: false,
                }));
            }
            lines.push(Line::Round(Box::new(round(position, number, wall_ms))));
        }
    }
    lines.push(Line::End(End { complete: true, reason: None }));
    lines
}

pub(crate) fn round(arm: usize, round: u32, wall_ms: f64) -> Round {
    Round {
        arm,
        round,
        wall_ms,
        removed_ms: wall_ms * 1.5,
        mount_ops: Counted {
            attach: Some(2040),
            detach: Some(2020),
            host_attach: 7,
            host_detach: 6,
            exact: true,
        },
        mount_table_peak: 31 + round as usize,
        health_ms: vec![(1.0, 10.0), (2.0, 10.0), (1500.0, 30.0), (31_000.0, 50.0)],
        path_walk_us: vec![(1.0, 90), (5.0, 9), (200.0, 1)],
        watcher: Watching { cpu_ms: 3.0, wakeups: 12, lag_max_ms: 4.0 + f64::from(round) },
        machine_cpu_ms: wall_ms * 2.0,
        storm_cpu_ms: wall_ms * 1.8,
        measuring_cpu_ms: 1.0,
        context_switches: 1000,
    }
}

fn kinds(summary: &Summary) -> Vec<NoteKind> {
    summary.notes.iter().map(|note| note.kind).collect()
}

const WALLS: [f64; 8] = [900.0, 100.0, 104.0, 98.0, 101.0, 97.0, 103.0, 99.0];

#[test]
fn one_line_an_arm() {
    let lines = storm(vec![arm(Mechanism::PerLayer, 2, 20)], 7, |_, round| WALLS[round as usize]);
    let summaries = summarise(&lines).unwrap();
    let [summary] = &summaries[..] else { panic!("{summaries:?}") };
    assert_eq!(summary.wall_ms, Some(100.0), "the warm-up does not count");
    assert_eq!((summary.rounds, summary.launches, summary.failed), (7, 140, 0));
    assert_eq!(summary.success_rate, Some(1.0));
    let interval = summary.wall_ms_interval.unwrap();
    assert!(
        interval.lo > 97.0 && interval.lo < 100.0 && interval.hi > 100.0 && interval.hi < 104.0,
        "{interval:?}"
    );
    let launch = summary.launch_ms.unwrap();
    let p50 = summary.launch_p50_ms_interval.unwrap();
    assert!(p50.contains(launch.p50), "{p50:?} {launch:?}");
    assert!((launch.max - 104.0 * 0.119).abs() < 0.01);
    let health = summary.health_ms.unwrap();
    assert_eq!((health.over_1s, health.over_30s, health.readings), (0.8, 0.5, 28));
    assert_eq!(
        (health.quantiles.p50, health.quantiles.p90),
        (1500.0, 31_000.0),
        "weighed by what they stand for"
    );
    let walk = summary.path_walk_us.unwrap();
    assert_eq!((walk.p50, walk.p90, walk.p99, walk.max), (1.0, 1.0, 5.0, 200.0));
    assert_eq!(summary.mount_table_peak, Some(38));
    assert_eq!(summary.watcher.unwrap().lag_max_ms, 11.0);
    assert_eq!(kinds(summary), []);
}

/// Scripts rely on these names.
#[test]
fn names_in_json() {
    let lines = storm(vec![arm(Mechanism::PerLayer, 2, 20)], 7, |_, round| WALLS[round as usize]);
    let json = serde_json::to_value(&summarise(&lines).unwrap()[0]).unwrap();
    for path in [
        "launcher",
        "mechanism",
        "lower",
        "snapshotter",
        "userns",
        "passes",
        "layers",
        "containers",
        "concurrency",
        "failed",
        "wall_ms",
        "wall_ms_interval/0",
        "wall_ms_interval/1",
        "launch_ms/p50",
        "launch_ms/p90",
        "launch_ms/p99",
        "launch_ms/max",
        "mount_ops/attach",
        "mount_ops/detach",
        "mount_ops/host_attach",
        "mount_ops/host_detach",
        "health_ms/p50",
        "health_ms/p90",
        "health_ms/p99",
        "health_ms/max",
        "health_ms/over_1s",
        "health_ms/over_30s",
        "path_walk_us/p50",
        "path_walk_us/p99",
        "mount_table_peak",
    ] {
        assert!(json.pointer(&format!("/{path}")).is_some(), "{path} in {json}");
    }
    assert_eq!(json["mechanism"], "per-layer");
    for column in show::COLUMNS {
        assert!(json.pointer(column.json).is_some(), "{}", column.json);
        assert_ne!((column.cell)(&summarise(&lines).unwrap()[0]), "", "{}", column.head);
    }
    let back: Summary = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(back).unwrap(), json);
}

#[test]
fn failed_launches_are_counted_and_their_times_kept_apart() {
    let mut lines = storm(vec![arm(Mechanism::PerLayer, 1, 20)], 6, |_, _| 100.0);
    let mut failing = 0;
    for line in &mut lines {
        if let Line::Launch(launch) = line
            && launch.round == 3
            && launch.container < 4
        {
            launch.launch_ms = 30_000.0;
            launch.failed = Some(if failing == 0 { "EIO" } else { "took longer than 30 s" }.into());
            failing += 1;
        }
    }
    let summary = &summarise(&lines).unwrap()[0];
    assert_eq!((summary.launches, summary.failed), (120, 4));
    assert_eq!(summary.success_rate, Some(0.966_667));
    assert_eq!(summary.failures[0], Failure { reason: "took longer than 30 s".into(), launches: 3 });
    assert!(summary.launch_ms.unwrap().max < 100.0);
}

#[test]
fn noise_is_named() {
    let arms = || vec![arm(Mechanism::PerLayer, 1, 20), arm(Mechanism::Detached, 1, 20)];
    let wild = storm(arms(), 10, |arm, round| match arm {
        0 => 100.0 + 5.0 * f64::from(round),
        _ => {
            if round == 4 {
                350.0
            } else {
                100.0 + f64::from(round % 3)
            }
        }
    });
    let summaries = summarise(&wild).unwrap();
    assert_eq!(kinds(&summaries[0]), [NoteKind::Spread, NoteKind::Drift]);
    assert_eq!(kinds(&summaries[1]), [NoteKind::Spread, NoteKind::Outlier]);
    assert!(summaries[0].notes[1].message.contains("slower, by 43 %"), "{:?}", summaries[0].notes);
    assert!(
        summaries[1].notes[1].message.starts_with("round 4 took 350 ms, 3.47 x"),
        "{:?}",
        summaries[1].notes
    );

    let alike = storm(arms(), 7, |arm, round| WALLS[(round as usize + arm) % 7 + 1]);
    let summaries = summarise(&alike).unwrap();
    assert_eq!(kinds(&summaries[0]), [NoteKind::Overlap]);
    assert!(summaries[0].notes[0].message.contains("assembly detached over flat"));

    let mut busy = storm(vec![arm(Mechanism::Detached, 1, 20)], 6, |_, _| 100.0);
    for line in &mut busy {
        if let Line::Round(round) = line {
            round.storm_cpu_ms = 40.0;
            round.mount_ops.exact = false;
        }
    }
    assert_eq!(kinds(&summarise(&busy).unwrap()[0]), [NoteKind::OtherWork, NoteKind::Inexact]);

    let mut loaded = storm(vec![arm(Mechanism::Detached, 1, 20)], 6, |_, _| 100.0);
    let Line::Run(run) = &mut loaded[0] else { panic!() };
    run.host.load = 1.5;
    assert_eq!(kinds(&summarise(&loaded).unwrap()[0]), [NoteKind::OtherWork]);
}

#[test]
fn a_storm_that_was_cut_off_is_partial() {
    let lines = storm(vec![arm(Mechanism::Detached, 1, 20)], 7, |_, round| WALLS[round as usize]);
    let mut text = String::new();
    for line in &lines[..lines.len() - 10] {
        text.push_str(&serde_json::to_string(line).unwrap());
        text.push('\n');
    }
    text.push_str(r#"{"kind":"launch","arm":0,"rou"#);
    let summary = &summarise(&read(&text).unwrap()).unwrap()[0];
    assert!(summary.partial);
    assert_eq!((summary.rounds, summary.launches), (6, 120), "a round without its end does not count");
    assert_eq!(kinds(summary), [NoteKind::Partial]);

    let begun = &summarise(&lines[..5]).unwrap()[0];
    assert_eq!((begun.rounds, begun.wall_ms, begun.launch_ms, begun.success_rate), (0, None, None, None));

    let mut stopped = lines.clone();
    *stopped.last_mut().unwrap() = Line::End(End { complete: false, reason: Some("interrupted".into()) });
    let summary = &summarise(&stopped).unwrap()[0];
    assert!(summary.partial && summary.notes[0].message.contains("interrupted"));
}

#[test]
fn what_is_no_storm_is_refused() {
    let lines = storm(vec![arm(Mechanism::Detached, 1, 20)], 1, |_, _| 1.0);
    assert_eq!(summarise(&[]).unwrap_err(), SummaryError::Empty);
    assert_eq!(summarise(&[Line::Unknown]).unwrap_err(), SummaryError::Empty);
    assert_eq!(summarise(&lines[1..]).unwrap_err(), SummaryError::NoRun);
    assert_eq!(
        summarise(&[lines.clone(), lines.clone()].concat()).unwrap_err(),
        SummaryError::TwoRuns { line: lines.len() + 1 }
    );
    let mut newer = run(vec![arm(Mechanism::Detached, 1, 20)], 1);
    newer.version = 2;
    assert_eq!(summarise(&[Line::Run(Box::new(newer))]).unwrap_err(), SummaryError::Version { version: 2 });
    assert_eq!(summarise(&[Line::Run(Box::new(run(vec![], 1)))]).unwrap_err(), SummaryError::NoArms);

    assert!(read("").unwrap().is_empty());
    assert!(matches!(read("{\"kind\":\"end\"\n\n"), Err(ReadError::Line { line: 1, .. })));
    assert!(matches!(
        read("{\"kind\":\"run\",\"version\":7,\"shape\":\"new\"}\n"),
        Err(ReadError::Version { version: 7 })
    ));
    assert!(matches!(
        read("\n{\"kind\":\"end\",\"complete\":true}\nnoise\n"),
        Err(ReadError::Line { line: 3, .. })
    ));
}

#[test]
fn impossible_values_are_left_out_and_counted() {
    let mut lines = storm(vec![arm(Mechanism::Detached, 1, 20)], 8, |_, _| 100.0);
    let mut at = 0;
    for line in &mut lines {
        match line {
            Line::Launch(launch) if launch.round == 1 => {
                launch.launch_ms = [f64::NAN, -1.0, f64::INFINITY, 1e300][at % 4];
                at += 1;
            }
            Line::Round(round) if round.round == 1 => {
                round.health_ms = vec![(f64::NAN, 1.0), (-5.0, 1.0), (7.0, 1.0)];
                round.path_walk_us = vec![(f64::INFINITY, 3), (1.0, u64::MAX)];
                round.mount_ops.attach = Some(u64::MAX);
            }
            Line::Round(round) if round.round == 2 => round.wall_ms = f64::NAN,
            Line::Round(round) if round.round == 3 => round.arm = usize::MAX,
            _ => {}
        }
    }
    lines.push(Line::Round(Box::new(round(0, 8, 5.0))));
    let summary = &summarise(&lines).unwrap()[0];
    assert_eq!((summary.rounds, summary.launches), (6, 100));
    assert!(serde_json::to_string(summary).unwrap().contains("\"wall_ms\":100.0"));
    let note = &summary.notes.iter().find(|note| note.kind == NoteKind::LeftOut).unwrap().message;
    assert!(note.starts_with("26 lines and values were left out"), "{note}");
}

#[test]
fn figures_read_well() {
    let shown = [0.0, 0.617, 31.44, 812.3, 2100.0, 99_950.0, 250_000.0, f64::NAN].map(show::ms);
    assert_eq!(shown, ["0.00 ms", "0.62 ms", "31.4 ms", "812 ms", "2.10 s", "1 min 39 s", "4 min 10 s", "-"]);
    assert_eq!([0.5, 31.44, 999.6].map(show::us), ["0.50 us", "31.4 us", "1.00 ms"]);
    assert_eq!([1.034, 12.44, 20_200.0].map(show::times), ["1.03 x", "12.4 x", "20,200 x"]);
    assert_eq!(
        [0.0, 0.0001, 0.004, 0.12, 0.9999, 1.0].map(show::percent),
        ["0 %", "< 0.1 %", "0.4 %", "12 %", "99.9 %", "100 %"]
    );
}

proptest! {
    /// Whatever numbers a file holds, it is summarised, and the summary is JSON without nulls for numbers.
    #[test]
    fn hostile_numbers_never_panic(
        walls in prop::collection::vec(any::<f64>(), 1..12),
        counts in any::<(u64, usize, u32)>(),
    ) {
        let mut arms = vec![arm(Mechanism::Detached, 1, 20)];
        arms[0].containers = counts.1;
        let mut lines = vec![Line::Run(Box::new(run(arms, counts.2)))];
        for (at, wall) in walls.iter().enumerate() {
            let mut round = round(0, at as u32 + 1, wall.abs());
            round.mount_table_peak = counts.1;
            round.machine_cpu_ms = *wall;
            round.health_ms = walls.iter().zip(walls.iter().rev()).map(|(a, b)| (*a, *b)).collect();
            round.path_walk_us = walls.iter().map(|v| (*v, counts.0)).collect();
            lines.push(Line::Round(Box::new(round)));
        }
        let summary = &summarise(&lines).unwrap()[0];
        let json = serde_json::to_string(summary).unwrap();
        prop_assert!(serde_json::from_str::<Summary>(&json).is_ok(), "{}", json);
        for column in show::COLUMNS {
            let _ = (column.cell)(summary);
        }
    }
}
