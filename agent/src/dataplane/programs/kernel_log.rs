//! Forwards the kernel programs' log to the agent's log. They log rarely: the first call of a
//! service that fails open.
#![expect(unsafe_code, reason = "tokio cannot know who owns a file descriptor")]

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Starts forwarding in the background. The programs work without it too.
pub fn forward(object: &mut Ebpf) {
    let logger = match EbpfLogger::init(object) {
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
