//! Makes freed map entries available again, once no running program can use them: see
//! [`Rcu`](crate::dataplane::Rcu).

use std::{error::Error, sync::Arc, time::Instant};

use tokio::task::JoinError;

use crate::{
    agent::background_job::BackgroundJob,
    dataplane::{BpfError, Dataplane, RcuSupport},
    error_chain::chain,
    log_on_change::LogOnChange,
    status::Shared,
};

/// When a wait started, if it succeeded.
pub type Waited = Result<Instant, BpfError>;

pub struct Reclaimer {
    job: BackgroundJob<Waited>,
    log: LogOnChange,
    shared: Arc<Shared>,
}

/// Whether entries were reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    Some,
    None,
}

impl Reclaimer {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            job: BackgroundJob::default(),
            log: LogOnChange::new("cannot reclaim freed map entries"),
            shared,
        }
    }

    /// Whether there are freed entries, and no wait for running programs is under way.
    pub fn has_work(&self, dataplane: &Dataplane) -> bool {
        !self.job.is_running() && dataplane.has_reclaimable()
    }

    /// Starts to wait for the programs that run now.
    pub fn start(&mut self, dataplane: &Dataplane) {
        let rcu = dataplane.rcu();
        self.job.start(move || {
            let began = Instant::now();
            rcu.synchronize_rcu().map(|()| began)
        });
    }

    /// Waits for the end of the wait; forever if none is under way.
    pub async fn ended(&mut self) -> Result<Waited, JoinError> {
        self.job.ended().await
    }

    /// Reclaims the entries that were freed before a wait that has ended.
    pub fn apply(
        &mut self,
        ended: Result<Waited, JoinError>,
        dataplane: &mut Dataplane,
    ) -> Reclaimed {
        let waited = match ended {
            Ok(waited) => waited,
            Err(error) => {
                tracing::warn!("waiting for running programs: {error}");
                return Reclaimed::None;
            }
        };
        let result = waited.as_ref().map(|_| ());
        self.log.record(result.map_err(|error| error as &dyn Error));
        let reclaim = RcuSupport::of(result).into();
        self.shared.update(|status| status.reclaim = reclaim);
        let Ok(began) = waited else { return Reclaimed::None };
        if let Err(error) = dataplane.reclaim_before(began) {
            tracing::warn!("{}", chain(&error));
        }
        Reclaimed::Some
    }
}
