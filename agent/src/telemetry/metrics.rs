//! The agent's metrics: what it counts, and all of them as text.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    clients::ClientMetrics,
    definitions::{
        BuildLabels, CloseReason, ClosedLabels, DriftLabels, EventLabels, EventType, Families,
        KindLabels, MapLabels, ProgrammingLabels, ServicePortLabels, Since, SyncLabels, SyncScope,
    },
    kernel::KernelCounters,
    process, programs,
};
use crate::{
    dataplane::{Counters, Drift, OpenConnection, ProgramStats, Usage},
    model::{
        object::{Kind, Protocol},
        plan::Cause,
    },
    source::{Event, SourceStats},
    status::{ExcludedPod, ExclusionState, MapUse, UnsyncedObject},
};

/// How many service ports are named as out of sync: the number of series must be limited.
const MAX_NAMED_PORTS: usize = 100;
const CLOSED_UDP: ClosedLabels =
    ClosedLabels { protocol: Protocol::Udp, reason: CloseReason::BackendGone };
const CLOSED_TCP: ClosedLabels =
    ClosedLabels { protocol: Protocol::Tcp, reason: CloseReason::CloseOnRemoval };

/// Everything that `/metrics` shows.
pub struct Metrics {
    families: Families,
    kernel: KernelCounters,
    programs: ProgramStats,
    /// `None` if no option asks for them.
    clients: Option<ClientMetrics>,
    stats: Arc<SourceStats>,
}

impl Metrics {
    pub fn new(
        counters: Counters,
        programs: ProgramStats,
        clients: Option<ClientMetrics>,
        stats: Arc<SourceStats>,
    ) -> Self {
        let families = Families::default();
        families.build_info.set(BuildLabels { version: env!("CARGO_PKG_VERSION") }, 1.0);
        // A series that begins at 0 shows its first increase.
        families.sync_duration.with(());
        families.socket_scan_duration.with(());
        for &since in Since::ALL {
            families.network_programming_duration.with(ProgrammingLabels { since });
        }
        for &scope in SyncScope::ALL {
            families.syncs.with(SyncLabels { scope });
        }
        for counter in
            [&families.sync_errors, &families.socket_close_errors, &families.helper_exits]
        {
            counter.with(());
        }
        for closed in [CLOSED_UDP, CLOSED_TCP] {
            families.sockets_closed.with(closed);
        }
        for (object, _) in Drift::KINDS {
            families.drift_repairs.with(DriftLabels { object });
        }
        for gauge in [
            &families.service_ports,
            &families.frontends,
            &families.backends,
            &families.last_sync_timestamp,
            &families.service_ports_out_of_sync,
            &families.other_nodes_out_of_sync,
            &families.invalid_objects,
            &families.excluded_pods,
            &families.excluded_pods_unresolved,
            &families.helper_running,
            &families.event_watchers,
        ] {
            gauge.with(());
        }
        Self { families, kernel: KernelCounters::new(counters), programs, clients, stats }
    }

    pub fn source_event(&self, event: &Event) {
        let (kind, event) = match event {
            Event::Replace(kind, _) => (*kind, EventType::Replace),
            Event::Apply(sourced) => (sourced.reference.kind, EventType::Apply),
            Event::Delete(reference) => (reference.kind, EventType::Delete),
            Event::SourceErrors(_) | Event::Completeness(_) => return,
        };
        self.families.source_events.with(EventLabels { kind, event }).inc();
    }

    /// Counts a sync.
    pub fn count_sync(&self, scope: SyncScope) {
        self.families.syncs.with(SyncLabels { scope }).inc();
    }

    /// Records a sync that ended: all changes are in the kernel but for those that failed.
    pub fn synced(&self, took: Duration) {
        self.families.sync_duration.with(()).observe(took.as_secs_f64());
        self.families.last_sync_timestamp.set((), seconds(Timestamp::now()));
    }

    pub fn sync_failed(&self) {
        self.families.sync_errors.with(()).inc();
    }

