//! Sets the terminal up, and restores it however the command ends: by a key, an error, a panic or a signal.

use std::{
    io::{self, Stdout, stdout},
    panic,
};

use anyhow::Context as _;
use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// A terminal in raw mode with its alternate screen, until this is dropped.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub fn open() -> anyhow::Result<Self> {
        // Before the mode changes, so that no panic leaves it.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        enable_raw_mode().context("cannot set up the terminal")?;
        // From here on dropping it restores the terminal.
        let mut screen = Self { terminal: Terminal::new(CrosstermBackend::new(stdout()))? };
        execute!(stdout(), EnterAlternateScreen).context("cannot set up the terminal")?;
        screen.clear()?;
        Ok(screen)
    }

    /// Has all of the screen drawn the next time. Unlike `Terminal::clear` it does not ask the terminal where the
    /// cursor is, which a terminal need not answer.
    pub fn clear(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal as far as it still exists.
fn restore() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Signals that end the command. They are blocked while this exists, in all threads that start meanwhile.
pub struct EndSignals {
    blocked: SigSet,
    received: SignalFd,
}

impl EndSignals {
    /// Call it before other threads start.
    pub fn block() -> anyhow::Result<Self> {
        let mut blocked = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            blocked.add(signal);
        }
        blocked.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let received = SignalFd::with_flags(&blocked, flags).context("cannot receive signals")?;
        Ok(Self { blocked, received })
    }

    /// A signal that has arrived.
    pub fn arrived(&self) -> Option<Signal> {
        let signal = self.received.read_signal().ok().flatten()?;
        i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
    }

    /// Ends this process as the signal does by default. Returns only if it does not.
    pub fn die_of(self, signal: Signal) -> io::Result<()> {
        self.blocked.thread_unblock()?;
        raise(signal)?;
        Ok(())
    }
}
