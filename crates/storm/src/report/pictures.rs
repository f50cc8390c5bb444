//! The pictures of a storm, each with what it shows said below it.

use super::chart::{Bar, Lines, Point, Row, Rows, Series, bars, lines, rows};
use super::html::{esc, put};
use super::ways::Ways;
use crate::stats::{Interval, Quantiles};
use crate::summary::{Summary, show};

/// Rows of the picture of wall times; the table has them all.
const MOST_ROWS: usize = 36;

/// The load of an arm in words.
pub(super) fn load(summary: &Summary) -> String {
    format!(
        "{}, {}, {} at once",
        show::count(summary.containers, "container", "containers"),
        show::count(summary.layers, "layer", "layers"),
        show::whole(summary.concurrency as u64)
    )
}

/// Adds every picture there are figures for.
pub(super) fn add(page: &mut String, summaries: &[Summary], ways: &Ways) {
    let measured: Vec<&Summary> = summaries.iter().filter(|s| s.rounds > 0).collect();
    if measured.is_empty() {
        put!(page, "<p>No round was finished, so there is nothing to draw.</p>\n");
        return;
    }
    put!(page, "<section>\n<h2>How long containers take</h2>\n<div class=\"grid\">\n");
    wall(page, &measured, ways);
    latency(page, &measured, ways);
    success(page, &measured, ways);
    put!(
        page,
        "</div>\n</section>\n<section>\n<h2>What the kernel did, and who else waited</h2>\n<div class=\"grid\">\n"
    );
    operations(page, &measured, ways);
    bystanders(page, &measured, ways);
    put!(page, "</div>\n</section>\n");
}

/// A picture with its title and caption.
fn figure(page: &mut String, title: &str, caption: &str, draw: impl FnOnce(&mut String)) {
    put!(page, "<figure>\n<h3>{}</h3>\n", esc(title));
    draw(page);
    put!(page, "<figcaption>{}</figcaption>\n</figure>\n", esc(caption));
}

/// Arms with the most containers, layers and at once first; ways in order.
fn heaviest_first<'a>(measured: &[&'a Summary], ways: &Ways) -> Vec<&'a Summary> {
    let mut sorted = measured.to_vec();
    sorted.sort_by_key(|s| (std::cmp::Reverse((s.containers, s.layers, s.concurrency)), ways.position(s)));
    sorted
}

/// The arms of the heaviest load, one a way where possible.
fn heaviest<'a>(measured: &[&'a Summary], ways: &Ways) -> Vec<&'a Summary> {
    let mut found: Vec<&Summary> = Vec::new();
    for summary in heaviest_first(measured, ways) {
        if !found.iter().any(|other| ways.position(other) == ways.position(summary)) {
            found.push(summary);
        }
    }
    found.sort_by_key(|s| ways.position(s));
    found
}

fn ends(interval: Option<Interval>) -> Option<(f64, f64)> {
    interval.map(|i| (i.lo, i.hi))
}

fn wall(page: &mut String, measured: &[&Summary], ways: &Ways) {
    let mut last = None;
    let sorted = heaviest_first(measured, ways);
    let of = sorted.iter().take(MOST_ROWS).map(|s| {
        let load = load(s);
        let heading = (last.as_ref() != Some(&load)).then(|| load.clone());
        last = Some(load);
        Row {
            heading,
            way: ways.position(s),
            name: ways.name(ways.position(s)).to_owned(),
            value: s.wall_ms.map_or_else(|| show::NOTHING.to_owned(), show::ms),
            main: s.wall_ms,
            interval: ends(s.wall_ms_interval),
            dots: s.wall_ms_rounds.clone(),
            ..Row::default()
        }
    });
    let of: Vec<Row> = of.collect();
    let left_out = sorted.len().saturating_sub(MOST_ROWS);
    let more =
        if left_out > 0 { format!(" {left_out} lighter arms are in the table only.") } else { String::new() };
    let sure = measured.iter().filter_map(|s| s.interval_confidence).fold(0.95, f64::min);
    figure(
        page,
        "A whole round, by arm",
        &format!(
            "From the first container due to the last one there. Marker: median of the rounds; thick line: its {} \
             interval; dots: single rounds.{more}",
            show::percent(sure)
        ),
        |page| {
            let about = "One row an arm: the median time of a round, its interval and each round. The table of figures has the numbers.";
            rows(
                page,
                &Rows { id: "wall", title: "Wall time of a round by arm", about, rows: of, show: show::ms },
            );
        },
    );
}

/// What is drawn along the horizontal axis, and what is kept the same in one picture.
struct Along {
    id: &'static str,
    what: &'static str,
    axis: &'static str,
    x: fn(&Summary) -> usize,
    same: fn(&Summary) -> (usize, usize),
    name: fn((usize, usize)) -> String,
}

