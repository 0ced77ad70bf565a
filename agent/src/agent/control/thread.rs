//! The control loop's own thread. A loop that blocks does not block the servers and the watches, so that
//! they can report it.

use std::{convert::Infallible, thread, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, Receiver},
    time::timeout,
};

/// The thread's name, for `ps -L` and debuggers; at most 15 bytes (`TASK_COMM_LEN`).
const NAME: &str = "control";
/// How long the loop may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The running thread.
pub struct ControlThread {
    thread: thread::JoinHandle<()>,
    /// Closed when the loop has ended, also by a panic.
    ended: Receiver<Infallible>,
}

impl ControlThread {
    /// Starts a loop on the thread. The loop uses the timers of the runtime that this is called in.
    ///
    /// # Errors
    /// When the thread cannot be created.
    pub fn start<F>(control: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<Self>
    where
        F: Future<Output = ()>,
    {
        let runtime = Handle::current();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(NAME.into())
            .spawn(move || {
                let _end = end;
                runtime.block_on(control());
            })
            .context("starting the thread of the control loop")?;
        Ok(Self { thread, ended })
    }

    /// Returns when the loop has ended.
    pub async fn ended(&mut self) {
        let Err(_closed) = (&mut self.ended).await;
    }

    /// Waits for a stopped loop to end. Leaves a loop behind that is stuck.
    ///
    /// # Errors
    /// When the loop panicked.
    pub async fn join(mut self) -> anyhow::Result<()> {
        // A second `recv` on a closed oneshot channel would panic.
        if !self.ended.is_terminated() && timeout(END_TIMEOUT, self.ended()).await.is_err() {
            tracing::error!("the control loop is stuck and does not stop");
            return Ok(());
        }
        self.thread.join().map_err(|_| anyhow::anyhow!("the control loop panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_loop_is_reported_and_it_can_be_joined() {
        let mut control = ControlThread::start(|| async {}).unwrap();
        control.ended().await;
        control.join().await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_of_the_loop_is_an_error() {
        let control = ControlThread::start(|| async { panic!("on purpose") }).unwrap();
        assert!(control.join().await.is_err());
    }
}
