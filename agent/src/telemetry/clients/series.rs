//! The series: connections by client workload and service port. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    dataplane::ClientConnections,
    telemetry::definitions::{ServicePortLabels, SourceLabels},
    workloads::{Growth, Readings, WorkloadRef},
};

/// Client workloads × service ports that have series of their own; what is beyond that is in those of [`OTHER`].
const MAX_SOURCES: usize = 1000;
/// The name of the workload that stands for all others of a service port.
const OTHER: &str = "other";
/// The name of a workload that is not known.
pub const UNKNOWN: &str = "unknown";

pub type SeriesLabels = (SourceLabels, ServicePortLabels);

/// What was counted since the agent began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub active: u64,
    pub counted: Growth,
}

#[derive(Debug, Default)]
pub struct Series {
    readings: Readings,
    series: BTreeMap<SeriesLabels, Sums>,
    limit: usize,
}

impl Series {
    /// Counts begin after this reading.
    pub fn after(read: &[ClientConnections]) -> Self {
        Self { readings: Readings::after(read), series: BTreeMap::new(), limit: MAX_SOURCES }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SeriesLabels, &Sums)> {
        self.series.iter()
    }

    /// Adds what was counted since the last reading. Series of which nothing is left are removed: the map keeps counts of
    /// clients that are gone.
    pub fn update(
        &mut self,
        read: &[ClientConnections],
        workload_of: impl Fn(u64) -> Option<WorkloadRef>,
        is_gone: impl Fn(u64) -> bool,
    ) {
        let growths = self.readings.update(read);
        self.series.values_mut().for_each(|sums| sums.active = 0);
        let mut seen = BTreeSet::new();
        let others = self.series.keys().filter(|(source, _)| is_other(source)).count();
        let mut own = self.series.len() - others;
        for (client, growth) in read.iter().zip(growths) {
            let is_idle = client.active == 0 && growth == Growth::default();
            if is_idle && is_gone(client.cgroup) {
                continue;
            }
            let service = service_port(client);
            let mut labels = (source(workload_of(client.cgroup)), service.clone());
            let is_known = self.series.contains_key(&labels);
            // What was not used since the agent began has no series.
            if !is_known && is_idle {
                let other = (other(), service);
                if self.series.contains_key(&other) {
                    seen.insert(other);
                }
                continue;
            }
            if !is_known && own >= self.limit {
                labels.0 = other();
            } else if !is_known {
                own += 1;
            }
            let sums = self.series.entry(labels.clone()).or_default();
            sums.active += client.active;
            sums.counted.add(&growth);
            seen.insert(labels);
        }
        self.series.retain(|labels, _| seen.contains(labels));
    }
}

fn source(workload: Option<WorkloadRef>) -> SourceLabels {
    let Some(WorkloadRef { namespace, kind, name }) = workload else {
        return labels("", UNKNOWN, UNKNOWN);
    };
    labels(&namespace.unwrap_or_default(), &kind, &name)
}

fn other() -> SourceLabels {
    labels("", OTHER, OTHER)
}

fn is_other(labels: &SourceLabels) -> bool {
    // A kind of Kubernetes is never this.
    &*labels.source_workload_kind == OTHER
}

fn labels(namespace: &str, kind: &str, name: &str) -> SourceLabels {
    SourceLabels {
        source_workload_namespace: namespace.into(),
        source_workload_kind: kind.into(),
        source_workload: name.into(),
    }
}

fn service_port(client: &ClientConnections) -> ServicePortLabels {
    let key = &client.service;
    ServicePortLabels {
        namespace: Arc::clone(&key.service.namespace),
        service: Arc::clone(&key.service.name),
        port: Arc::clone(&key.port_name),
        protocol: key.protocol,
    }
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::{client::ClientCounts, id::ServiceId};

    use super::*;
    use crate::{
        dataplane::ServiceKey,
        model::object::{ObjectName, Protocol},
    };

    fn client(cgroup: u64, service: u32, active: u64, closed: u64) -> ClientConnections {
        let key = ServiceKey {
            service: ObjectName::new("shop", format!("s{service}")),
            port_name: "".into(),
            protocol: Protocol::Tcp,
        };
        let ended = ClientCounts { closed, ..ClientCounts::NONE };
        ClientConnections { cgroup, id: ServiceId(service), service: key, active, ended }
    }

    /// Cgroups below 100 are pods of the Deployment `web`, others are unknown or a Deployment each.
    fn workload(cgroup: u64) -> Option<WorkloadRef> {
        let name = match cgroup {
            0 => return None,
            1..100 => "web".to_owned(),
            _ => format!("w{cgroup}"),
        };
        Some(WorkloadRef { namespace: Some("shop".into()), kind: "Deployment".into(), name })
    }

    /// `web s1: opened closed active`
    fn shown(series: &Series) -> Vec<String> {
        let line = |((source, port), sums): (&SeriesLabels, &Sums)| {
            let Growth { opened, closed, .. } = sums.counted;
            format!(
                "{} {}: {opened} {closed} {}",
                source.source_workload, port.service, sums.active
            )
        };
        series.iter().map(line).collect()
    }

    #[test]
    fn pods_of_a_workload_are_summed_up_from_the_agents_start() {
        let mut series = Series::after(&[client(1, 1, 0, 50), client(3, 1, 0, 9)]);
        series.update(&[client(1, 1, 0, 50), client(3, 1, 0, 9)], workload, |_| false);
        assert!(shown(&series).is_empty(), "nothing was used since");
        series.update(
            &[client(1, 1, 1, 52), client(2, 1, 0, 3), client(0, 2, 0, 4)],
            workload,
            |_| false,
        );
        assert_eq!(shown(&series), ["unknown s2: 4 4 0", "web s1: 6 5 1"]);
    }

    #[test]
    fn a_counter_does_not_fall_when_a_pod_is_gone_and_a_workload_that_is_gone_has_none() {
        let mut series = Series::after(&[]);
        series.update(
            &[client(1, 1, 0, 5), client(2, 1, 0, 7), client(100, 1, 1, 0)],
            workload,
            |_| false,
        );
        series.update(&[client(2, 1, 0, 8)], workload, |_| false);
        assert_eq!(shown(&series), ["web s1: 13 13 0"]);
        series.update(&[client(2, 1, 0, 9)], workload, |_| true);
        assert_eq!(shown(&series), ["web s1: 14 14 0"], "its last connections count");
        series.update(&[client(2, 1, 0, 9)], workload, |_| true);
        assert!(shown(&series).is_empty());
    }

    #[test]
    fn what_is_beyond_the_limit_counts_as_other() {
        let mut series = Series::after(&[]);
        series.limit = 2;
        let all = |closed| [1, 100, 101, 102].map(|cgroup| client(cgroup, 1, 0, closed));
        series.update(&all(1), workload, |_| false);
        assert_eq!(shown(&series), ["other s1: 2 2 0", "w100 s1: 1 1 0", "web s1: 1 1 0"]);
        series.update(&all(1), workload, |_| false);
        assert_eq!(shown(&series).len(), 3, "it stays though nothing happens");
        // A series that is gone makes room; what was counted as other stays there.
        series.update(&all(3)[1..], workload, |_| false);
        series.update(&all(4)[1..], workload, |_| false);
        let expected = ["other s1: 7 7 0", "w100 s1: 4 4 0", "w101 s1: 1 1 0"];
        assert_eq!(shown(&series), expected);
    }
}
