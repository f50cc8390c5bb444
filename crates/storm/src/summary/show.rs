//! Figures as people read them. The table on the terminal and the one on the page are made here, of the same text.

use super::Summary;
use crate::arm::{Arm, UserNs};
use crate::stats::{Interval, Quantiles};

/// Nothing was measured.
pub const NOTHING: &str = "-";

/// Milliseconds: `0.62 ms`, `31.4 ms`, `812 ms`, `2.10 s`, `4 min 10 s`.
#[must_use]
pub fn ms(ms: f64) -> String {
    match ms {
        m if !m.is_finite() => NOTHING.to_owned(),
        m if m < 9.995 => format!("{m:.2} ms"),
        m if m < 99.95 => format!("{m:.1} ms"),
        m if m < 999.5 => format!("{m:.0} ms"),
        m if m < 99_950.0 => format!("{} s", significant(m / 1000.0)),
        m if m < 1e9 => {
            format!("{:.0} min {:.0} s", (m / 60_000.0).floor(), ((m % 60_000.0) / 1000.0).floor())
        }
        m => format!("{:.1e} s", m / 1000.0),
    }
}

/// Microseconds: `1.24 us`, `31.4 us`; from a thousand on as [`ms`] has it.
#[must_use]
pub fn us(us: f64) -> String {
    match us {
        u if !u.is_finite() => NOTHING.to_owned(),
        u if u < 999.5 => format!("{} us", significant(u)),
        u => ms(u / 1000.0),
    }
}

/// Times as much: `1.03 x`, `12.4 x`, `230 x`.
#[must_use]
pub fn times(ratio: f64) -> String {
    format!("{} x", significant(ratio))
}

/// A share: `0 %`, `0.4 %`, `12 %`; never `100 %` of what is less.
#[must_use]
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if !p.is_finite() => NOTHING.to_owned(),
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.1 => "< 0.1 %".to_owned(),
        p if p < 9.95 => format!("{p:.1} %"),
        p if p > 99.0 && p < 100.0 => format!("{:.1} %", (p * 10.0).floor() / 10.0),
        p => format!("{p:.0} %"),
    }
}

/// Three digits that matter, thousands parted: `0.12`, `1.24`, `31.4`, `812`, `20,200`.
#[must_use]
pub fn significant(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => NOTHING.to_owned(),
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        v if v < 1e15 => thousands(&format!("{value:.0}")),
        _ => format!("{value:.1e}"),
    }
}

