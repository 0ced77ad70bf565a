//! The clients of a service port, by the name of their workload. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::sample::Totals;
use crate::{
    dataplane::ClientConnections,
    escape::Escaped,
    workloads::{Client, Growth, Readings},
};

/// Their sums. Counts of a pod that is gone stay in the sum of its workload, so that it does not fall.
#[derive(Default)]
pub struct Clients {
    readings: Readings,
    sums: BTreeMap<String, Growth>,
    /// What the agent said, by the ids of cgroups. The kernel does not use an id again, so it stays while the agent does
    /// not answer, or knows less because it has just started.
    known: HashMap<u64, Client>,
}

impl Clients {
    /// Adds a reading, and what the agent says of its clients. A workload without clients is forgotten.
    pub fn update(
        &mut self,
        read: &[ClientConnections],
        known: Option<HashMap<u64, Client>>,
    ) -> Vec<(String, Totals)> {
        self.learn(read, known.unwrap_or_default());
        let mut active: BTreeMap<String, u64> = BTreeMap::new();
        let growths = self.readings.update(read);
        for (client, growth) in read.iter().zip(growths) {
            let name = self.name(client.cgroup);
            self.sums.entry(name.clone()).or_default().add(&growth);
            *active.entry(name).or_default() += client.active;
        }
        self.sums.retain(|name, _| active.contains_key(name));
        let totals = self.sums.iter().map(|(name, sum)| {
            let totals = Totals {
                opened: sum.opened,
                active: active.get(name).copied().unwrap_or(0),
                failed: sum.failed,
                sent: sum.sent,
                received: sum.received,
                ..Totals::default()
            };
            (name.clone(), totals)
        });
        totals.collect()
    }

    fn learn(&mut self, read: &[ClientConnections], answer: HashMap<u64, Client>) {
        for (cgroup, client) in answer {
            if client.workload.is_some() || !self.known.contains_key(&cgroup) {
                self.known.insert(cgroup, client);
            }
        }
        let present: HashSet<u64> = read.iter().map(|client| client.cgroup).collect();
        self.known.retain(|cgroup, _| present.contains(cgroup));
    }

    fn name(&self, cgroup: u64) -> String {
        let unknown = Client::default();
        let label = match self.known.get(&cgroup).unwrap_or(&unknown).label() {
            (name, "") => name,
            (name, kind) => format!("{name} ({kind})"),
        };
        Escaped(label).to_string()
    }
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::{client::ClientCounts, id::ServiceId, partly_counted::Part};

    use super::*;
    use crate::{
        dataplane::ServiceKey,
        model::object::{ObjectName, Protocol, Workload},
        status::PodRef,
        workloads::WorkloadRef,
    };

    fn read(closed: &[(u64, u64)]) -> Vec<ClientConnections> {
        let of = |&(cgroup, closed): &(u64, u64)| ClientConnections {
            cgroup,
            id: ServiceId(1),
            service: ServiceKey {
                service: ObjectName::new("shop", "cart"),
                port_name: "".into(),
                protocol: Protocol::Tcp,
            },
            active: 0,
            ended: ClientCounts { closed, ..ClientCounts::NONE },
            open: Part::default(),
        };
        closed.iter().map(of).collect()
    }

    fn pod(uid: &str) -> Client {
        Client { pod: Some(PodRef::new(None, uid)), workload: None }
    }

    fn web() -> Client {
        let workload = WorkloadRef::of_pod("shop", &Workload::new("Deployment", "web"));
        Client { workload: Some(workload), ..pod("1") }
    }

    /// `name opened`
    fn shown(totals: Vec<(String, Totals)>) -> Vec<String> {
        totals.into_iter().map(|(name, totals)| format!("{name} {}", totals.opened)).collect()
    }

    #[test]
    fn pods_of_a_workload_are_one_row() {
        let mut clients = Clients::default();
        let known = HashMap::from([(1, web()), (2, web()), (3, pod("0b7e"))]);
        let totals = clients.update(&read(&[(1, 2), (2, 3), (3, 4), (4, 5)]), Some(known));
        assert_eq!(shown(totals), ["pod uid 0b7e 4", "shop/web (Deployment) 5", "unknown 5"]);
    }

    #[test]
    fn a_client_keeps_its_name_while_the_agent_does_not_answer_or_knows_less() {
        let mut clients = Clients::default();
        clients.update(&read(&[(1, 2)]), Some(HashMap::from([(1, web())])));
        for answer in [None, Some(HashMap::new()), Some(HashMap::from([(1, pod("1"))]))] {
            let totals = clients.update(&read(&[(1, 2), (2, 1)]), answer);
            assert_eq!(shown(totals), ["shop/web (Deployment) 2", "unknown 1"]);
        }
    }

    #[test]
    fn a_client_gets_its_name_when_it_becomes_known() {
        let mut clients = Clients::default();
        clients.update(&read(&[(1, 2)]), None);
        clients.update(&read(&[(1, 2)]), Some(HashMap::from([(1, pod("1"))])));
        let totals = clients.update(&read(&[(1, 5)]), Some(HashMap::from([(1, web())])));
        // What was counted under another name is not new.
        assert_eq!(shown(totals), ["shop/web (Deployment) 3"]);
    }
}
