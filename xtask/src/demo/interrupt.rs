//! Ctrl-C: the demo checks for it between two steps, and cleans up before it exits.

use std::{
    io::{self, Read},
    os::{fd::IntoRawFd, unix::net::UnixStream},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The exit status of a shell command that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The socket that the handler writes to. Open until the process ends.
static NOTICE: AtomicI32 = AtomicI32::new(-1);

/// Set by the first SIGINT or SIGTERM. A second one ends the process at once; the next test or demo then removes what
/// it left behind.
#[derive(Clone)]
pub(crate) struct Interrupt {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Handles both signals. Uses a handler instead of blocked signals and a thread: child processes would inherit
    /// the mask, and the agent must get SIGTERM.
    pub(crate) fn install() -> Result<Self> {
        let (mut notices, notice) = UnixStream::pair().context("making a pair of sockets")?;
        NOTICE.store(notice.into_raw_fd(), Ordering::Relaxed);
        // SA_RESTART: no other thread's system call fails with EINTR.
        let action =
            SigAction::new(SigHandler::Handler(notify), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the handler only loads an atomic and calls write, which are allowed in one.
            unsafe { sigaction(signal, &action) }.with_context(|| format!("handling {signal}"))?;
        }
        let interrupt = Self { shared: Arc::default() };
        let seen = interrupt.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while notices.read_exact(&mut [0]).is_ok() {
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

extern "C" fn notify(_: libc::c_int) {
    // SAFETY: the byte is static, and the descriptor is never closed. A failed write can be ignored: then the
    // reading thread has ended.
    unsafe { libc::write(NOTICE.load(Ordering::Relaxed), c"!".as_ptr().cast(), 1) };
}