const ALONG: [Along; 2] = [
    Along {
        id: "latency-concurrency",
        what: "by how many start at once",
        axis: "containers starting at once",
        x: |s| s.concurrency,
        same: |s| (s.layers, s.containers),
        name: |(layers, _)| show::count(layers, "layer", "layers"),
    },
    Along {
        id: "latency-layers",
        what: "by layers of the image",
        axis: "layers",
        x: |s| s.layers,
        same: |s| (s.concurrency, s.containers),
        name: |(at_once, _)| format!("{at_once} at once"),
    },
];

/// Sets of arms that differ in what is drawn along and in the way, the heaviest and the lightest.
fn sets<'a>(measured: &[&'a Summary], along: &Along) -> Vec<((usize, usize), Vec<&'a Summary>)> {
    let mut keys: Vec<(usize, usize)> = measured.iter().map(|s| (along.same)(s)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut sets: Vec<_> = keys
        .into_iter()
        .rev()
        .map(|key| (key, measured.iter().copied().filter(|s| (along.same)(s) == key).collect::<Vec<_>>()))
        .filter(|(_, set)| set.iter().any(|s| (along.x)(s) != (along.x)(set[0])))
        .collect();
    if sets.len() > 2 {
        sets.drain(1..sets.len() - 1);
    }
    sets
}

#[expect(clippy::cast_precision_loss, reason = "layers and containers are few")]
fn series(
    set: &[&Summary],
    ways: &Ways,
    x: fn(&Summary) -> usize,
    dashed: bool,
    y: impl Fn(&Summary) -> Option<(f64, Option<Interval>)>,
) -> Vec<Series> {
    let line = |way: usize| {
        let mut arms: Vec<&&Summary> = set.iter().filter(|s| ways.position(s) == way).collect();
        arms.sort_by_key(|s| x(s));
        arms.dedup_by_key(|s| x(s));
        let point = |s: &&&Summary| {
            let (y, interval) = y(s)?;
            Some(Point { x: x(s) as f64, y, interval: ends(interval) })
        };
        let points: Vec<Point> = arms.iter().filter_map(point).collect();
        let of = if dashed { "p99 of " } else { "" };
        (!points.is_empty()).then(|| Series { way, name: format!("{of}{}", ways.name(way)), dashed, points })
    };
    (0..ways.count()).filter_map(line).collect()
}

fn latency(page: &mut String, measured: &[&Summary], ways: &Ways) {
    for along in &ALONG {
        for (key, set) in sets(measured, along) {
            let mut of = series(&set, ways, along.x, true, |s| Some((s.launch_ms?.p99, None)));
            of.extend(series(&set, ways, along.x, false, |s| {
                Some((s.launch_ms?.p50, s.launch_p50_ms_interval))
            }));
            let title = format!("One launch, {}: {}", along.what, (along.name)(key));
            let id = format!("{}-{}-{}", along.id, key.0, key.1);
            figure(
                page,
                &title,
                "From due to there, of containers that started. Line: median, with its interval; dashed: 99th percentile.",
                |page| {
                    let about = "One line a way of mounting: the median launch time and its interval, and the 99th percentile dashed. The table of figures has the numbers.";
                    lines(
                        page,
                        &Lines {
                            id: &id,
                            title: &title,
                            about,
                            x: along.axis,
                            y: "launch time",
                            series: of,
                            show: show::ms,
                            from_to: None,
                        },
                    );
                },
            );
        }
    }
}

fn success(page: &mut String, measured: &[&Summary], ways: &Ways) {
    let (launches, failed) = measured
        .iter()
        .fold((0_u64, 0_u64), |(l, f), s| (l.saturating_add(s.launches), f.saturating_add(s.failed)));
    let said = match failed {
        0 => format!("All {} launches started in time.", show::whole(launches)),
        _ => format!("{} of {} launches failed.", show::whole(failed), show::whole(launches)),
    };
    let mut sets = sets(measured, &ALONG[0]);
    if failed == 0 {
        sets.truncate(1);
    }
    if sets.is_empty() {
        let of: Vec<Row> = heaviest(measured, ways)
            .iter()
            .map(|s| Row {
                way: ways.position(s),
                name: ways.name(ways.position(s)).to_owned(),
                value: s.success_rate.map_or_else(|| show::NOTHING.to_owned(), show::percent),
                main: s.success_rate,
                range: s.success_rate.map(|rate| (0.0, rate)),
                ..Row::default()
            })
            .collect();
        figure(page, "How many started", &said, |page| {
            let about = "One row a way of mounting: the share of launches that started in time.";
            rows(page, &Rows { id: "success", title: "Success rate", about, rows: of, show: show::percent });
        });
        return;
    }
    for (key, set) in sets {
        let of = series(&set, ways, ALONG[0].x, false, |s| Some((s.success_rate?, None)));
        let title = format!("How many started, by how many start at once: {}", (ALONG[0].name)(key));
        let id = format!("success-{}-{}", key.0, key.1);
        figure(page, &title, &format!("Share of launches that were there in time. {said}"), |page| {
            let about = "One line a way of mounting: the share of launches that started in time.";
            lines(
                page,
                &Lines {
                    id: &id,
                    title: &title,
                    about,
                    x: ALONG[0].axis,
                    y: "started in time",
                    series: of,
                    show: show::percent,
                    from_to: Some((0.0, 1.0)),
                },
            );
        });
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of mounts")]
fn operations(page: &mut String, measured: &[&Summary], ways: &Ways) {
    let arms = heaviest(measured, ways);
    let each = |s: &Summary, one: Option<u64>, other: Option<u64>| {
        Some(one?.saturating_add(other?) as f64 / s.containers.max(1) as f64)
    };
    let of: Vec<Bar> = arms
        .iter()
        .map(|s| Bar {
            way: ways.position(s),
            name: ways.name(ways.position(s)).to_owned(),
            full: s.mount_ops.and_then(|m| each(s, Some(m.host_attach), Some(m.host_detach))),
            hollow: s.mount_ops.and_then(|m| each(s, m.attach, m.detach)),
        })
        .collect();
    let Some(first) = arms.first() else { return };
    figure(
        page,
        "Mount operations a container",
        &format!(
            "Attached and detached, of one container ({}). Each one of the host's table takes the kernel's global mount \
             locks and wakes whoever watches that table.",
            show::count(first.layers, "layer", "layers")
        ),
        |page| {
            let about =
                "Two bars a way of mounting: operations in the host's mount table, and in any namespace.";
            let words = ["in the host's table", "in any namespace"];
            bars(page, "operations", "Mount operations of one container", about, words, &of);
        },
    );
}

/// One of those who have nothing to do with the storm.
struct Bystander {
    id: &'static str,
    title: &'static str,
    caption: &'static str,
    of: fn(&Summary) -> Option<Quantiles>,
    show: fn(f64) -> String,
}

const BYSTANDERS: [Bystander; 2] = [
    Bystander {
        id: "health",
        title: "Reading the mount table meanwhile",
        caption: "As health checks of node agents do, now and then. Marker: 99th percentile; line: median to longest.",
        of: |s| s.health_ms.map(|h| h.quantiles),
        show: show::ms,
    },
    Bystander {
        id: "walk",
        title: "Looking up a path meanwhile",
        caption: "As every program does, all the time. Marker: 99th percentile; line: median to longest.",
        of: |s| s.path_walk_us,
        show: show::us,
    },
];

fn bystanders(page: &mut String, measured: &[&Summary], ways: &Ways) {
    let arms = heaviest(measured, ways);
    for bystander in &BYSTANDERS {
        let row = |s: &&Summary| {
            let q = (bystander.of)(s)?;
            Some(Row {
                way: ways.position(s),
                name: ways.name(ways.position(s)).to_owned(),
                value: (bystander.show)(q.p99),
                main: Some(q.p99),
                range: Some((q.p50, q.max)),
                strokes: vec![q.p50, q.max],
                ..Row::default()
            })
        };
        let of: Vec<Row> = arms.iter().filter_map(row).collect();
        if of.is_empty() {
            continue;
        }
        figure(page, bystander.title, bystander.caption, |page| {
            let about = "One row a way of mounting: median, 99th percentile and longest. The table of figures has the numbers.";
            rows(
                page,
                &Rows { id: bystander.id, title: bystander.title, about, rows: of, show: bystander.show },
            );
        });
    }
    let row = |s: &&Summary| {
        let watcher = s.watcher?;
        Some(Row {
            way: ways.position(s),
            name: ways.name(ways.position(s)).to_owned(),
            value: format!("{}, CPU {}", show::ms(watcher.lag_max_ms), show::ms(watcher.cpu_ms)),
            main: Some(watcher.lag_max_ms),
            range: (watcher.lag_max_ms > 0.0).then_some((0.0, watcher.lag_max_ms)),
            ..Row::default()
        })
    };
    let of: Vec<Row> = arms.iter().filter_map(row).collect();
    if !of.is_empty() {
        figure(
            page,
            "Following every change of the mount table",
            "As PID 1 does: the longest from a change to the end of the reading that shows it, and the CPU time all readings of a round took.",
            |page| {
                let about =
                    "One row a way of mounting: the longest lag of a reader that follows every change.";
                rows(
                    page,
                    &Rows {
                        id: "watcher",
                        title: "Lag of a reader of every change",
                        about,
                        rows: of,
                        show: show::ms,
                    },
                );
            },
        );
    }
}
