//! Reads a node from its pinned maps, with or without a running agent.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use sockline_ebpf::{
    agent::FeatureSet,
    backend::{Backend as BackendEntry, Slot},
    frontend::{Frontend as FrontendEntry, FrontendKey},
    id::ServiceId,
    telemetry::ConnectionCounts,
};

use super::{clients::Clients, counters::Counters};
use crate::{
    bpf::{
        kinds::{hash, segmented_array::SegmentedArray},
        mmap::Access,
    },
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            agent_record::{self, AgentRecord},
            agent_state::Deadline,
            allocator::removed_backend_counts::TransferLock,
            service_names::{self, ServiceKey},
        },
        pinning::layout::Pins,
        programs::{
            links::{self, Attachment},
            load::HOOKS,
        },
        reconcile::encode,
    },
    model::{
        object::{Family, ObjectName},
        plan::{Action, Backend, Frontend, FrontendAddress, FrontendKind},
        probe_service::is_probe,
    },
};

/// A node's kernel state, opened for reading.
pub struct Snapshot {
    pins: Pins,
}

impl Snapshot {
    pub fn open(pins: Pins) -> Result<Self, DataplaneError> {
        if !pins.map(maps::AGENT_RECORD).exists() {
            return Err(match std::fs::metadata(pins.root()) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    DataplaneError::io(
                        format!("read {} (it needs root)", pins.root().display()),
                        error,
                    )
                }
                _ => DataplaneError::NotInstalled(pins.root().to_owned()),
            });
        }
        Ok(Self { pins })
    }

    pub fn agent(&self) -> Result<AgentRecord, DataplaneError> {
        agent_record::RecordWriter::read(&self.pins)
    }

    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Whether an agent runs on these pins.
    pub fn agent_runs(&self) -> Result<bool, DataplaneError> {
        self.pins.are_locked()
    }

    /// How each hook is attached to the agent's cgroup.
    pub fn attachments(&self) -> Result<Vec<(&'static str, Attachment)>, DataplaneError> {
        let cgroup = self.agent()?.cgroup;
        HOOKS
            .iter()
            .map(|hook| Ok((hook.name, links::attachment(&self.pins, hook, &cgroup)?)))
            .collect()
    }

    /// Every frontend in the maps, in the terms of the plan and in its order. The addresses of a
    /// NodePort are one frontend, as in the plan.
    pub fn frontends(&self) -> Result<Vec<Arc<Frontend>>, DataplaneError> {
        self.frontends_if(|_| true)
    }

    /// As [`Self::frontends`], of one service.
    pub fn frontends_of(&self, service: &ObjectName) -> Result<Vec<Arc<Frontend>>, DataplaneError> {
        self.frontends_if(|key| key.service == *service)
    }

    /// The names of all services in the maps, sorted.
    pub fn services(&self) -> Result<BTreeSet<ObjectName>, DataplaneError> {
        let names = service_names::read_all(&maps::open_names(&self.pins)?)?;
        Ok(names.into_values().map(|key| key.service).filter(|name| !is_probe(name)).collect())
    }

    fn frontends_if(
        &self,
        is_wanted: impl Fn(&ServiceKey) -> bool,
    ) -> Result<Vec<Arc<Frontend>>, DataplaneError> {
        let array = maps::open_frontends(&self.pins, Access::Read)?;
        let Some(current) = maps::current_frontends(&array)? else { return Ok(Vec::new()) };
        let names = service_names::read_all(&maps::open_names(&self.pins)?)?;
        let slots = maps::open_slots(&self.pins, u32::MAX, Access::Read)?;
        let backends = maps::open_backends(&self.pins, u32::MAX, Access::Read)?;
        let mut node_ports: BTreeMap<(ServiceKey, Family, u16), Frontend> = BTreeMap::new();
        let mut all = Vec::new();
        for entry in entries(&current)? {
            let Some(key) = names.get(&entry.service).cloned().or_else(|| nameless(&entry)) else {
                continue;
            };
            if is_probe(&key.service) || !is_wanted(&key) {
                continue;
            }
            let Some(frontend) = frontend(&entry, &key, &slots, &backends) else { continue };
            if frontend.address == FrontendAddress::Node {
                node_ports.insert((key, frontend.family, frontend.port), frontend);
            } else {
                all.push(frontend);
            }
        }
        all.extend(node_ports.into_values());
        all.sort_by(crate::model::plan::order);
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// How many service addresses are in the maps: what `--max-frontends` limits, as the agent counts
    /// them. A NodePort is one at each of the node's addresses.
    pub fn count_frontends(&self) -> Result<usize, DataplaneError> {
        let array = maps::open_frontends(&self.pins, Access::Read)?;
        let Some(current) = maps::current_frontends(&array)? else { return Ok(0) };
        let tests: HashSet<ServiceId> = service_names::read_all(&maps::open_names(&self.pins)?)?
            .into_iter()
            .filter_map(|(id, key)| is_probe(&key.service).then_some(id))
            .collect();
        Ok(entries(&current)?.iter().filter(|entry| !tests.contains(&entry.service)).count())
    }

    /// The backends that connects are spread over, by service port, each with the
    /// counts of its connections. Sorted by address; a service without backends is there, too.
    pub fn backends(
        &self,
    ) -> Result<BTreeMap<ServiceKey, Vec<(Backend, ConnectionCounts)>>, DataplaneError> {
        let names = service_names::read_all(&maps::open_names(&self.pins)?)?;
        let entries = maps::open_backends(&self.pins, u32::MAX, Access::Read)?;
        let mut all: BTreeMap<ServiceKey, Vec<(Backend, ConnectionCounts)>> = names
            .values()
            .filter(|key| !is_probe(&key.service))
            .map(|key| (key.clone(), Vec::new()))
            .collect();
        for entry in entries.indices().filter_map(|id| entries.read(id)) {
            // Without a set it is on its way out.
            if !entry.scopes.is_empty()
                && let Some(list) = names.get(&entry.service).and_then(|key| all.get_mut(key))
            {
                list.push((backend(&entry), entry.counts));
            }
        }
        for list in all.values_mut() {
            list.sort_unstable_by_key(|&(backend, _)| backend);
        }
        Ok(all)
    }

    /// When all calls are bypassed because there is no agent.
    pub fn deadline(&self) -> Result<Deadline, DataplaneError> {
        Deadline::read(&self.pins)
    }

    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        let backends = maps::open_backends(&self.pins, u32::MAX, Access::Read)?.reader();
        Counters::open(&self.pins, backends, TransferLock::default())
    }

    /// Connections by client and service port.
    pub fn clients(&self) -> Result<Clients, DataplaneError> {
        Clients::open(&self.pins, self.agent()?.features)
    }

    /// Sockets that are translated now, as far as they are in the socket table; `None` where the
    /// table is not used (see [`super::Features::compare_and_swap`]).
    pub fn sockets(&self) -> Result<Option<usize>, DataplaneError> {
        if !self.agent()?.features.contains(FeatureSet::COMPARE_AND_SWAP) {
            return Ok(None);
        }
        let table = maps::open_sockets(&self.pins, Access::Read)?;
        let in_use = |set| table.read(set).cookies.iter().filter(|&&cookie| cookie != 0).count();
        Ok(Some((0..table.len()).map(in_use).sum()))
    }
}

