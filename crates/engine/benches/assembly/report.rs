//! Samples, medians, and the table at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::bed::Bed;

/// Which side of a target is good.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

struct Row {
    what: String,
    target: Target,
    measured: f64,
}

pub(crate) struct Report {
    samples: BTreeMap<String, Vec<f64>>,
    rows: Vec<Row>,
    conditions: serde_json::Value,
}

impl Report {
    pub(crate) fn new(bed: &Bed) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let conditions = json!({
            "kernel": read("/proc/sys/kernel/osrelease"),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "load": read("/proc/loadavg"),
            "mechanism": bed.chosen().name(),
            "optimised": !cfg!(debug_assertions),
        });
        println!("{conditions}");
        Self { samples: BTreeMap::new(), rows: Vec::new(), conditions }
    }

    /// Keeps a sample, in microseconds.
    pub(crate) fn sample(&mut self, arm: &str, time: Duration) {
        self.samples.entry(arm.to_owned()).or_default().push(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn quantile(&self, arm: &str, q: f64) -> f64 {
        let mut sorted = self.samples.get(arm).cloned().unwrap_or_default();
        sorted.sort_by(f64::total_cmp);
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// Prints the medians of some arms.
    pub(crate) fn show(&self, heading: &str, arms: &[String]) {
        println!("\n{heading}");
        for arm in arms {
            let count = self.samples.get(arm).map_or(0, Vec::len);
            let [p10, p50, p90] = [0.1, 0.5, 0.9].map(|q| self.quantile(arm, q));
            println!(
                "  {arm:44} p10 {p10:>10.1} us  p50 {p50:>10.1} us  p90 {p90:>10.1} us  ({count} samples)"
            );
        }
    }

    /// Holds the ratio of two arms' medians against a target.
    pub(crate) fn ratio(&mut self, what: &str, arm: &str, base: &str, target: Target) {
        let measured = self.quantile(arm, 0.5) / self.quantile(base, 0.5);
        self.rows.push(Row { what: what.to_owned(), target, measured });
    }

    pub(crate) fn print(&self) {
        println!("\n{:66} {:>10} {:>10}", "ratio of medians", "target", "measured");
        for Row { what, target, measured } in &self.rows {
            let (sign, bound, good) = match *target {
                Target::AtMost(bound) => ("<=", bound, *measured <= bound),
                Target::AtLeast(bound) => (">=", bound, *measured >= bound),
            };
            let verdict = if good { "pass" } else { "MISS" };
            println!("{what:66} {:>10} {measured:>10.2} {verdict}", format!("{sign} {bound:.2}"));
        }
    }

    pub(crate) fn raw(&self) -> String {
        let row = |row: &Row| match row.target {
            Target::AtMost(bound) => json!({"what": row.what, "measured": row.measured, "at_most": bound}),
            Target::AtLeast(bound) => json!({"what": row.what, "measured": row.measured, "at_least": bound}),
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({"conditions": self.conditions, "ratios": rows, "samples_us": self.samples}).to_string()
    }
}
