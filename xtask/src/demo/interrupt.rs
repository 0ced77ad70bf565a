//! Ctrl-C: the demo checks for it between two steps, and cleans up before it exits.

use std::{
    io, process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// The exit status of a shell command that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Set by the first SIGINT or SIGTERM. A second one ends the process at once; the next test or demo then removes what
/// it left behind.
#[derive(Clone)]
pub(crate) struct Interrupt {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Handles both signals. No signal is blocked: child processes would inherit the mask, and the agent must get
    /// SIGTERM.
    pub(crate) fn install() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("handling signals")?;
        let interrupt = Self { shared: Arc::default() };
        let seen = interrupt.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if *seen.flag() {
                    process::exit(INTERRUPTED);
                }
                eprintln!("\nstopping; press Ctrl-C again to exit without cleanup");
                seen.trigger();
            }
        })?;
        Ok(interrupt)
    }

    /// Fails if a signal has come.
    pub(crate) fn check(&self) -> Result<()> {
        if *self.flag() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for this long. Fails at once if a signal comes.
    pub(crate) fn wait(&self, duration: Duration) -> Result<()> {
        let (_, changed) = &*self.shared;
        drop(changed.wait_timeout_while(self.flag(), duration, |stop| !*stop));
        self.check()
    }

    /// Waits for a signal, or for a line on standard input if there is one.
    pub(super) fn wait_for_enter(&self) {
        let seen = self.clone();
        // After a signal this thread stays blocked in its read until the process ends.
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

    /// Never set, for tests.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self { shared: Arc::default() }
    }
}
