//! Applies the plan of one service port.
//!
//! Called by `sync`; calls `maps`. [`Reconciler::apply`] in here has the order of the steps:
//! `addition.rs` takes room and writes backends and slots, `entry.rs` makes the entries of frontends, and once
//! frontends that are no longer in the plan are removed, `release.rs` frees what no frontend refers to.
//!
//! Invariants: a service port changes in full or not at all, because room for all of it is taken before the first
//! frontend changes. Backends and slots are written before a frontend leads to them.

mod addition;
mod entry;
mod release;

use std::{collections::BTreeSet, sync::Arc};

use sockline_ebpf::{frontend::FrontendKey, id::ServiceId};

pub(super) use self::addition::members;
use self::{addition::Addition, entry::entry};
use super::{
    ObsoleteFrontends, Reconciler, ServicePortState,
    encode::{self, DesiredServicePort},
};
use crate::{
    bpf::error::Full,
    dataplane::{
        error::DataplaneError,
        maps::{
            SERVICE_NAMES,
            allocator::{Allocator, SERVICE_IDS, WaitPolicy},
            service_names::{self, ServiceKey},
        },
    },
    model::plan::{self, Action},
};

impl Reconciler {
    pub(super) fn is_current(&self, service_port: &DesiredServicePort<'_>) -> bool {
        self.service_ports.get(&service_port.key).is_some_and(|installed| {
            installed.source.len() == service_port.frontends.len()
                && installed
                    .source
                    .iter()
                    .zip(&service_port.frontends)
                    .all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }

    /// Whether a service that an earlier agent forwarded, and that was in no plan of this process
    /// yet, would now be refused because it has no endpoints.
    pub(super) fn would_cut_off(&self, service_port: &DesiredServicePort<'_>) -> bool {
        let Some(installed) =
            self.service_ports.get(&service_port.key).filter(|known| !known.confirmed)
        else {
            return false;
        };
        let is_forwarded = |address| {
            self.frontends.entries().get(&address).is_some_and(|entry| {
                entry.service == installed.id
                    && encode::action_of(entry.action) == Some(Action::Forward)
            })
        };
        service_port.frontends.iter().filter(|frontend| frontend.action == Action::Refuse).any(
            |frontend| {
                encode::addresses(frontend, self.at_node.addresses())
                    .into_iter()
                    .any(|address| is_forwarded(encode::key(frontend, address)))
            },
        )
    }

    /// Applies a service port in full or not at all: room for all of it is taken before the first
    /// frontend changes.
    pub(super) fn apply(
        &mut self,
        service_port: &DesiredServicePort<'_>,
        obsolete: &mut ObsoleteFrontends,
        wait_policy: WaitPolicy,
    ) -> Result<(), DataplaneError> {
        if let Some(installed) = self.service_ports.get_mut(&service_port.key) {
            installed.source.clear();
            installed.confirmed = true;
        }
        self.released.remove(&service_port.key);
        let desired_frontends = self.desired_frontends(service_port);
        let taken: Vec<(FrontendKey, ServiceId)> = desired_frontends
            .iter()
            .filter_map(|(_, key)| Some((*key, self.retained_owner(key)?)))
            .collect();
        let entries = self.frontends.entries();
        let more = desired_frontends.iter().filter(|(_, key)| !entries.contains_key(key)).count();
        self.frontends.reserve(more)?;
        let addition = Addition::take(
            &mut self.allocator,
            self.service_ports.get(&service_port.key),
            service_port,
            wait_policy,
        )?;
        if !self.service_ports.contains_key(&service_port.key) {
            match self.new_id(&service_port.key) {
                Ok(id) => {
                    let new =
                        ServicePortState { id, confirmed: true, ..ServicePortState::default() };
                    self.service_ports.insert(service_port.key.clone(), new);
                }
                Err(error) => {
                    addition.give_back(&mut self.allocator);
                    return Err(error);
                }
            }
        }
        let Some(installed) = self.service_ports.get_mut(&service_port.key) else { return Ok(()) };
        let written = addition.write(&mut self.allocator, installed).and_then(|()| {
            let entries =
                desired_frontends.iter().map(|(frontend, key)| entry(installed, frontend, *key));
            self.frontends.set_all(&entries.collect::<Vec<_>>())
        });
        written?;
        change_in_place(&mut self.allocator, installed, service_port)?;
        let keys: BTreeSet<FrontendKey> =
            desired_frontends.into_iter().map(|(_, key)| key).collect();
        obsolete.extend(installed.keys.difference(&keys).map(|key| (*key, installed.id)));
        installed.keys = keys;
        installed.source =
            service_port.frontends.iter().map(|&frontend| Arc::clone(frontend)).collect();
        installed.is_deleted = false;
        self.take_from_retained(&taken);
        Ok(())
    }

    /// The keys of a service port's frontends, without addresses of the node where a NodePort is, and those that
    /// a retained service has.
    fn desired_frontends<'a>(
        &mut self,
        service_port: &DesiredServicePort<'a>,
    ) -> Vec<(&'a plan::Frontend, FrontendKey)> {
        let mut desired_frontends = Vec::with_capacity(service_port.frontends.len());
        let mut waiting = None;
        for &frontend in &service_port.frontends {
            for address in encode::addresses(frontend, self.at_node.addresses()) {
                let key = encode::key(frontend, address);
                if self.at_node.loses(frontend, key) {
                    continue;
                }
                if self.is_address_retained(frontend, &key) {
                    waiting = Some(&**frontend);
                } else {
                    desired_frontends.push((&**frontend, key));
                }
            }
        }
        self.set_waiting_for_address(&service_port.key, waiting);
        desired_frontends
    }

    fn new_id(&mut self, key: &ServiceKey) -> Result<ServiceId, DataplaneError> {
        let id =
            self.allocator.add_service().ok_or(Full { map: SERVICE_NAMES, limit: SERVICE_IDS })?;
        // Counters that a program of an earlier service with this id may have written late.
        let _ = self.counters.remove(&id);
        let _ = self.stats.remove(&id);
        if let Err(error) = service_names::write(&mut self.names, id, key) {
            self.allocator.withdraw_service(id);
            return Err(error);
        }
        Ok(id)
    }
}

/// Writes the weights that the slots were made with, and the classes of traffic, which change when this node's zone
/// becomes known, or an endpoint's.
fn change_in_place(
    allocator: &mut Allocator,
    installed: &mut ServicePortState,
    service_port: &DesiredServicePort<'_>,
) -> Result<(), DataplaneError> {
    for (list, _) in encode::lists(service_port) {
        for &plan::Backend { address, port, weight, traffic_class } in list.iter() {
            if let Some(known) = installed.backends.get_mut(&(address, port))
                && (known.weight, known.traffic_class) != (weight, traffic_class)
            {
                (known.weight, known.traffic_class) = (weight, traffic_class);
                known.write(allocator)?;
            }
        }
    }
    Ok(())
}
