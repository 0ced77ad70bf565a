//! The services and pods, and how they come and go all the time.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use sockline_testbed::{Endpoint, Node, Pod, Service, api::Api, objects};

use super::{
    clients::Target,
    iproute::ip,
    oracle::{Endpoints, Oracle, PodId, ServiceId},
    results::Results,
    servers::{Servers, port_of},
};

pub(super) const SERVICES: usize = 50;
pub(super) const PODS: usize = 30;
pub(super) const CLIENTS: usize = 4;
/// The last services never have an endpoint.
const WITHOUT_ENDPOINTS: usize = 3;
/// The service ranges: what is not translated fails at once.
pub(super) const UNTRANSLATED: [(&str, &str); 2] =
    [("-4", "10.96.0.0/16"), ("-6", "fd00:10:96::/112")];
/// Not churned: see [`super::harness`].
pub(super) const MARK: &str = "mark";
pub(super) const MARK_ADDRESS: &str = "10.96.255.1";
/// Between two changes of endpoints.
const PAUSE: Duration = Duration::from_millis(30);
/// Between a pod's end and the change that says so, when it ends unannounced.
const NOTICED_AFTER: Duration = Duration::from_millis(300);
const STAYS_DEAD: Duration = Duration::from_secs(1);
/// Pods that are on their way out, or dead, at a time.
const LEAVING: usize = 3;
/// One in so many steps takes a pod away.
const LEAVES: u32 = 40;
/// One in so many changes takes the last endpoint away.
const EMPTIED: u32 = 25;

pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) pods: Vec<Pod>,
    pub(super) clients: Vec<Pod>,
    /// Opens more sockets than all others.
    pub(super) socket_holder: Pod,
    pub(super) servers: Servers,
}

impl Cluster {
    pub(super) fn new(node: &Node) -> Result<Self> {
        let pod = |name: String, third: u8, number: usize| {
            let number = u8::try_from(number + 1).context("more pods than addresses")?;
            let v6: IpAddr = format!("fd00:244:{third:x}::{number:x}").parse()?;
            node.pod(&name, &[IpAddr::from([10, 244, third, number]), v6])
        };
        let pods: Result<Vec<Pod>> = (0..PODS).map(|n| pod(format!("pod-{n}"), 1, n)).collect();
        let clients: Result<Vec<Pod>> =
            (0..CLIENTS).map(|n| pod(format!("client-{n}"), 9, n)).collect();
        let (pods, clients) = (pods?, clients?);
        for client in &clients {
            for (family, network) in UNTRANSLATED {
                ip(client, &format!("{family} route add unreachable {network}"))?;
            }
        }
        let socket_holder = pod("socket-holder".to_owned(), 7, 0)?;
        let servers = Servers::start(SERVICES)?;
        for (id, pod) in pods.iter().enumerate() {
            servers.open(id, pod)?;
        }
        Ok(Self { api: Api::default(), pods, clients, socket_holder, servers })
    }

    /// Makes all objects, with endpoints for those that have some.
    pub(super) fn fill(&self, oracle: &Oracle, random: &mut fastrand::Rng) {
        self.api.apply(&objects::node());
        self.apply_mark(1);
        self.api.apply(&Service::new(MARK).ip(MARK_ADDRESS).tcp(80).objects()[0]);
        for service in 0..SERVICES {
            let count = if has_endpoints(service) { random.usize(1..6) } else { 0 };
            let endpoints = random.choose_multiple(0..PODS, count).into_iter().collect();
            oracle.set(service, Arc::new(endpoints));
            for object in self.describe(service, &oracle.endpoints(service)).objects() {
                self.api.apply(&object);
            }
        }
    }

    /// Gives the service [`MARK`] an endpoint of this number, at an address that is nobody's.
    pub(super) fn apply_mark(&self, number: u16) {
        let endpoint = Endpoint::at(&[mark_address(number)]);
        let service = Service::new(MARK).ip(MARK_ADDRESS).tcp(80).endpoints([endpoint]);
        for slice in &service.objects()[1..] {
            self.api.apply(slice);
        }
    }

