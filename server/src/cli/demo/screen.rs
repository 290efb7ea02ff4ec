//! A progress bar with lines above it; without a terminal, lines alone.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{self, grouped};

const TEMPLATE: &str = "  {bar:40} {msg}";

#[derive(Clone)]
pub struct Screen {
    bar: ProgressBar,
    total: u64,
    /// The last tenth that was told of without a bar.
    tenth: Arc<AtomicU64>,
}

impl Screen {
    pub fn new(total: u64, done: u64) -> Screen {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        // The template is constant; a test draws it.
        bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        Screen { bar, total, tenth: Arc::new(AtomicU64::new(done * 10 / total)) }
    }

    /// A line above the bar.
    pub fn say(&self, text: impl Display) {
        self.bar.suspend(|| output::line(text));
    }

    pub fn advance(&self, rows: u64, seen: u64) {
        let text = format!("{} of {} rows; the subscription saw {}", grouped(rows), grouped(self.total), grouped(seen));
        let tenth = rows * 10 / self.total;
        if self.bar.is_hidden() && self.tenth.swap(tenth, Ordering::Relaxed) < tenth {
            output::line(format_args!("  rows   {text}"));
        }
        self.bar.set_message(text);
        self.bar.set_position(rows);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bar_can_be_drawn() {
        assert!(indicatif::ProgressStyle::with_template(super::TEMPLATE).is_ok());
    }
}
