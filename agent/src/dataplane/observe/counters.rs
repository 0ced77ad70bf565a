//! The programs' counters: connections and how they ended, refusals and faults, summed over all CPUs.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use sockline_ebpf::{
    backend::Backend,
    carried::CarriedCounts,
    counters::{Fault, ServiceCounters},
    event::EventCounts,
    frontend::Reason,
    id::ServiceId,
    telemetry::{ClassCounts, ConnectionCounts, End, RemovedBackends, ServiceStats},
};

use super::events;
use crate::{
    bpf::kinds::{hash, segmented_array::Reader},
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            allocator::{
                backend_entry::{CLASS, COUNTS, SERVICE},
                removed_backend_counts::TransferLock,
            },
            service_names::{self, ServiceKey},
        },
        pinning::layout::Pins,
        reconcile::encode,
    },
    model::{plan::TrafficClass, probe_service::is_probe},
};

/// Counts of one service port, summed over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// The service port's, in the maps.
    pub id: ServiceId,
    /// Of its backends, and of former ones.
    pub connections: ConnectionCounts,
    /// The same by class of traffic; `None` if there are none.
    pub by_class: Option<Box<ClassCounts>>,
    /// Its present backends with connections that were not established.
    pub failures: Vec<BackendFailures>,
    /// How they ended; `None` if none has.
    pub ends: Option<Box<ServiceStats>>,
    pub refused_no_endpoints: u64,
    pub refused_no_local_endpoints: u64,
    pub bypassed: u64,
    pub failed_open: u64,
    pub bypassed_stale: u64,
}

/// A backend that did not establish all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendFailures {
    pub address: IpAddr,
    pub port: u16,
    /// Connections that were refused, timed out or were unreachable.
    pub failed: u64,
    /// Connections that were established and ended.
    pub ended: u64,
    /// Bytes that came from it, also on connections that are open.
    pub received: u64,
}

impl BackendFailures {
    /// `None` if there are none. What clients gave up says nothing of the backend.
    fn of(backend: &Backend) -> Option<Self> {
        let ConnectionCounts { closed, received, failed: all, .. } = backend.counts;
        let failed = [End::Refused, End::TimedOut, End::Unreachable].into_iter();
        let failed = failed.filter_map(End::as_failure).map(|place| all[place]).sum();
        (failed > 0).then(|| Self {
            address: backend.address.into(),
            port: u16::from_be(backend.port),
            failed,
            ended: closed.saturating_sub(all.iter().sum()),
            received,
        })
    }
}

impl Counts {
    /// Its connections of one class: what a backend counts is of the class that it has at that time. Those of all classes
    /// are [`Self::connections`].
    #[must_use]
    pub fn of_class(&self, class: TrafficClass) -> ConnectionCounts {
        let by_class = self.by_class.as_deref();
        by_class.map_or(ConnectionCounts::NONE, |all| *all.of(encode::traffic_class(class)))
    }

    /// Adds calls that got no backend.
    fn add_calls(&mut self, calls: &ServiceCounters) {
        self.refused_no_endpoints += calls.refused[Reason::NoEndpoints as usize];
        self.refused_no_local_endpoints += calls.refused[Reason::NoLocalEndpoints as usize];
        self.bypassed += calls.bypassed;
        self.failed_open += calls.failed_open;
        self.bypassed_stale += calls.bypassed_stale;
    }
}

/// A fault that the programs count, as metrics, JSON and documents have it.
pub struct FaultInfo {
    pub name: &'static str,
    pub meaning: &'static str,
}

/// In the order of [`Fault`].
pub const FAULTS: [FaultInfo; Fault::ALL.len()] = [
    FaultInfo {
        name: "stale-entry",
        meaning: "an entry changed while it was read; each failed look-up counts",
    },
    FaultInfo {
        name: "owner-mismatch",
        meaning: "the second look-up failed too, and the call was not translated",
    },
    FaultInfo {
        name: "not-remembered",
        meaning: "no record of a socket could be kept: `getpeername()` returns the endpoint's address",
    },
    FaultInfo { name: "affinity-full", meaning: "no room for a client's session affinity" },
    FaultInfo { name: "counters-full", meaning: "no room for a service port's counters" },
    FaultInfo {
        name: "socket-limit",
        meaning: "a cgroup, or all together, have as many records of sockets as allowed",
    },
];

/// The name of a fault in metrics and JSON.
#[must_use]
pub const fn fault_name(fault: Fault) -> &'static str {
    FAULTS[fault as usize].name
}

/// By service id.
#[derive(Default)]
struct Connections {
    by_service: HashMap<ServiceId, Box<ClassCounts>>,
    failures: HashMap<ServiceId, Vec<BackendFailures>>,
}

/// The kernel's counters, kept open.
pub struct Counters {
    pins: Pins,
    services: PerCpuHashMap<MapData, ServiceId, ServiceCounters>,
    stats: PerCpuHashMap<MapData, ServiceId, ServiceStats>,
    faults: PerCpuArray<MapData, u64>,
    events: PerCpuArray<MapData, EventCounts>,
    backends: Reader<Backend>,
    transfer_lock: TransferLock,
}

impl Counters {
    pub(crate) fn open(
        pins: &Pins,
        backends: Reader<Backend>,
        transfer_lock: TransferLock,
    ) -> Result<Self, DataplaneError> {
        Ok(Self {
            pins: pins.clone(),
            services: maps::open_service_counters(pins)?,
            stats: maps::open_service_stats(pins)?,
            faults: maps::open_faults(pins)?,
            events: maps::open_event_counts(pins)?,
            backends,
            transfer_lock,
        })
    }

