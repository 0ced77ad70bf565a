//! `sockline top`: the services of this node by traffic, live.
//!
//! `sample` is what one reading of the maps found, `reader` reads it, and `clients` names and sums up the clients in it.
//! `table` makes rates and rows of samples, `state` has what is shown and what keys do; both are pure. `view` draws a
//! state into a buffer, with the columns of `columns` and the split by `classes`, and is pure as well; `plain` turns a
//! buffer into text. `screen` runs the loop on a terminal, `terminal` sets it up and restores it.

mod classes;
mod clients;
pub mod columns;
pub mod plain;
mod reader;
pub mod sample;
mod screen;
pub mod state;
pub mod table;
mod terminal;
pub mod view;

use std::{
    io::{IsTerminal as _, stdout},
    thread,
    time::Duration,
};

use clap::Args;
use ratatui::{buffer::Buffer, layout::Rect};

use self::{
    reader::Reader,
    state::State,
    view::{Palette, Purpose},
};
use super::{node::StateArgs, output::print};
use crate::duration;

/// Watch the services of this node: connections per second, failures, round-trip times and bytes.
///
/// Each row is a service port. Enter shows its backends and its clients, and how the traffic is split between this node,
/// its zone and other zones; `?` shows the keys and the meaning of the columns. A connection's round-trip time is counted
/// when it ends, its bytes also about every 10 s while it is open.
///
/// Reads the pinned maps, so it also works while the agent is down; clients have no names then.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// How often to read the counters
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Print one frame as text, after one interval, and exit
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    node: StateArgs,
}

const MIN_INTERVAL: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < MIN_INTERVAL {
        return Err(format!("it must be at least {}", duration::format(MIN_INTERVAL)));
    }
    Ok(interval)
}

/// # Errors
/// When nothing is pinned or the maps cannot be read at the start, or standard output is no terminal.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    // Errors at the start are shown as those of other commands.
    let mut reader = Reader::new(&args.node);
    let first = reader.read(None)?;
    let mut state = State::new(args.interval);
    state.apply(first);
    if args.once {
        thread::sleep(args.interval);
        state.apply(reader.read(None)?);
        return print(&frame(&state));
    }
    anyhow::ensure!(
        stdout().is_terminal(),
        "standard output is not a terminal; --once prints one frame as text"
    );
    screen::run(state, reader)
}

/// The width of a frame that is not for a terminal.
const WIDTH: u16 = 120;

/// One frame with all rows.
fn frame(state: &State) -> String {
    let width = match ratatui::crossterm::terminal::size() {
        Ok((columns, _)) if stdout().is_terminal() && columns > 0 => columns,
        _ => WIDTH,
    };
    let area = Rect::new(0, 0, width, view::height(state));
    let mut buffer = Buffer::empty(area);
    view::draw(state, &Palette::PLAIN, Purpose::Text, &mut buffer);
    plain::text(&buffer)
}
