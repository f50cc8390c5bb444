//! A square of values between CPUs, in a stronger colour where it takes longer.

use super::super::html::put;
use super::{WIDTH, close, open, text};
use crate::summary::show;

/// Shades; more are not told apart.
const SHADES: usize = 8;
/// Squares of so many CPUs carry their numbers.
const NUMBERED: usize = 9;
/// CPUs whose names fit beside.
const NAMED: usize = 32;

/// Draws nanoseconds from every CPU to every other; none where nothing was measured.
pub(in crate::report) fn heat(
    page: &mut String,
    id: &str,
    title: &str,
    about: &str,
    cpus: &[u32],
    ns: &[Vec<Option<f64>>],
) {
    let count = cpus.len().max(1);
    let known: Vec<f64> =
        ns.iter().flatten().flatten().copied().filter(|v| v.is_finite() && *v > 0.0).collect();
    let least = known.iter().copied().fold(f64::INFINITY, f64::min);
    let most = known.iter().copied().fold(0.0, f64::max);
    let left = 30.0;
    #[expect(clippy::cast_precision_loss, reason = "CPUs of a machine")]
    let side = ((WIDTH - left - 6.0) / count as f64).min(60.0);
    #[expect(clippy::cast_precision_loss, reason = "CPUs of a machine")]
    let place = |at: usize| at as f64 * side;
    let top = 22.0;
    open(page, id, top + place(count) + 34.0, title, about);
    let every = count.div_ceil(NAMED).max(1);
    for (at, cpu) in cpus.iter().enumerate().step_by(every) {
        text(page, "tick", "middle", left + place(at) + side / 2.0, top - 6.0, &cpu.to_string());
        text(page, "tick", "end", left - 5.0, top + place(at) + side / 2.0 + 3.5, &cpu.to_string());
    }
    let mut shades = vec![String::new(); SHADES];
    let mut numbers = String::new();
    for (row, values) in ns.iter().take(count).enumerate() {
        for (column, value) in values.iter().take(count).enumerate() {
            let Some(value) = value.filter(|v| v.is_finite() && *v > 0.0) else { continue };
            let shade = shade(value, least, most);
            let (x, y) = (left + place(column), top + place(row));
            put!(shades[shade], "M{x:.1} {y:.1}h{side:.1}v{side:.1}h-{side:.1}z");
            if count <= NUMBERED {
                let class = if shade * 2 >= SHADES { "on-dark" } else { "on-light" };
                text(
                    &mut numbers,
                    class,
                    "middle",
                    x + side / 2.0,
                    y + side / 2.0 + 4.0,
                    &show::significant(value),
                );
            }
        }
    }
    for (shade, path) in shades.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        put!(page, "<path class=\"heat h{shade}\" d=\"{path}\"/>\n");
    }
    page.push_str(&numbers);
    let y = top + place(count) + 10.0;
    if most > 0.0 {
        for shade in 0..SHADES {
            #[expect(clippy::cast_precision_loss, reason = "eight shades")]
            let x = left + 70.0 + shade as f64 * 16.0;
            put!(page, "<path class=\"heat h{shade}\" d=\"M{x:.1} {y:.1}h16v10h-16z\"/>\n");
        }
        text(page, "tick", "end", left + 64.0, y + 9.0, &format!("{} ns", show::significant(least)));
        text(page, "tick", "start", left + 204.0, y + 9.0, &format!("{} ns", show::significant(most)));
    }
    close(page);
}

/// By ratio, since distances between caches differ by factors.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between 0 and the number of shades"
)]
fn shade(value: f64, least: f64, most: f64) -> usize {
    if most <= least * 1.02 {
        return 1;
    }
    let along = ((value / least).ln() / (most / least).ln()).clamp(0.0, 1.0);
    ((along * SHADES as f64) as usize).min(SHADES - 1)
}
