//! One blocking job at a time on tokio's blocking threads, so that the control loop does not wait for it.

use std::future::pending;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};

#[derive(Debug)]
pub struct BackgroundJob<T>(Option<JoinHandle<T>>);

impl<T> Default for BackgroundJob<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> BackgroundJob<T> {
    pub const fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Starts a job; does nothing while one runs.
    pub fn start(&mut self, job: impl FnOnce() -> T + Send + 'static) {
        if self.0.is_none() {
            self.0 = Some(spawn_blocking(job));
        }
    }

    /// Waits for the job to end; forever if none runs. Cancel safe: the job continues.
    ///
    /// # Errors
    /// When the job panicked.
    pub async fn ended(&mut self) -> Result<T, JoinError> {
        let Some(job) = &mut self.0 else { return pending().await };
        let result = job.await;
        self.0 = None;
        result
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_job_runs_at_a_time_and_its_result_comes_once() {
        let mut job = BackgroundJob::default();
        assert!(job.ended().now_or_never().is_none(), "no job runs");
        job.start(|| 1);
        job.start(|| 2);
        assert!(job.is_running());
        assert_eq!(job.ended().await.unwrap(), 1);
        assert!(!job.is_running());
    }

    #[tokio::test]
    async fn after_a_panic_another_job_can_start() {
        let mut job: BackgroundJob<()> = BackgroundJob::default();
        job.start(|| panic!("on purpose"));
        assert!(job.ended().await.unwrap_err().is_panic());
        assert!(!job.is_running());
    }
}