/// A count, thousands parted.
#[must_use]
pub fn whole(count: u64) -> String {
    thousands(&count.to_string())
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 round`, `7 rounds`.
#[must_use]
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", whole(n as u64), if n == 1 { one } else { many })
}

/// From here to there: `1.02 x to 1.13 x`.
#[must_use]
pub fn interval(interval: &Interval, show: impl Fn(f64) -> String) -> String {
    let sure = if interval.confidence < 0.949 {
        format!(" ({})", percent(interval.confidence))
    } else {
        String::new()
    };
    format!("{} to {}{sure}", show(interval.lo), show(interval.hi))
}

/// The same on an axis, where values are round: `1 ms`, not `1.00 ms`.
#[must_use]
pub fn tick(shown: &str) -> String {
    let (number, unit) = shown.split_once(' ').unwrap_or((shown, ""));
    let number = match number.split_once('.') {
        Some((whole, rest)) => {
            format!("{whole}.{rest}").trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        None => number.to_owned(),
    };
    format!("{number} {unit}").trim_end().to_owned()
}

/// A count a container: whole if it is, else to three digits.
#[must_use]
pub fn each(count: f64) -> String {
    if count.fract() == 0.0 && count.abs() < 1e15 {
        thousands(&format!("{count:.0}"))
    } else {
        significant(count)
    }
}

/// Who or what made the root file systems, and from what: `per-layer over layers x 2`.
#[must_use]
pub fn way(summary: &Summary) -> String {
    let mut text = summary.launcher.to_string();
    if let Some(mechanism) = summary.mechanism {
        text.push(' ');
        text.push_str(mechanism.name());
    }
    if let Some(lower) = summary.lower {
        text.push_str(" over ");
        text.push_str(lower.name());
    }
    if let Some(snapshotter) = &summary.snapshotter {
        text.push(' ');
        text.push_str(snapshotter);
    }
    if summary.passes != 1 {
        text.push_str(&format!(" x {}", summary.passes));
    }
    if summary.userns == UserNs::Host {
        text.push_str(" with host users");
    }
    if let Some(admission) = summary.admission {
        text.push_str(&format!(", {admission} admitted"));
    }
    if summary.one_cache {
        text.push_str(" on one cache");
    }
    text
}

/// The arm a summary is of.
#[must_use]
pub fn arm(summary: &Summary) -> Arm {
    Arm {
        launcher: summary.launcher,
        mechanism: summary.mechanism,
        lower: summary.lower,
        snapshotter: summary.snapshotter.clone(),
        userns: summary.userns,
        passes: summary.passes,
        layers: summary.layers,
        containers: summary.containers,
        concurrency: summary.concurrency,
        admission: summary.admission,
        one_cache: summary.one_cache,
    }
}

/// One column of the table of figures.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// What it holds, in a few words.
    pub about: &'static str,
    /// Where the JSON object has the figure: `/launch_ms/p50`.
    pub json: &'static str,
    /// What is shown.
    pub cell: fn(&Summary) -> String,
}

/// The table of figures.
pub const COLUMNS: [Column; 15] = [
    Column { head: "ARM", about: "launcher, mechanism, lower source", json: "/launcher", cell: way },
    Column { head: "LAYERS", about: "of the image", json: "/layers", cell: |s| whole(s.layers as u64) },
    Column {
        head: "CONTAINERS",
        about: "of one round",
        json: "/containers",
        cell: |s| whole(s.containers as u64),
    },
    Column {
        head: "AT ONCE",
        about: "starting at a time",
        json: "/concurrency",
        cell: |s| whole(s.concurrency as u64),
    },
    Column { head: "FAILED", about: "launches, of all rounds", json: "/failed", cell: |s| whole(s.failed) },
    Column {
        head: "WALL",
        about: "one round, median",
        json: "/wall_ms",
        cell: |s| s.wall_ms.map_or_else(nothing, ms),
    },
    Column {
        head: "95 %",
        about: "interval of the wall time",
        json: "/wall_ms_interval",
        cell: |s| match (s.wall_ms_interval, s.interval_confidence) {
            (Some(i), Some(confidence)) => interval(&Interval { confidence, ..i }, ms),
            _ => nothing(),
        },
    },
    Column {
        head: "P50",
        about: "launch, median",
        json: "/launch_ms/p50",
        cell: |s| quantile(s.launch_ms, |q| q.p50, ms),
    },
    Column {
        head: "P99",
        about: "launch, 99th percentile",
        json: "/launch_ms/p99",
        cell: |s| quantile(s.launch_ms, |q| q.p99, ms),
    },
    Column {
        head: "MOUNTS",
        about: "attached in any namespace, a round",
        json: "/mount_ops/attach",
        cell: |s| s.mount_ops.and_then(|m| m.attach).map_or_else(nothing, whole),
    },
    Column {
        head: "HOST",
        about: "attached in the host's table, a round",
        json: "/mount_ops/host_attach",
        cell: |s| s.mount_ops.map_or_else(nothing, |m| whole(m.host_attach)),
    },
    Column {
        head: "PEAK",
        about: "most mounts in the host's table",
        json: "/mount_table_peak",
        cell: |s| s.mount_table_peak.map_or_else(nothing, |peak| whole(peak as u64)),
    },
    Column {
        head: "HEALTH",
        about: "reading the mount table meanwhile, 99th percentile",
        json: "/health_ms/p99",
        cell: |s| quantile(s.health_ms.map(|h| h.quantiles), |q| q.p99, ms),
    },
    Column {
        head: "LOOKUP",
        about: "of a path meanwhile, 99th percentile",
        json: "/path_walk_us/p99",
        cell: |s| quantile(s.path_walk_us, |q| q.p99, us),
    },
    Column {
        head: "WATCHER",
        about: "longest lag of a reader that follows every change",
        json: "/watcher/lag_max_ms",
        cell: |s| s.watcher.map_or_else(nothing, |w| ms(w.lag_max_ms)),
    },
];

fn nothing() -> String {
    NOTHING.to_owned()
}

fn quantile(
    quantiles: Option<Quantiles>,
    which: impl Fn(Quantiles) -> f64,
    show: impl Fn(f64) -> String,
) -> String {
    quantiles.map_or_else(nothing, |q| show(which(q)))
}

/// Columns of text, aligned, two spaces between.
#[must_use]
pub fn table<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let all = || std::iter::once(head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in all() {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}
