//! Progress on standard error, only where a person watches it.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Draws progress, or nothing at all when nobody watches.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Progress on standard error if it is a terminal and `wanted`.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { bars: (wanted && std::io::stderr().is_terminal()).then(MultiProgress::new) }
    }

    /// A bar that counts bytes up to `total`.
    #[must_use]
    pub fn bytes(&self, label: &str, total: u64) -> ProgressBar {
        self.bar(
            label,
            total,
            "{prefix:<24} {bar:24} {bytes:>10} / {total_bytes:>10} {bytes_per_sec:>12} {msg}",
        )
    }

    /// A bar that counts things up to `total`.
    #[must_use]
    pub fn count(&self, label: &str, total: u64) -> ProgressBar {
        self.bar(label, total, "{prefix:<24} {bar:24} {pos:>10} / {len:>10} {elapsed:>12} {msg}")
    }

    /// A spinner with a message.
    #[must_use]
    pub fn spinner(&self, label: &str) -> ProgressBar {
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{prefix:<24} {spinner} {elapsed:>6} {msg}"));
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn bar(&self, label: &str, total: u64, template: &str) -> ProgressBar {
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new(total));
        bar.set_style(style(template));
        bar.set_prefix(label.to_owned());
        bar
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