    /// Every service port that has a name; those that were never used count zero. None while the counts of another layout are
    /// not carried over: they would fall.
    pub fn services(&self) -> Result<BTreeMap<ServiceKey, Counts>, DataplaneError> {
        if self.pins.others_have_counts() {
            return Ok(BTreeMap::new());
        }
        // First the connections: what ends meanwhile is known and not closed yet, and never closed and unknown.
        let Connections { by_service: mut connections, mut failures } = self.connections()?;
        let mut ends = self.ends()?;
        let mut counted: HashMap<ServiceId, Counts> = HashMap::new();
        hash::for_each(maps::SERVICE_COUNTERS, &self.services, |&id, per_cpu| {
            counted.insert(id, sum(per_cpu));
        })?;
        let carried = maps::open_carried_counts(&self.pins)?;
        hash::for_each(maps::CARRIED_COUNTS, &carried, |&id, carried: &[CarriedCounts]| {
            for CarriedCounts { stats, calls, .. } in carried {
                ends.entry(id).or_insert_with(|| Box::new(ServiceStats::NONE)).add(stats);
                counted.entry(id).or_default().add_calls(calls);
            }
        })?;
        let mut all = BTreeMap::new();
        for (id, key) in service_names::read_all(&maps::open_names(&self.pins)?)? {
            if is_probe(&key.service) {
                continue;
            }
            let mut counts = counted.remove(&id).unwrap_or_default();
            let mut by_class = connections.remove(&id);
            counts.id = id;
            counts.ends = ends.remove(&id);
            counts.failures = failures.remove(&id).unwrap_or_default();
            if let Some(ends) = &counts.ends {
                by_class.get_or_insert_default().add(&ends.of_removed);
            }
            counts.connections = by_class.as_ref().map(|all| all.total()).unwrap_or_default();
            counts.by_class = by_class;
            all.insert(key, counts);
        }
        Ok(all)
    }

    /// How connections ended, by service id.
    fn ends(&self) -> Result<HashMap<ServiceId, Box<ServiceStats>>, DataplaneError> {
        let mut all = HashMap::new();
        hash::for_each(maps::SERVICE_STATS, &self.stats, |&id, per_cpu: &[ServiceStats]| {
            let mut sum = Box::new(ServiceStats::NONE);
            per_cpu.iter().for_each(|one| sum.add(one));
            all.insert(id, sum);
        })?;
        Ok(all)
    }

    /// Connections of services: those of their backends, and those of former ones that ended before.
    fn connections(&self) -> Result<Connections, DataplaneError> {
        let Connections { by_service: mut all, mut failures } = Connections::default();
        // A segment that is created after this has no count that was ever shown.
        let segments = self.backends.segments();
        // The control loop waits for this lock. It covers one system call for each few thousand
        // services with removed backends, and memory reads.
        let _transfer = self.transfer_lock.lock();
        // Opened each time, because a larger one may be in its place, and under the lock, because it may be
        // put there while a count moves: the old one would lack that count.
        let removed_counts = maps::open_removed_backends(&self.pins)?;
        hash::for_each(
            maps::REMOVED_BACKENDS,
            &removed_counts,
            |&id, removed: &[RemovedBackends]| {
                let of_service = all.entry(id).or_default();
                removed.iter().for_each(|one| of_service.add(&one.counts));
            },
        )?;
        for segment in segments {
            for entry in (0..segment.len()).map(|index| segment.cell(index)) {
                let service = entry.get(SERVICE);
                if service != ServiceId::NONE {
                    let counts = entry.get(COUNTS);
                    if counts != ConnectionCounts::NONE {
                        let of_service = all.entry(service).or_default();
                        of_service.of_byte(entry.get(CLASS)).add(&counts);
                        if counts.failed != [0; End::FAILURES]
                            && let Some(failed) =
                                BackendFailures::of(&Backend { counts, ..entry.read() })
                        {
                            failures.entry(service).or_default().push(failed);
                        }
                    }
                }
            }
        }
        Ok(Connections { by_service: all, failures })
    }

    /// Calls of all services that were bypassed because there was no agent.
    pub fn bypassed_stale(&self) -> Result<u64, DataplaneError> {
        let mut all = 0;
        hash::for_each(maps::SERVICE_COUNTERS, &self.services, |_: &ServiceId, per_cpu| {
            all += sum(per_cpu).bypassed_stale;
        })?;
        Ok(all)
    }

    /// What became of events, on all CPUs.
    pub fn events(&self) -> Result<EventCounts, DataplaneError> {
        events::counts(&self.events)
    }

    pub fn faults(&self) -> Result<Vec<(Fault, u64)>, DataplaneError> {
        Fault::ALL
            .into_iter()
            .map(|fault| {
                let per_cpu = self
                    .faults
                    .get(&(fault as u32), 0)
                    .map_err(|error| DataplaneError::map(maps::FAULTS, "read", error))?;
                Ok((fault, per_cpu.iter().sum()))
            })
            .collect()
    }
}

fn sum(per_cpu: &[ServiceCounters]) -> Counts {
    let mut total = Counts::default();
    per_cpu.iter().for_each(|one| total.add_calls(one));
    total
}
