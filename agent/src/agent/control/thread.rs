//! The control loop's own thread: nothing that the loop waits for holds up the servers and the watches,
//! so that a loop that is stuck is reported.

use std::{convert::Infallible, thread, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, Receiver},
    time::timeout,
};

/// Its name, for `ps -L` and debuggers; at most 15 bytes (`TASK_COMM_LEN`).
const NAME: &str = "control";
/// What a loop in good order may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// The running thread.
pub struct ControlThread {
    thread: thread::JoinHandle<()>,
    /// Closed when the loop has ended, however.
    ended: Receiver<Infallible>,
}

impl ControlThread {
    /// Starts the thread on a loop, which uses this runtime's timers. To be called within the runtime.
    ///
    /// # Errors
    /// When there can be no more threads.
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

    /// Waits for the end of a loop that was told to stop. One that is stuck is left behind.
    ///
    /// # Errors
    /// When the loop panicked.
    pub async fn join(mut self) -> anyhow::Result<()> {
        // Asked twice, the channel would panic.
        if !self.ended.is_terminated() && timeout(ENDING, self.ended()).await.is_err() {
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
    async fn a_loop_that_ends_is_noticed_and_can_be_joined() {
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
