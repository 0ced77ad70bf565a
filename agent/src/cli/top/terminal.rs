//! Sets the terminal up, and restores it however the command ends: by a key, an error, a panic or a signal.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::{SfdFlags, SignalFd},
        termios::{FlushArg, SetArg, tcflush, tcgetattr, tcsetattr},
    },
    unistd::write,
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

/// How long the loop may take to end after a signal: it is blocked while the terminal takes no output.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often output that the terminal does not take is dropped, and how long the loop may take to end each time.
const DROPS: u32 = 5;
const DROP_INTERVAL: Duration = Duration::from_millis(50);

/// Signals that end the command. They are blocked while this exists, in all threads that start meanwhile.
///
/// A thread receives them. The loop ends the command, and restores the terminal first. If it does not, because a stopped
/// terminal or a hanging connection takes no output, the thread does both, as far as it can.
pub struct EndSignals {
    blocked: SigSet,
    /// The number of the signal that has arrived; 0 before.
    arrived: Arc<AtomicI32>,
}

impl EndSignals {
    /// Blocks them, instead of a handler (`signal-hook`): the process must die of the signal as it does by default, also
    /// while the loop hangs in a write. Call it before other threads start.
    pub fn block() -> anyhow::Result<Self> {
        let mut blocked = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            blocked.add(signal);
        }
        blocked.thread_block().context("cannot block signals")?;
        let received = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC)
            .context("cannot receive signals")?;
        let arrived = Arc::new(AtomicI32::new(0));
        let signals = Self { blocked, arrived: Arc::clone(&arrived) };
        // It ends with the process.
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || end_after_signal(&received, Self { blocked, arrived }))
            .context("cannot start a thread")?;
        Ok(signals)
    }

    /// A signal that has arrived.
    pub fn arrived(&self) -> Option<Signal> {
        Signal::try_from(self.arrived.load(Ordering::Acquire)).ok()
    }

    /// Ends this process as the signal does by default. Returns only if it does not.
    pub fn die_of(self, signal: Signal) -> io::Result<()> {
        self.blocked.thread_unblock()?;
        raise(signal)?;
        Ok(())
    }
}

/// Waits for a signal, and then for the loop, which ends the process; ends it after [`END_TIMEOUT`] in its place.
fn end_after_signal(received: &SignalFd, signals: EndSignals) {
    let signal = loop {
        match received.read_signal() {
            Ok(Some(signal)) => {
                let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
                if let Ok(signal) = Signal::try_from(number) {
                    break signal;
                }
            }
            Ok(None) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    };
    signals.arrived.store(signal as i32, Ordering::Release);
    thread::sleep(END_TIMEOUT);
    let _ = disable_raw_mode();
    for _ in 0..DROPS {
        drop_output();
        thread::sleep(DROP_INTERVAL);
    }
    leave_screen();
    let _ = signals.die_of(signal);
}

/// Leaves the screen if the terminal takes output after all. It waits for nothing: the loop, or another process, may be
/// writing to the terminal.
fn leave_screen() {
    let mut sequence = Vec::new();
    let _ = execute!(sequence, LeaveAlternateScreen, Show);
    let stdout = stdout();
    let Ok(flags) = fcntl(&stdout, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) else { return };
    if fcntl(&stdout, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).is_ok() {
        let _ = write(&stdout, &sequence);
        // The shell has the same open terminal.
        let _ = fcntl(&stdout, FcntlArg::F_SETFL(flags));
    }
}

/// Drops what the terminal has not taken. Setting its modes again wakes the thread that waits to write, so that the loop
/// may still end as it should (`n_tty_set_termios` in the kernel's drivers/tty/n_tty.c).
fn drop_output() {
    let _ = tcflush(stdout(), FlushArg::TCOFLUSH);
    if let Ok(modes) = tcgetattr(stdout()) {
        let _ = tcsetattr(stdout(), SetArg::TCSANOW, &modes);
    }
}