    /// Shows what is not in the kernel as planned.
    pub fn out_of_sync<'a>(&self, objects: impl Iterator<Item = &'a UnsyncedObject>) {
        let (mut ports, mut other_nodes) = (Vec::new(), 0);
        let mut unknown = 0;
        for object in objects {
            match object {
                UnsyncedObject::ServicePort(port) => ports.push(port),
                UnsyncedObject::Unknown(_) => unknown += 1,
                UnsyncedObject::OtherNodes => other_nodes = 1,
            }
        }
        self.families.service_ports_out_of_sync.set((), (ports.len() + unknown) as f64);
        self.families.other_nodes_out_of_sync.set((), other_nodes.into());
        let named = ports.into_iter().take(MAX_NAMED_PORTS).map(|port| {
            let labels = ServicePortLabels {
                namespace: Arc::clone(&port.service.namespace),
                service: Arc::clone(&port.service.name),
                port: Arc::clone(&port.port_name),
                protocol: port.protocol,
            };
            (labels, 1.0)
        });
        self.families.service_port_out_of_sync.replace(named);
    }

    /// Records a change that is in the kernel from now on.
    pub fn programmed(&self, cause: &Cause) {
        let observe = |since: Since, latency: f64| {
            self.families
                .network_programming_duration
                .with(ProgrammingLabels { since })
                .observe(latency);
        };
        observe(Since::Arrival, cause.arrived.elapsed().as_secs_f64());
        if let Some(triggered) = cause.triggered {
            let latency = Timestamp::now().duration_since(triggered).as_secs_f64();
            // The clock of the cluster's controller may be ahead of this node's.
            observe(Since::Trigger, latency.max(0.0));
        }
    }

    /// Shows how full the maps are.
    pub fn usage(&self, usage: &Usage, maps: &[MapUse]) {
        let families = &self.families;
        families.service_ports.set((), usage.services as f64);
        families.frontends.set((), usage.frontends as f64);
        families.backends.set((), usage.allocator.backends.into());
        let by_map = |value: fn(&MapUse) -> u64| {
            maps.iter()
                .map(move |map| (MapLabels { map: map.name.as_str().into() }, value(map) as f64))
        };
        families.bpf_map_entries.replace(by_map(|map| map.entries));
        families.bpf_map_allocated_entries.replace(by_map(|map| map.allocated_entries));
        families.bpf_map_max_entries.replace(by_map(|map| map.max_entries));
    }

    pub fn excluded_pods(&self, pods: &[ExcludedPod]) {
        let count =
            |is: fn(ExclusionState) -> bool| pods.iter().filter(|pod| is(pod.state)).count();
        let found = count(|state| state == ExclusionState::Excluded);
        let unresolved =
            count(|state| matches!(state, ExclusionState::CgroupNotFound | ExclusionState::NoRoom));
        self.families.excluded_pods.set((), found as f64);
        self.families.excluded_pods_unresolved.set((), unresolved as f64);
    }

    pub fn invalid_objects(&self, count: usize) {
        self.families.invalid_objects.set((), count as f64);
    }

    pub fn repaired(&self, drift: &Drift) {
        for (object, count) in drift.by_kind() {
            let repairs = self.families.drift_repairs.with(DriftLabels { object });
            repairs.inc_by(count as u64);
        }
    }

    pub fn sockets_closed(&self, udp: usize, tcp: usize) {
        for (labels, closed) in [(CLOSED_UDP, udp), (CLOSED_TCP, tcp)] {
            self.families.sockets_closed.with(labels).inc_by(closed as u64);
        }
    }

    pub fn socket_close_errors(&self, count: usize) {
        self.families.socket_close_errors.with(()).inc_by(count as u64);
    }

    /// Records a scan for sockets whose backend was removed.
    pub fn sockets_scanned(&self, took: Duration) {
        self.families.socket_scan_duration.with(()).observe(took.as_secs_f64());
    }

    pub fn helper_started(&self) {
        self.families.helper_running.set((), 1.0);
    }

    pub fn helper_exited(&self) {
        self.families.helper_running.set((), 0.0);
        self.families.helper_exits.with(()).inc();
    }

    /// Records how many clients watch events.
    pub fn watchers(&self, count: usize) {
        self.families.event_watchers.set((), count as f64);
    }

    /// Counts what the map of clients has dropped, since it was created.
    pub fn clients_evicted(&self, all: u64) {
        let evicted = self.families.clients_evicted.with(());
        evicted.inc_by(all.saturating_sub(evicted.get()));
    }

    /// Records which connections hang while they are opened; `None` if that is not known.
    pub fn connections_hanging(&self, connections: Option<&[OpenConnection]>) {
        self.kernel.connections_hanging(connections);
    }

    /// Counts events that a client did not read in time.
    pub fn events_dropped(&self, count: u64) {
        self.kernel.events_dropped(count);
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder refuses a metric.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = String::new();
        self.families.write_kept(&mut text)?;
        self.write_source(&mut text);
        process::write(&self.families, &mut text);
        self.kernel.write(&self.families, &mut text);
        programs::write(&self.programs, &self.families, &mut text);
        if let Some(clients) = &self.clients {
            clients.write(&self.families, &mut text);
        }
        Ok(text)
    }

    fn write_source(&self, text: &mut String) {
        let errors = Kind::ALL.map(|kind| {
            let errors = self.stats.kind(kind).errors.load(Ordering::Relaxed);
            (KindLabels { kind }, errors as f64)
        });
        self.families.source_errors.write(errors, text);
        let watched = || Kind::ALL.into_iter().filter(|_| self.stats.is_watching());
        let connected = watched()
            .map(|kind| (KindLabels { kind }, self.stats.kind(kind).is_connected().into()));
        self.families
            .watch_connected
            .write(connected.map(|(kind, is): (_, u8)| (kind, is.into())), text);
        let last_events = watched().filter_map(|kind| {
            let age = self.stats.kind(kind).age()?;
            Some((KindLabels { kind }, seconds(Timestamp::now().checked_sub(age).ok()?)))
        });
        self.families.watch_last_event_timestamp.write(last_events, text);
    }
}

/// Unix time.
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}
