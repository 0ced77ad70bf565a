//! `--nodeport-addresses`.

use std::io::ErrorKind;

use sockline_testbed::{AgentOptions, DEADLINE, Node, Service, WebCluster, wait_ok};

use super::{NODE_PORT, NodeWithPodAndClient, OWN, ip, own_node, web};

#[test]
fn with_primary_node_ports_are_at_the_first_internal_address() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let objects = vec![own_node(OWN, "192.0.2.20")];
    let setup =
        NodeWithPodAndClient::prepared(&["--nodeport-addresses", "primary"], [], extra, objects);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("192.0.2.20", NODE_PORT);
    let seen = setup.on_loopback().map_err(|error| error.kind());
    assert_eq!(seen, Err(ErrorKind::ConnectionRefused), "loopback is not the primary address");
}

#[test]
fn node_ports_are_on_loopback_where_a_range_has_it() {
    let args = ["--nodeport-addresses", "primary,127.0.0.0/8"];
    let setup =
        NodeWithPodAndClient::prepared(&args, [], |_| {}, vec![own_node(OWN, "192.0.2.20")]);
    setup.assert_served(OWN, NODE_PORT);
    if setup.cluster.features().unwrap().netns_cookie {
        assert_eq!(setup.on_loopback().unwrap(), "web");
    }
}

/// Also without loopback, a deleted NodePort frees its addresses.
#[test]
fn with_primary_an_external_ip_gets_no_node_port_of_another_service_until_that_is_deleted() {
    let args = ["--nodeport-addresses", "primary"];
    let mut setup =
        NodeWithPodAndClient::prepared(&args, [], |_| {}, vec![own_node(OWN, "192.0.2.20")]);
    let claimant = Service::new("claimant").ip("10.96.0.66").external_ip(OWN).tcp(NODE_PORT);
    let claimant = claimant.to(WebCluster::PORT).endpoints([&setup.web]);
    setup.cluster.apply([claimant]).unwrap();
    let (before, _) = setup.syncs_and_frontends();
    setup.cluster.apply([web().endpoints([&setup.client])]).unwrap();
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
    setup.cluster.remove("web").unwrap();
    setup.assert_served(OWN, NODE_PORT);
}

#[test]
fn with_cidrs_node_ports_are_at_the_addresses_in_them() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let args = ["--nodeport-addresses", "192.0.2.16/28"];
    let setup = NodeWithPodAndClient::prepared(&args, [], extra, vec![own_node(OWN, "192.0.2.20")]);
    setup.assert_served("192.0.2.20", NODE_PORT);
    setup.assert_not_served(OWN, NODE_PORT);
}

#[test]
fn an_invalid_address_range_is_a_clear_error() {
    for (value, reported) in [("192.0.2.0/33", "192.0.2.0/33"), ("primary,eth0", "eth0")] {
        let node = Node::new().unwrap();
        let mut agent = node
            .spawn_agent(&AgentOptions {
                args: vec!["--nodeport-addresses".to_owned(), value.to_owned()],
                ..Default::default()
            })
            .unwrap();
        let status =
            wait_ok(DEADLINE, "the agent to end", || agent.try_wait().unwrap().ok_or("it runs"));
        assert_eq!(status.unwrap().code(), Some(2), "{}", agent.log());
        let log = agent.log();
        assert!(log.contains("--nodeport-addresses") && log.contains(reported), "{log}");
        assert!(log.contains("primary"), "what it could be: {log}");
    }
}
