//! Output for people: colours if standard output is a terminal, tables, bars, progress.
//!
//! All tasks print through it. It knows no task.

mod bars;
mod progress;
mod table;

pub(crate) use self::{bars::bars, progress::Progress, table::table};

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    sync::LazyLock,
    time::Duration,
};

/// An ANSI "select graphic rendition" code.
#[derive(Clone, Copy)]
pub(crate) struct Colour(&'static str);

pub(crate) const BOLD: Colour = Colour("1");
pub(crate) const DIM: Colour = Colour("2");
pub(crate) const RED: Colour = Colour("31");
pub(crate) const GREEN: Colour = Colour("32");
pub(crate) const YELLOW: Colour = Colour("33");
pub(crate) const CYAN: Colour = Colour("36");
const HEADING: Colour = Colour("1;36");

static COLOURED: LazyLock<bool> =
    LazyLock::new(|| stdout().is_terminal() && env::var_os("NO_COLOR").is_none());

/// The text in a colour, or unchanged if standard output is not a terminal.
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    if *COLOURED { format!("\x1b[{}m{text}\x1b[0m", colour.0) } else { text.to_owned() }
}

/// Prints that something was found or done.
pub(crate) fn ok(name: &str, what: &str) {
    println!("  {} {name:<16} {what}", paint(GREEN, "✓"));
}

/// Prints that something starts that may take a while.
pub(crate) fn doing(name: &str, what: &str) {
    println!("  {} {name:<16} {what}", paint(CYAN, "…"));
    let _ = stdout().flush();
}

/// Prints the heading of a numbered section.
pub(crate) fn section(number: usize, title: &str) {
    println!("\n{}\n", paint(HEADING, &format!("{number}  {title}")));
}

/// A duration with a unit that suits it.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        format!("{} µs", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
