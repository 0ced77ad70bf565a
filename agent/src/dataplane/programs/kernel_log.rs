//! Forwards the kernel programs' log to the agent's log.
//!
//! They log the first call of a service that fails open, and what they decide for calls while an operator asks for it
//! ([`sockline_ebpf::debug_log`]). [`super::log_line`] makes sentences of the latter.
#![expect(unsafe_code, reason = "tokio cannot know who owns a file descriptor")]

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
    let logger = match EbpfLogger::init_with_logger(object, Lines { name }) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the kernel programs' log cannot be read");
            return;
        }
    };
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

/// Receives what programs log.
struct Lines<N> {
    name: N,
}

impl<N: Fn(ServiceId) -> Option<String> + Send + Sync> Log for Lines<N> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() != TARGET {
            log::logger().log(record);
            return;
        }
        let text = record.args().to_string();
        match log_line::sentence(&text, &self.name) {
            Some(sentence) => tracing::debug!(target: TARGET, "{sentence}"),
            // Of another build, whose programs are attached still.
            None => tracing::debug!(target: TARGET, "{text}"),
        }
    }

    fn flush(&self) {}
}
