//! The series: connections by client workload and service port. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dataplane::ClientConnections,
    model::object::Protocol,
    telemetry::definitions::{ServicePortLabels, SourceLabels},
    workloads::{Growth, Readings, WorkloadRef},
};

/// Client workloads × service ports that have series of their own; what is beyond that is in those of [`OTHER`].
const MAX_SOURCES: usize = 1000;
/// The name of the workload that stands for all others of a service port.
const OTHER: &str = "other";
/// The name that stands for pods without a workload, of a namespace.
const NONE: &str = "none";
/// The name of a workload that is not known.
pub const UNKNOWN: &str = "unknown";

pub type SeriesLabels = (SourceLabels, ServicePortLabels);

/// What Istio's labels tell apart: no kind of workload, and no port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IstioSeries {
    pub source_workload_namespace: Arc<str>,
    pub source_workload: Arc<str>,
    pub namespace: Arc<str>,
    pub service: Arc<str>,
}

/// Readings after which a series disappears that is in none of them: two minutes, for a scrape to see the last counts of
/// a job that has ended.
pub const RETENTION_READINGS: u32 = 24;

/// What was counted since the agent began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub active: u64,
    pub counted: Growth,
    /// Readings since it was in one.
    unseen: u32,
}

#[derive(Debug, Default)]
pub struct Series {
    readings: Readings,
    series: Table<SeriesLabels>,
    /// Of TCP. Sums of their own, so that none falls when a port of the Service is gone.
    istio: Table<IstioSeries>,
    limit: usize,
}

/// Series by their labels.
#[derive(Debug)]
struct Table<L>(BTreeMap<L, Sums>);

impl Series {
    /// Counts begin after this reading.
    pub fn after(read: &[ClientConnections]) -> Self {
        Self { readings: Readings::after(read), limit: MAX_SOURCES, ..Self::default() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SeriesLabels, &Sums)> {
        self.series.0.iter()
    }

    pub fn istio(&self) -> impl Iterator<Item = (&IstioSeries, &Sums)> {
        self.istio.0.iter()
    }

    /// Adds what was counted since the last reading. Series of which nothing is left are removed: the map keeps counts of
    /// clients that are gone.
    pub fn update(
        &mut self,
        read: &[ClientConnections],
        workload_of: impl Fn(u64) -> Option<WorkloadRef>,
        mut is_gone: impl FnMut(u64) -> bool,
    ) {
        let growths = self.readings.update(read);
        self.series.begin();
        self.istio.begin();
        let others = self.series.0.keys().filter(|(source, _)| is_other(source)).count();
        let mut own = self.series.0.len() - others;
        for (client, growth) in read.iter().zip(growths) {
            let is_idle = client.active == 0 && growth == Growth::default();
            if is_idle && is_gone(client.cgroup) {
                continue;
            }
            let mut labels = (source(workload_of(client.cgroup)), service_port(client));
            let is_known = self.series.0.contains_key(&labels);
            if !is_known && (is_idle || own >= self.limit) {
                labels.0 = other();
                // What was not used since the agent began has no series.
                if is_idle && !self.series.0.contains_key(&labels) {
                    continue;
                }
            } else if !is_known {
                own += 1;
            }
            if client.service.protocol == Protocol::Tcp {
                self.istio.add(istio_series(&labels), client.active, &growth);
            }
            self.series.add(labels, client.active, &growth);
        }
        self.series.end();
        self.istio.end();
    }
}

impl<L> Default for Table<L> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<L: Ord> Table<L> {
    fn begin(&mut self) {
        for sums in self.0.values_mut() {
            sums.active = 0;
            sums.unseen += 1;
        }
    }

    fn add(&mut self, labels: L, active: u64, growth: &Growth) {
        let sums = self.0.entry(labels).or_default();
        sums.active += active;
        sums.counted.add(growth);
        sums.unseen = 0;
    }

