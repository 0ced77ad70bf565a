//! The thread that changes endpoints, and ends and restarts pods.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    cluster::{Cluster, PODS, SERVICES, WITHOUT_ENDPOINTS},
    oracle::{Oracle, PodId},
    results::Results,
};

/// Between two changes of endpoints.
const PAUSE: Duration = Duration::from_millis(30);
/// Between the crash of a pod and its removal from its services.
const REMOVED_AFTER: Duration = Duration::from_millis(300);
const DOWNTIME: Duration = Duration::from_secs(1);
/// How many pods may be ending or dead at a time.
const LEAVING: usize = 3;
/// One in this many steps ends a pod.
const LEAVES: u32 = 40;
/// One in this many changes removes all endpoints of a service.
const EMPTIED: u32 = 25;

/// The thread that changes endpoints.
pub(super) struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Churn {
    pub(super) fn start(
        cluster: &Arc<Cluster>,
        oracle: &Arc<Oracle>,
        results: &Arc<Results>,
        random: fastrand::Rng,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut changing = Changing {
            cluster: Arc::clone(cluster),
            oracle: Arc::clone(oracle),
            results: Arc::clone(results),
            random,
            leaving: Vec::new(),
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("churn".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                changing.step()?;
                thread::sleep(PAUSE);
            }
            Ok(())
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub(super) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

/// A pod that ends and comes back.
enum Leaving {
    /// It has crashed, and is still an endpoint.
    Crashed { since: Instant },
    /// Removed from all services at this time; it runs until that is in the kernel.
    Draining { since: Instant },
    /// It does not run, and no service has it.
    Dead { since: Instant, removed: Instant },
}

struct Changing {
    cluster: Arc<Cluster>,
    oracle: Arc<Oracle>,
    results: Arc<Results>,
    random: fastrand::Rng,
    leaving: Vec<(PodId, Leaving)>,
}

impl Changing {
    fn step(&mut self) -> Result<()> {
        self.advance()?;
        if self.leaving.len() < LEAVING && self.random.u32(..LEAVES) == 0 {
            self.end_a_pod();
        }
        let service = self.random.usize(..SERVICES - WITHOUT_ENDPOINTS);
        let mut endpoints = (*self.oracle.endpoints(service)).clone();
        let others: Vec<PodId> = (0..PODS)
            .filter(|pod| self.leaving.iter().all(|(other, _)| other != pod))
            .filter(|pod| !endpoints.contains(pod))
            .collect();
        let some = self.random.choice(endpoints.iter().copied());
        match some {
            Some(_) if self.random.u32(..EMPTIED) == 0 => endpoints.clear(),
            Some(pod) if endpoints.len() > 1 && self.random.bool() => {
                endpoints.remove(&pod);
            }
            Some(pod) if endpoints.len() > 5 => {
                endpoints.remove(&pod);
            }
            _ => endpoints.extend(self.random.choice(others)),
        }
        self.cluster.apply(&self.oracle, service, endpoints);
        self.results.count("changes of endpoints");
        Ok(())
    }

    fn end_a_pod(&mut self) {
        let pod = self.random.usize(..PODS);
        if self.leaving.iter().any(|(other, _)| *other == pod) {
            return;
        }
        let since = Instant::now();
        let leaving = if self.random.bool() {
            self.results.count("pods that crashed");
            self.results.event(format!("pod {pod} crashes"));
            self.oracle.pod_ends(pod);
            self.cluster.servers.close(pod);
            Leaving::Crashed { since }
        } else {
            self.results.count("pods that ended after their removal");
            self.results.event(format!("pod {pod} is removed from all services"));
            self.remove_from_all(pod);
            Leaving::Draining { since: Instant::now() }
        };
        self.leaving.push((pod, leaving));
    }

    fn advance(&mut self) -> Result<()> {
        let confirmed = self.oracle.confirmed();
        for (pod, leaving) in std::mem::take(&mut self.leaving) {
            let next = match leaving {
                Leaving::Crashed { since } if since.elapsed() > REMOVED_AFTER => {
                    self.remove_from_all(pod);
                    Leaving::Dead { since, removed: Instant::now() }
                }
                Leaving::Draining { since } if confirmed > since => {
                    self.results.event(format!("pod {pod} ends"));
                    self.oracle.pod_ends(pod);
                    self.cluster.servers.close(pod);
                    Leaving::Dead { since: Instant::now(), removed: since }
                }
                Leaving::Dead { since, removed }
                    if confirmed > removed && since.elapsed() > DOWNTIME =>
                {
                    self.cluster.servers.open(pod, &self.cluster.pods[pod])?;
                    self.oracle.pod_is_back(pod);
                    self.results.event(format!("pod {pod} is back"));
                    continue;
                }
                other => other,
            };
            self.leaving.push((pod, next));
        }
        Ok(())
    }

    fn remove_from_all(&self, pod: PodId) {
        for service in 0..SERVICES {
            let mut endpoints = (*self.oracle.endpoints(service)).clone();
            if endpoints.remove(&pod) {
                self.cluster.apply(&self.oracle, service, endpoints);
            }
        }
    }
}
