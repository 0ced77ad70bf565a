//! Sockets of endpoints that still serve while they terminate, and sockets at the addresses of other nodes.

use std::net::SocketAddr;

use sockline_testbed::{DnsPods, Endpoint, Pod, Service, at, mapped, objects};

use super::{
    CLOSE_ON_REMOVAL, V4, ask, closes_tcp, connected, eventually_aborted, eventually_closed,
    stream, without_service,
};

/// A socket keeps a terminating endpoint while that serves.
#[track_caller]
fn assert_kept_while_serving(setup: &mut DnsPods, service: &Service, to: SocketAddr) {
    setup.cluster.apply([service.clone().endpoints(&setup.pods)]).unwrap();
    let (client, first) = connected(&setup.client, to);
    let draining = |setup: &DnsPods| -> Vec<Endpoint> {
        let of = |pod: &Pod| {
            let endpoint = Endpoint::from(pod);
            if pod.name() == first { endpoint.draining() } else { endpoint }
        };
        setup.pods.iter().map(of).collect()
    };
    setup.cluster.apply([service.clone().endpoints(draining(setup))]).unwrap();
    // The socket of another backend shows that the agent has looked at the sockets.
    let other = Service::new("other").ip("10.96.0.11").udp(53).to(5353);
    setup.cluster.apply([other.clone().endpoints(&setup.pods)]).unwrap();
    let (sign, _) = connected(&setup.client, at("10.96.0.11:53"));
    setup.cluster.apply([other.endpoints(Vec::<Endpoint>::new())]).unwrap();
    eventually_closed(&sign);
    assert_eq!(ask(&client), first, "new connections have left it, this one stays");
    let fresh = connected(&setup.client, to).1;
    assert_ne!(fresh, first);
    // The plan does not change: the endpoint was not in it any more.
    setup.cluster.apply([service.clone().endpoints(setup.without(&first))]).unwrap();
    eventually_closed(&client);
}

#[test]
fn a_terminating_endpoint_keeps_its_sockets_while_it_serves() {
    let mut setup = without_service(2, &["--reconcile-interval", "3600s"]);
    assert_kept_while_serving(&mut setup, &DnsPods::service(), at(V4));
}

/// The addresses of another node. No machine has them: connections to them work if they are translated.
const OF_NODE_B: [&str; 2] = ["198.51.100.7", "fd00:100::7"];
const NODE_PORT: u16 = 30_053;

/// Addresses of [`NODE_PORT`] at node-b.
fn at_node_b() -> [SocketAddr; 3] {
    let [v4, v6] = OF_NODE_B.map(|address| SocketAddr::new(crate::common::ip(address), NODE_PORT));
    [v4, v6, mapped(v4)]
}

/// Node node-b at these addresses.
fn set_node_b(setup: &mut DnsPods, addresses: [&str; 2]) {
    setup.cluster.set_objects(vec![objects::node_at("node-b", &addresses.map(crate::common::ip))]);
}

fn with_node_b(pods: usize) -> DnsPods {
    let args = ["--nodeports-of-all-nodes", "--reconcile-interval", "3600s"];
    let mut setup = without_service(pods, &args);
    set_node_b(&mut setup, OF_NODE_B);
    setup
}

/// As [`DnsPods::service`], with a NodePort.
fn node_port() -> Service {
    let service = Service::new("dns").ip("10.96.0.10").ip("fd00:96::10");
    service.udp(53).to(5353).node_port(NODE_PORT).tcp(53).to(5353).node_port(NODE_PORT)
}

#[test]
fn a_terminating_endpoint_keeps_its_sockets_at_another_nodes_address() {
    for to in at_node_b() {
        assert_kept_while_serving(&mut with_node_b(2), &node_port(), to);
    }
}

#[test]
fn tcp_connections_to_another_nodes_address_are_closed_as_their_service_sets() {
    let mut setup = with_node_b(1);
    let policies = [node_port(), node_port().external_local()];
    for service in policies.map(|service| service.annotate(CLOSE_ON_REMOVAL, "0s")) {
        let pods: Vec<Endpoint> =
            setup.pods.iter().map(|pod| Endpoint::from(pod).on_node("node-b")).collect();
        let serve = |setup: &mut DnsPods| {
            setup.cluster.apply([service.clone().endpoints(pods.clone())]).unwrap();
        };
        let without_endpoints = || service.clone().endpoints(Vec::<Endpoint>::new());
        for to in at_node_b() {
            serve(&mut setup);
            if !closes_tcp(&setup.cluster) {
                return;
            }
            let (mut open, _) = stream(&setup.client, to);
            setup.cluster.apply([without_endpoints()]).unwrap();
            eventually_aborted(&mut open);
            // The service is deleted.
            serve(&mut setup);
            let (mut open, _) = stream(&setup.client, to);
            setup.cluster.remove("dns").unwrap();
            eventually_aborted(&mut open);
            // The node is removed with the endpoint.
            serve(&mut setup);
            let (mut open, _) = stream(&setup.client, to);
            set_node_b(&mut setup, ["198.51.100.8", "fd00:100::8"]);
            setup.cluster.apply([without_endpoints()]).unwrap();
            eventually_aborted(&mut open);
            set_node_b(&mut setup, OF_NODE_B);
        }
    }
}
