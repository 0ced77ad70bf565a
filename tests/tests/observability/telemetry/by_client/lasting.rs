//! Counts of clients outlive agents, and not their service; the map is bounded, and what is lost is counted.

use std::{
    io::Read as _,
    mem::offset_of,
    net::{TcpListener, TcpStream},
};

use sockline_ebpf::{agent_state::AgentState, client::ClientCounts};
use sockline_testbed::{Metrics, Service, bpf::RawMap};

use super::{Clients, V4, all, of};
use crate::common::{eventually, holds};

use sockline::dataplane::Pins;
use sockline_testbed::Protocol;

const ONE: ClientCounts = ClientCounts { closed: 1, ..ClientCounts::NONE };
const TWO: ClientCounts = ClientCounts { closed: 2, ..ClientCounts::NONE };

fn map(clients: &Clients, name: &str) -> RawMap {
    RawMap::pinned(&Pins::in_bpffs(clients.web.cluster.node().bpffs()).map(name)).unwrap()
}

#[test]
fn counts_of_clients_outlive_the_agent() {
    let mut clients = Clients::new();
    drop(clients.connection(&clients.front, V4));
    let mut open = Some(clients.connection(&clients.front, V4));
    clients.web.cluster.restart(|_| drop(open.take())).unwrap();
    clients.assert_counted(&clients.front, "web", 0, TWO);
    // Another size of the map, and back.
    for size in ["4096", "1024"] {
        clients
            .web
            .cluster
            .restart(|options| {
                options.args = vec!["--max-clients".to_owned(), size.to_owned()];
            })
            .unwrap();
        clients.assert_counted(&clients.front, "web", 0, TWO);
    }
    drop(clients.connection(&clients.front, V4));
    let three = ClientCounts { closed: 3, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "web", 0, three);
}

#[test]
fn counts_of_a_deleted_service_go_also_those_that_come_late() {
    let mut clients = Clients::with(&["--reconcile-interval", "1s"]);
    drop(clients.connection(&clients.front, V4));
    let (late, _server) = clients.connection(&clients.front, V4);
    clients.assert_counted(&clients.front, "web", 1, ONE);
    clients.web.cluster.remove("web").unwrap();
    let entries = map(&clients, "CLIENTS");
    let has = |count| {
        let keys = entries.keys().unwrap();
        holds(keys.len() == count, format!("{keys:?}"))
    };
    eventually("the entry of the deleted service to go", || has(0));
    // An agent that does not look again, for the entry that comes late to be seen; and another one, which looks.
    let args = ["--reconcile-interval", "86400s"].map(ToOwned::to_owned).to_vec();
    clients.web.cluster.restart(|options| options.args = args).unwrap();
    // It looks once at its start, beside the control loop.
    eventually("the agent to have looked", || {
        let text = clients.web.cluster.agent().metrics().unwrap();
        holds(text.contains("sockline_bpf_map_entries{map=\"clients\"}"), "no entries yet")
    });
    drop(late);
    eventually("the entry to come again", || has(1));
    clients.web.cluster.restart(|_| ()).unwrap();
    eventually("the entry to go again", || has(0));
    assert_eq!(all(clients.web.cluster.node()), []);
    let totals = map(&clients, "CLIENT_TOTALS");
    eventually("nothing to be lost", || {
        let made = totals.get(&[0; 4]).unwrap().unwrap();
        holds(made == [0; 8], format!("{made:?}"))
    });
}

#[test]
fn a_service_that_gets_the_id_of_a_deleted_one_does_not_get_its_clients() {
    let mut clients = Clients::with(&["--reconcile-interval", "86400s"]);
    let heir = |name: &str| Service::new(name).ip("10.96.0.9").tcp(80).to(8080);
    clients.web.cluster.apply([heir("first").endpoints([&clients.web.web])]).unwrap();
    drop(clients.connection(&clients.front, "10.96.0.9:80"));
    clients.assert_counted(&clients.front, "first", 0, ONE);
    let first = all(clients.web.cluster.node())[0].id;
    clients.web.cluster.remove("first").unwrap();
    assert_eq!(map(&clients, "CLIENTS").keys().unwrap().len(), 1, "the agent has not looked yet");
    let state = map(&clients, "AGENT_STATE");
    clients
        .web
        .cluster
        .restart(|_| {
            // As if ids had gone round.
            let mut value = state.get(&[0; 4]).unwrap().unwrap();
            let at = offset_of!(AgentState, last_service);
            value[at..at + 8].copy_from_slice(&u64::from(first.0 - 1).to_ne_bytes());
            state.set(&[0; 4], &value).unwrap();
        })
        .unwrap();
    clients.web.cluster.apply([heir("second").endpoints([&clients.web.web])]).unwrap();
    drop(clients.connection(&clients.front, "10.96.0.9:80"));
    clients.assert_counted(&clients.front, "second", 0, ONE);
    assert_eq!(all(clients.web.cluster.node())[0].id, first, "it has the same id");
}

#[test]
fn a_full_map_drops_clients_that_were_idle_for_long_and_the_losses_are_counted() {
    let mut clients = Clients::with(&["--max-clients", "1024", "--reconcile-interval", "1s"]);
    // Each CPU has room of its own ("Clients" in limits.md).
    let room = eventually("the size of the map", || {
        let metrics = clients.web.cluster.metrics().unwrap();
        let room = metrics.sum("sockline_bpf_map_max_entries", &[("map", "clients")]) as usize;
        holds(room >= 1024, room).map(|()| room)
    });
    let many = room + 500;
    let address = |n: usize| format!("10.97.{}.{}", n / 250, n % 250 + 1);
    let services = (0..many).map(|n| {
        let service = Service::new(&format!("many-{n}")).ip(&address(n)).tcp(80).to(8080);
        service.endpoints([&clients.web.web])
    });
    let services: Vec<Service> = services.collect();
    clients.web.cluster.apply(services).unwrap();
    let listener: &TcpListener = &clients.web.listener;
    for n in 0..many {
        let to = super::at(&format!("{}:80", address(n)));
        let client = clients.front.run(|| TcpStream::connect(to)).unwrap();
        let mut server = listener.accept().unwrap().0;
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    }
    let read = |metrics: &Metrics| {
        let entries = metrics.sum("sockline_bpf_map_entries", &[("map", "clients")]);
        (entries, metrics.sum("sockline_clients_evicted_total", &[]))
    };
    let lost = eventually("all to be in the map, or lost", || {
        let metrics = clients.web.cluster.metrics().unwrap();
        let (entries, lost) = read(&metrics);
        holds(entries + lost == many as f64, format!("{entries} entries, {lost} lost"))
            .map(|()| lost)
    });
    assert!(lost >= 500.0, "{lost}");
    let node = clients.web.cluster.node();
    let last = format!("many-{}", many - 1);
    assert_eq!(of(node, &clients.front, &last, Protocol::Tcp), (0, ONE));
    assert_eq!(all(node).len() as f64, many as f64 - lost);
}