    fn end(&mut self) {
        self.0.retain(|_, sums| sums.unseen < RETENTION_READINGS);
    }
}

fn istio_series((source, port): &SeriesLabels) -> IstioSeries {
    IstioSeries {
        source_workload_namespace: Arc::clone(&source.source_workload_namespace),
        source_workload: Arc::clone(&source.source_workload),
        namespace: Arc::clone(&port.namespace),
        service: Arc::clone(&port.service),
    }
}

fn source(workload: Option<WorkloadRef>) -> SourceLabels {
    let Some(WorkloadRef { namespace, kind, name }) = workload else {
        return labels("", UNKNOWN, UNKNOWN);
    };
    // No series for each pod.
    let name = if &*kind == "Pod" { NONE } else { &name };
    labels(&namespace.unwrap_or_default(), &kind, name)
}

fn other() -> SourceLabels {
    labels("", OTHER, OTHER)
}

fn is_other(labels: &SourceLabels) -> bool {
    // No workload of a pod is without a namespace, and those of the node have other kinds.
    *labels == other()
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
    use sockline_ebpf::{client::ClientCounts, id::ServiceId, partly_counted::Part};

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
        ClientConnections {
            cgroup,
            id: ServiceId(service),
            service: key,
            active,
            ended,
            open: Part::default(),
        }
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
    fn pods_without_a_workload_have_one_name_in_a_namespace() {
        let bare = |cgroup: u64| {
            let (namespace, name) = (Some("shop".to_owned()), format!("debug-{cgroup}"));
            Some(WorkloadRef { namespace, kind: "Pod".into(), name })
        };
        let mut series = Series::after(&[]);
        series.update(&[client(1, 1, 0, 2), client(2, 1, 1, 3)], bare, |_| false);
        assert_eq!(shown(&series), ["none s1: 6 5 1"]);
    }

    #[test]
    fn a_counter_does_not_fall_when_a_pod_is_gone_and_a_workload_that_is_gone_has_none() {
        let mut series = Series::after(&[]);
        series.update(
            &[client(1, 1, 0, 5), client(2, 1, 0, 7), client(100, 1, 1, 0)],
            workload,
            |_| false,
        );
        // Connections of a pod that is gone may have ended, and are read once more.
        series.update(&[client(2, 1, 0, 8)], workload, |_| false);
        assert_eq!(shown(&series), ["w100 s1: 1 0 0", "web s1: 13 13 0"]);
        for reading in 0..RETENTION_READINGS {
            series.update(&[client(2, 1, 0, 9)], workload, |_| true);
            assert!(shown(&series).contains(&"web s1: 14 14 0".to_owned()), "{reading}");
        }
        assert_eq!(shown(&series), ["web s1: 14 14 0"]);
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
        for _ in 0..=RETENTION_READINGS {
            series.update(&all(3)[1..], workload, |_| false);
        }
        series.update(&all(4)[1..], workload, |_| false);
        let expected = ["other s1: 7 7 0", "w100 s1: 4 4 0", "w101 s1: 1 1 0"];
        assert_eq!(shown(&series), expected);
    }

    #[test]
    fn istios_series_add_up_the_ports_of_a_service_and_do_not_fall_when_one_is_gone() {
        let mut series = Series::after(&[]);
        let port = |name: &str, id| {
            let mut client = client(1, id, 0, 2);
            client.service.port_name = name.into();
            client.service.service = ObjectName::new("shop", "cart");
            client
        };
        let shown = |series: &Series| -> Vec<(String, u64)> {
            let line =
                |(of, sums): (&IstioSeries, &Sums)| (of.service.to_string(), sums.counted.closed);
            series.istio().map(line).collect()
        };
        series.update(&[port("http", 1), port("admin", 2)], workload, |_| false);
        assert_eq!(shown(&series), [("cart".to_owned(), 4)]);
        for _ in 0..=RETENTION_READINGS {
            series.update(&[port("http", 1)], workload, |_| false);
        }
        assert_eq!(shown(&series), [("cart".to_owned(), 4)]);
    }
}
