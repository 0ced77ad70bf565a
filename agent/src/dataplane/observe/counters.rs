//! The programs' counters: connections, refusals and faults, summed over all CPUs.

use std::collections::{BTreeMap, HashMap};

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use sockline_ebpf::{
    backend::Backend,
    counters::{self, Fault, ServiceCounters},
    id::ServiceId,
};

use crate::{
    bpf::kinds::{hash, segmented_array::Reader},
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            allocator::{
                backend_entry::{CONNECTIONS, SERVICE},
                removed_backend_counts::TransferLock,
            },
            service_names::{self, ServiceKey},
        },
        pinning::layout::Pins,
    },
    model::probe_service::is_probe,
};

/// Counts of one service port, summed over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub translated: u64,
    pub refused_no_endpoints: u64,
    pub refused_no_local_endpoints: u64,
    pub bypassed: u64,
    pub failed_open: u64,
    pub bypassed_stale: u64,
}

/// The name of a fault in metrics and JSON.
#[must_use]
pub const fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::StaleEntry => "stale-entry",
        Fault::OwnerMismatch => "owner-mismatch",
        Fault::NotRemembered => "not-remembered",
        Fault::AffinityFull => "affinity-full",
        Fault::CountersFull => "counters-full",
        Fault::SocketLimit => "socket-limit",
    }
}

/// The kernel's counters, kept open.
pub struct Counters {
    pins: Pins,
    services: PerCpuHashMap<MapData, ServiceId, ServiceCounters>,
    faults: PerCpuArray<MapData, u64>,
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
            faults: maps::open_faults(pins)?,
            backends,
            transfer_lock,
        })
    }

    /// Every service port that has a name; those that were never used count zero.
    pub fn services(&self) -> Result<BTreeMap<ServiceKey, Counts>, DataplaneError> {
        let mut translated = self.translated()?;
        let mut counted: HashMap<ServiceId, Counts> = HashMap::new();
        hash::for_each(maps::SERVICE_COUNTERS, &self.services, |&id, per_cpu| {
            counted.insert(id, sum(per_cpu));
        })?;
        let mut all = BTreeMap::new();
        for (id, key) in service_names::read_all(&maps::open_names(&self.pins)?)? {
            if is_probe(&key.service) {
                continue;
            }
            let mut counts = counted.remove(&id).unwrap_or_default();
            counts.translated = translated.remove(&id).unwrap_or_default();
            all.insert(key, counts);
        }
        Ok(all)
    }

    /// Connections by service id: those of its backends, and of former ones.
    fn translated(&self) -> Result<HashMap<ServiceId, u64>, DataplaneError> {
        let mut all: HashMap<ServiceId, u64> = HashMap::new();
        // A segment that is created after this has no count that was ever shown.
        let segments = self.backends.segments();
        // The control loop waits for this lock. It covers one system call for each few thousand
        // services with removed backends, and memory reads.
        let _transfer = self.transfer_lock.lock();
        // Opened each time, because a larger one may be in its place, and under the lock, because it may be
        // put there while a count moves: the old one would lack that count.
        let removed_counts = maps::open_removed_backends(&self.pins)?;
        hash::for_each(maps::REMOVED_BACKENDS, &removed_counts, |&id, connections: &[u64]| {
            all.insert(id, connections.iter().sum());
        })?;
        for segment in segments {
            for entry in (0..segment.len()).map(|index| segment.cell(index)) {
                let service = entry.get(SERVICE);
                if service != ServiceId::NONE {
                    *all.entry(service).or_default() += entry.get(CONNECTIONS);
                }
            }
        }
        Ok(all)
    }

    /// Calls of all services that were bypassed because there was no agent.
    pub fn bypassed_stale(&self) -> Result<u64, DataplaneError> {
        let mut all = 0;
        hash::for_each(maps::SERVICE_COUNTERS, &self.services, |_: &ServiceId, per_cpu| {
            all += sum(per_cpu).bypassed_stale;
        })?;
        Ok(all)
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
    for one in per_cpu {
        total.refused_no_endpoints += one.refused[counters::NO_ENDPOINTS as usize];
        total.refused_no_local_endpoints += one.refused[counters::NO_LOCAL_ENDPOINTS as usize];
        total.bypassed += one.bypassed;
        total.failed_open += one.failed_open;
        total.bypassed_stale += one.bypassed_stale;
    }
    total
}