    pub(super) fn targets() -> Vec<Target> {
        let targets = (0..SERVICES).flat_map(|service| {
            addresses(service).into_iter().map(move |address| {
                let ip: IpAddr = address.parse().expect("made of numbers below");
                let is_sticky = is_sticky(service);
                Target { service, tcp: (ip, 80).into(), udp: (ip, 53).into(), is_sticky }
            })
        });
        targets.collect()
    }

    fn describe(&self, service: ServiceId, endpoints: &Endpoints) -> Service {
        let name = format!("service-{service}");
        let mut described = Service::new(&name)
            .tcp(80)
            .to(port_of(service))
            .udp(53)
            .to(port_of(service))
            .endpoints(endpoints.iter().map(|&pod| &self.pods[pod]));
        for address in addresses(service) {
            described = described.ip(&address);
        }
        if is_sticky(service) { described.sticky(3600) } else { described }
    }

    /// A service as it is with other endpoints than before.
    pub(super) fn with_any_endpoints(
        &self,
        service: ServiceId,
        random: &mut fastrand::Rng,
    ) -> Service {
        let endpoints = random.choose_multiple(0..PODS, 3).into_iter().collect();
        self.describe(service, &Arc::new(endpoints))
    }

    fn apply(&self, oracle: &Oracle, service: ServiceId, endpoints: BTreeSet<PodId>) {
        let endpoints = Arc::new(endpoints);
        oracle.set(service, Arc::clone(&endpoints));
        for slice in &self.describe(service, &endpoints).objects()[1..] {
            self.api.apply(slice);
        }
    }
}

/// An address of the mark's endpoint.
pub(super) fn mark_address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [10, 250, high, low].into()
}

pub(super) const fn has_endpoints(service: ServiceId) -> bool {
    service < SERVICES - WITHOUT_ENDPOINTS
}

const fn is_sticky(service: ServiceId) -> bool {
    service % 7 == 3
}

/// A third of the services have IPv6 addresses, half of these no other.
fn addresses(service: ServiceId) -> Vec<String> {
    let (v4, v6) = (format!("10.96.1.{}", service + 1), format!("fd00:10:96::{:x}", service + 1));
    match service % 6 {
        0 => vec![v6],
        1 => vec![v4, v6],
        _ => vec![v4],
    }
}

/// The thread that changes endpoints; it ends when dropped.
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

/// A pod on its way out and back.
enum Leaving {
    /// It has ended, and nobody has noticed.
    Unnoticed { since: Instant },
    /// It was taken from all services at this time and lives until that is in the kernel.
    Draining { since: Instant },
    /// It is dead, and no service has had it since.
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
        self.go_on()?;
        if self.leaving.len() < LEAVING && self.random.u32(..LEAVES) == 0 {
            self.take_pod_away();
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

    fn take_pod_away(&mut self) {
        let pod = self.random.usize(..PODS);
        if self.leaving.iter().any(|(other, _)| *other == pod) {
            return;
        }
        let since = Instant::now();
        let leaving = if self.random.bool() {
            self.results.count("pods that ended unannounced");
            self.results.event(format!("pod {pod} ends unannounced"));
            self.oracle.dies(pod);
            self.cluster.servers.close(pod);
            Leaving::Unnoticed { since }
        } else {
            self.results.count("pods that ended after their removal");
            self.results.event(format!("pod {pod} is taken from all services"));
            self.remove_from_all(pod);
            Leaving::Draining { since: Instant::now() }
        };
        self.leaving.push((pod, leaving));
    }

    fn go_on(&mut self) -> Result<()> {
        let confirmed = self.oracle.confirmed();
        for (pod, leaving) in std::mem::take(&mut self.leaving) {
            let next = match leaving {
                Leaving::Unnoticed { since } if since.elapsed() > NOTICED_AFTER => {
                    self.remove_from_all(pod);
                    Leaving::Dead { since, removed: Instant::now() }
                }
                Leaving::Draining { since } if confirmed > since => {
                    self.results.event(format!("pod {pod} ends"));
                    self.oracle.dies(pod);
                    self.cluster.servers.close(pod);
                    Leaving::Dead { since: Instant::now(), removed: since }
                }
                Leaving::Dead { since, removed }
                    if confirmed > removed && since.elapsed() > STAYS_DEAD =>
                {
                    self.cluster.servers.open(pod, &self.cluster.pods[pod])?;
                    self.oracle.lives(pod);
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
