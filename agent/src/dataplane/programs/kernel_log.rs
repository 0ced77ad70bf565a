//! Forwards the kernel programs' log to the agent's log.
//!
//! They log the first call of a service that fails open, and what they decide for calls while an operator asks for it
//! ([`sockline_ebpf::debug_log`]). [`super::log_line`] makes sentences of the latter.
//!
//! The ring buffer is pinned, and a line has no time of its own. So lines that are in it at the start were written for an
//! earlier agent, and would look as if they were new. Decisions among them are dropped and counted.
#![expect(unsafe_code, reason = "tokio cannot know who owns a file descriptor")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use sockline_ebpf::{debug_log::TARGET, id::ServiceId};
use tokio::io::{Interest, unix::AsyncFd};

use super::log_line;

/// Starts forwarding in the background. The programs work without it too. `name` names a service port.
pub fn forward(
    object: &mut Ebpf,
    name: impl Fn(ServiceId) -> Option<String> + Send + Sync + 'static,
) {
    let left = Arc::new(Left::default());
    let mut logger =
        match EbpfLogger::init_with_logger(object, Lines { name, left: Arc::clone(&left) }) {
            Ok(logger) => logger,
            Err(error) => {
                tracing::warn!(%error, "the kernel programs' log cannot be read");
                return;
            }
        };
    logger.flush();
    left.end();
    // SAFETY: the logger owns the ring buffer whose descriptor this is, and moves into the AsyncFd.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    match registered {
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut guard) = logger.readable_mut().await {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            });
        }
        Err(error) => tracing::warn!(%error, "the kernel programs' log cannot be read"),
    }
}

/// Lines that were in the ring buffer before this agent read it.
#[derive(Default)]
struct Left {
    decisions: AtomicU64,
    are_read: AtomicBool,
}

impl Left {
    /// Lines from now on are of this agent's time.
    fn end(&self) {
        self.are_read.store(true, Relaxed);
        let lines = self.decisions.load(Relaxed);
        if lines > 0 {
            tracing::info!(
                lines,
                "dropped what the programs logged of their decisions for an earlier agent"
            );
        }
    }
}

/// Receives what programs log.
struct Lines<N> {
    name: N,
    left: Arc<Left>,
}

impl<N: Fn(ServiceId) -> Option<String> + Send + Sync> Log for Lines<N> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let is_left = !self.left.are_read.load(Relaxed);
        match (record.target() == TARGET, is_left) {
            (true, true) => {
                self.left.decisions.fetch_add(1, Relaxed);
            }
            (true, false) => self.log_decision(&record.args().to_string()),
            (false, false) => log::logger().log(record),
            // What fails is logged once by the programs, so it must not get lost.
            (false, true) => log::logger().log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!("before this agent: {}", record.args()))
                    .build(),
            ),
        }
    }

    fn flush(&self) {}
}

impl<N: Fn(ServiceId) -> Option<String>> Lines<N> {
    fn log_decision(&self, text: &str) {
        match log_line::sentence(text, &self.name) {
            Some(sentence) => tracing::debug!(target: TARGET, "{sentence}"),
            // Of another build, whose programs are attached still.
            None => tracing::debug!(target: TARGET, "{text}"),
        }
    }
}
