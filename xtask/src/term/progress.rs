//! How far a long task has come, on one line of a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Cleared from the terminal when dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A task of this many steps.
    pub(crate) fn new(name: &str, steps: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stdout());
        let style =
            ProgressStyle::with_template("  {prefix:<18} {wide_bar:.cyan} {pos}/{len} {msg}")
                .expect("the template above is correct");
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        Self(bar)
    }

    /// So many steps are done.
    pub(crate) fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }

    /// One more step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Shows text behind the bar, in place of an earlier one.
    pub(crate) fn message(&self, text: String) {
        self.0.set_message(text);
    }

    /// Prints something while the bar is out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
