//! From two readings of the counters to the document. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use super::document::{BackendTraffic, ClientTraffic, Rates, ServiceTraffic, Traffic, TrafficMap};
use crate::{
    dataplane::ServiceKey,
    workloads::{Client, WorkloadRef},
};

/// One reading of the counters.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// When, since the first one.
    pub at: Duration,
    pub services: BTreeMap<ServiceKey, Counts>,
    pub backends: BTreeMap<ServiceKey, BTreeMap<SocketAddr, Counts>>,
    /// By service port and the id of the client's cgroup.
    pub clients: BTreeMap<ServiceKey, BTreeMap<u64, Counts>>,
}

/// What was counted up to a reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: u64,
    pub opened: u64,
    pub failed: u64,
    pub sent: u64,
    pub received: u64,
}

/// What is known of clients, by the ids of their cgroups.
pub type Names = HashMap<u64, Client>;

/// The group that a client's connections are shown in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Workload(WorkloadRef),
    PodUid(String),
    Unknown,
}

/// The traffic between two readings, of the services that `is_wanted`.
pub fn between(
    node_name: String,
    [before, now]: [&Reading; 2],
    names: &Names,
    is_wanted: impl Fn(&ServiceKey) -> bool,
) -> TrafficMap {
    let seconds = now.at.saturating_sub(before.at).as_secs_f64();
    let traffic = |before: Option<&Counts>, now: &Counts| {
        traffic(&before.copied().unwrap_or_default(), now, seconds)
    };
    let services = now.services.iter().filter(|(key, _)| is_wanted(key)).map(|(key, counts)| {
        let mut groups: BTreeMap<Group, (usize, Traffic)> = BTreeMap::new();
        for (cgroup, counts) in now.clients.get(key).into_iter().flatten() {
            let earlier = before.clients.get(key).and_then(|clients| clients.get(cgroup));
            let (cgroups, sum) = groups.entry(group(names.get(cgroup))).or_default();
            *cgroups += 1;
            sum.add(&traffic(earlier, counts));
        }
        let backends = now.backends.get(key).into_iter().flatten().map(|(address, counts)| {
            let earlier = before.backends.get(key).and_then(|backends| backends.get(address));
            BackendTraffic {
                address: address.ip(),
                port: address.port(),
                traffic: traffic(earlier, counts),
            }
        });
        ServiceTraffic {
            service: key.service.clone(),
            port_name: key.port_name.to_string(),
            protocol: key.protocol,
            traffic: traffic(before.services.get(key), counts),
            clients: groups.into_iter().map(client).collect(),
            backends: backends.collect(),
        }
    });
    let is_used =
        |service: &ServiceTraffic| !service.traffic.is_none() || !service.clients.is_empty();
    TrafficMap {
        node_name,
        interval_seconds: seconds,
        services: services.filter(is_used).collect(),
    }
}

fn group(client: Option<&Client>) -> Group {
    match client {
        Some(Client { workload: Some(workload), .. }) => Group::Workload(workload.clone()),
        Some(Client { pod: Some(pod), .. }) => Group::PodUid(pod.uid.clone()),
        _ => Group::Unknown,
    }
}

fn client((group, (cgroups, traffic)): (Group, (usize, Traffic))) -> ClientTraffic {
    let (workload, pod_uid) = match group {
        Group::Workload(workload) => (Some(workload), None),
        Group::PodUid(uid) => (None, Some(uid)),
        Group::Unknown => (None, None),
    };
    ClientTraffic { workload, pod_uid, cgroups, traffic }
}

fn traffic(before: &Counts, now: &Counts, seconds: f64) -> Traffic {
    let rate = |before: u64, now: u64| {
        // A count that fell is one that was read while it changed, or begins again: its growth is not known.
        let growth = now.saturating_sub(before);
        if seconds > 0.0 { growth as f64 / seconds } else { 0.0 }
    };
    Traffic {
        active: now.active,
        opened: now.opened,
        failed: now.failed,
        sent_bytes: now.sent,
        received_bytes: now.received,
        rates: Rates {
            opened: rate(before.opened, now.opened),
            failed: rate(before.failed, now.failed),
            sent_bytes: rate(before.sent, now.sent),
            received_bytes: rate(before.received, now.received),
        },
    }
}