fn entries(current: &maps::FrontendsHash) -> Result<Vec<FrontendEntry>, DataplaneError> {
    let mut all = Vec::new();
    hash::for_each(maps::FRONTENDS, current, |key: &FrontendKey, entries| {
        if !key.is_node_mark() {
            all.extend_from_slice(entries);
        }
    })?;
    Ok(all)
}

/// The address in the terms of the plan.
fn address_of(entry: &FrontendEntry, kind: FrontendKind) -> FrontendAddress {
    let address = entry.key.address;
    match kind {
        FrontendKind::NodePort if address.is_unspecified() => FrontendAddress::OtherNodes,
        FrontendKind::NodePort if entry.node == 0 => FrontendAddress::Node,
        _ => FrontendAddress::Ip(address.into()),
    }
}

fn nameless(entry: &FrontendEntry) -> Option<ServiceKey> {
    Some(ServiceKey {
        service: ObjectName::new("", format!("service {}", entry.service)),
        port_name: "".into(),
        protocol: encode::protocol_of(entry.key.protocol)?,
    })
}

/// `None` for a corrupt entry, which `sockline check` reports as drift and the agent repairs.
fn frontend(
    entry: &FrontendEntry,
    key: &ServiceKey,
    slots: &SegmentedArray<Slot>,
    backends: &SegmentedArray<BackendEntry>,
) -> Option<Frontend> {
    let address: IpAddr = entry.key.address.into();
    let kind = encode::kind_of(entry.kind)?;
    let action = encode::action_of(entry.action)?;
    let reason = match action {
        Action::Forward => None,
        Action::Refuse | Action::Bypass => Some(encode::reason_of(entry.reason)?),
    };
    Some(Frontend {
        service: key.service.clone(),
        port_name: key.port_name.clone(),
        address: address_of(entry, kind),
        family: Family::of(address),
        port: u16::from_be(entry.key.port),
        protocol: key.protocol,
        kind,
        action,
        reason,
        affinity_seconds: (entry.affinity_seconds != 0).then_some(entry.affinity_seconds),
        balance: encode::balance_of(entry.balance)?,
        of_node: entry.node,
        backends: members(entry, slots, backends).into(),
    })
}

fn backend(entry: &BackendEntry) -> Backend {
    Backend {
        address: entry.address.into(),
        port: u16::from_be(entry.port),
        weight: entry.weight,
        traffic_class: encode::traffic_class_of(entry.class),
    }
}

fn members(
    entry: &FrontendEntry,
    slots: &SegmentedArray<Slot>,
    backends: &SegmentedArray<BackendEntry>,
) -> Vec<Backend> {
    let start = entry.slot_start.0;
    let range = start..start.saturating_add(entry.slot_count);
    let mut members: Vec<Backend> = range
        .filter_map(|index| slots.read(index))
        .flat_map(|slot| [slot.backend, slot.alias])
        .filter_map(|id| backends.read(id.0))
        .filter(|backend| backend.service == entry.service)
        .map(|entry| backend(&entry))
        .collect();
    members.sort_unstable();
    members.dedup();
    members
}
