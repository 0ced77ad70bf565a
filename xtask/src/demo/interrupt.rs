//! Ctrl-C as something the demo notices between two steps, so that it cleans up on its way out.

use std::{
    io, process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// The exit status of a shell command that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Becomes true with the first SIGINT or SIGTERM. A second one ends the process on the spot; the
/// next test or demo then removes what it left.
#[derive(Clone)]
pub(super) struct Interrupt {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes over both signals. Call it while the process has one thread: later ones inherit that
    /// the signals are blocked, and child processes do not.
    pub(super) fn install() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("blocking SIGINT and SIGTERM")?;
        let interrupt = Self { shared: Arc::default() };
        let seen = interrupt.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while signals.wait().is_ok() {
                if *seen.flag() {
                    process::exit(INTERRUPTED);
                }
                eprintln!("\nstopping; once more to leave everything behind");
                seen.trigger();
            }
        })?;
        Ok(interrupt)
    }

    /// An error if it is time to stop.
    pub(super) fn check(&self) -> Result<()> {
        if *self.flag() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for a signal, or for a line on standard input if there is one.
    pub(super) fn wait_for_enter(&self) {
        let seen = self.clone();
        // Stays blocked in its read when a signal comes first; the process ends soon after.
        thread::spawn(move || {
            let mut line = String::new();
            if io::stdin().read_line(&mut line).is_ok_and(|length| length > 0) {
                seen.trigger();
            }
        });
        let (_, changed) = &*self.shared;
        let waited = changed.wait_while(self.flag(), |stop| !*stop);
        drop(waited);
    }

    fn trigger(&self) {
        *self.flag() = true;
        self.shared.1.notify_all();
    }

    fn flag(&self) -> MutexGuard<'_, bool> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nothing triggers, for tests.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self { shared: Arc::default() }
    }
}
