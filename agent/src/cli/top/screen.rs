//! The loop on a terminal: keys, and samples that another thread reads.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    reader::Reader,
    sample::Sample,
    state::{Reaction, State},
    terminal::{EndSignals, Screen},
    view::{self, Palette, Purpose},
};
use crate::dataplane::ServiceKey;

/// How long to wait for a key before looking for samples and signals.
const POLL: Duration = Duration::from_millis(50);

/// The opened service port, whose backends are read.
type SharedSelection = Arc<Mutex<Option<ServiceKey>>>;

/// Runs until a key or a signal ends it.
pub fn run(mut state: State, reader: Reader) -> anyhow::Result<()> {
    let signals = EndSignals::block()?;
    let selection = SharedSelection::default();
    let (samples, read) = mpsc::channel();
    let (wake, woken) = mpsc::channel();
    let sampling =
        Sampling { reader, selection: Arc::clone(&selection), samples, interval: state.interval };
    // It ends with the process: nobody waits for a reading.
    thread::Builder::new()
        .name("sampling".to_owned())
        .spawn(move || sampling.run(&woken))
        .context("cannot start a thread")?;
    let mut screen = Screen::open()?;
    let palette = palette();
    let mut is_stale = true;
    loop {
        if is_stale {
            screen.terminal.draw(|frame| {
                view::draw(&state, &palette, Purpose::Screen, frame.buffer_mut());
            })?;
        }
        is_stale = false;
        if let Some(signal) = signals.arrived() {
            drop(screen);
            return Ok(signals.die_of(signal)?);
        }
        loop {
            match read.try_recv() {
                Ok(Ok(sample)) => state.apply(sample),
                Ok(Err(error)) => state.fail(error),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => anyhow::bail!("the counters are read no more"),
            }
            is_stale = true;
        }
        if !event::poll(POLL).context("cannot read keys")? {
            continue;
        }
        is_stale = true;
        let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match state.press(key) {
            Reaction::None => {}
            Reaction::Clear | Reaction::Read => {
                let opened = state.opened().cloned();
                *selection.lock().unwrap_or_else(PoisonError::into_inner) = opened;
                screen.clear()?;
                // A thread that has ended is found where samples are received.
                let _ = wake.send(());
            }
            Reaction::Quit => return Ok(()),
        }
    }
}

/// Colours, unless the user wants none (<https://no-color.org>).
fn palette() -> Palette {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_unwanted { Palette::PLAIN } else { Palette::COLOURED }
}

struct Sampling {
    reader: Reader,
    selection: SharedSelection,
    samples: Sender<Result<Sample, String>>,
    interval: Duration,
}

impl Sampling {
    /// Reads a sample in each interval, and backends at once when they are opened.
    fn run(mut self, woken: &Receiver<()>) {
        let mut due = Instant::now() + self.interval;
        loop {
            let sample = match woken.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(()) => match self.selected() {
                    Some(key) => self.reader.read_opened(&key),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout) => {
                    let selected = self.selected();
                    let sample = self.reader.read(selected.as_ref());
                    // However long that took, the next one is not at once.
                    due = Instant::now() + self.interval;
                    sample
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.samples.send(sample.map_err(|error| format!("{error:#}"))).is_err() {
                return;
            }
        }
    }

    fn selected(&self) -> Option<ServiceKey> {
        self.selection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
