//! The progress of a dump, on a terminal.

use std::time::Duration;

use cedana_api::v1;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line is drawn.
const PERIOD: Duration = Duration::from_millis(100);

/// A line on stderr, if that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg} {binary_bytes} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message("waiting");
        bar.enable_steady_tick(PERIOD);
        Self(bar)
    }

    /// Shows how far it is.
    pub(crate) fn show(&self, progress: &v1::Progress) {
        let (what, bytes) = match progress.phase() {
            v1::Phase::Unspecified => ("working", progress.done_bytes),
            v1::Phase::Dump => ("dumping", progress.raw_bytes),
            v1::Phase::Compress => ("compressing", progress.done_bytes),
            v1::Phase::Sync => ("writing", progress.stored_bytes),
        };
        self.0.set_message(what);
        self.0.set_position(bytes);
    }

    /// Shows how far a transfer is, whose phases are `what` and the writing to disk.
    pub(crate) fn show_as(&self, what: &'static str, progress: &v1::Progress) {
        self.0.set_message(match progress.phase() {
            v1::Phase::Sync => "writing",
            _ => what,
        });
        self.0.set_position(progress.done_bytes);
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
