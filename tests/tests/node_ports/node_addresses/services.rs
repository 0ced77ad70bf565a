//! Services that have addresses of the node, or of which the node has the addresses.

use std::{fmt::Write as _, io::ErrorKind, net::Ipv4Addr};

use sockline_testbed::{Cluster, DEADLINE, Node, Service, WebCluster, wait_ok};

use super::{NODE_PORT, NodeWithPodAndClient, OWN, at, ip, own_node, syncs_and_frontends, web};

/// A device like kube-proxy's `kube-ipvs0`, which has no traffic. The kernel of the tests may have no `dummy`
/// devices.
fn service_device(name: &str, addresses: impl IntoIterator<Item = Ipv4Addr>) -> String {
    let mut lines = format!("link add {name} type bridge\n");
    for address in addresses {
        writeln!(lines, "addr add {address}/32 dev {name}").unwrap();
    }
    lines
}

fn service_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_1000 + number)
}

/// A service with one endpoint, every hundredth with a NodePort.
fn numbered(number: u32, endpoint: &str) -> Service {
    let service = Service::new(&format!("svc-{number}")).ip(&service_ip(number).to_string());
    let service = service.tcp(80).to(WebCluster::PORT);
    let service = match u16::try_from(number / 100) {
        Ok(hundred) if number.is_multiple_of(100) => service.node_port(30_000 + hundred),
        _ => service,
    };
    let address = endpoint.parse().unwrap();
    service.endpoints([sockline_testbed::Endpoint::at(&[address])])
}

/// kube-proxy in IPVS mode puts every service address on `kube-ipvs0`.
#[test]
fn with_5000_services_on_an_ipvs_device_frontends_and_changes_are_what_they_are_without_it() {
    const SERVICES: u32 = 5_000;
    const NODE_PORTS: u32 = SERVICES / 100;
    let mut cluster = Cluster::new().unwrap();
    ip(cluster.node(), &service_device("kube-ipvs0", (0..SERVICES).map(service_ip)));
    cluster.apply((0..SERVICES).map(|n| numbered(n, "10.244.0.1"))).unwrap();
    let (before, frontends) = syncs_and_frontends(&cluster);
    // A NodePort is at the node's only address of the family, and on loopback.
    assert_eq!(frontends, f64::from(SERVICES + 2 * NODE_PORTS));
    cluster.apply([numbered(7, "10.244.0.2")]).unwrap();
    assert_eq!(syncs_and_frontends(&cluster), (before, frontends), "(full syncs, frontends)");
}

#[test]
fn addresses_of_nodelocal_dns_are_no_node_addresses() {
    let device = service_device("nodelocaldns", [Ipv4Addr::new(198, 51, 100, 53)]);
    let setup = NodeWithPodAndClient::prepared(&[], [], |node| ip(node, &device), vec![]);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("198.51.100.53", NODE_PORT);
}

/// The label is what `getifaddrs` calls the device's name.
#[test]
fn an_address_with_a_label_belongs_to_its_device() {
    let device = "link add kube-ipvs0 type bridge\n\
                  addr add 198.51.100.53/32 dev kube-ipvs0 label kube-ipvs0:x\n";
    let setup = NodeWithPodAndClient::prepared(&[], [], |node| ip(node, device), vec![]);
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_not_served("198.51.100.53", NODE_PORT);
}

#[test]
fn an_address_that_a_service_claims_is_no_node_address_on_any_device() {
    let cluster_ip = "10.96.0.1".parse().unwrap();
    let load_balancer = "203.0.113.7".parse().unwrap();
    let plain = "203.0.113.8".parse().unwrap();
    let device = service_device("services", [cluster_ip, load_balancer, plain]);
    let other = Service::new("other").ip("10.96.0.2").tcp(81).to(WebCluster::PORT);
    let other = other.load_balancer_vip("203.0.113.7");
    let mut setup = NodeWithPodAndClient::prepared(&[], [other], |node| ip(node, &device), vec![]);
    setup.assert_not_served("10.96.0.1", NODE_PORT);
    setup.assert_not_served("203.0.113.7", NODE_PORT);
    setup.assert_served("203.0.113.8", NODE_PORT);
    setup.assert_served("203.0.113.7", 81);
    // A service that claims an address removes it from the node addresses; without the service it is one
    // again.
    let later = || Service::new("later").ip("10.96.0.3").tcp(80).to(WebCluster::PORT);
    setup.cluster.apply([later().load_balancer_vip("203.0.113.8")]).unwrap();
    setup.assert_not_served("203.0.113.8", NODE_PORT);
    setup.cluster.apply([later()]).unwrap();
    setup.assert_served("203.0.113.8", NODE_PORT);
}

/// K3s ServiceLB publishes the nodes' own addresses as those of every load balancer; with keepalived
/// they are external IPs.
fn at_the_node(endpoint: &str) -> Service {
    let service = Service::new("at-node").ip("10.96.0.9").external_ip(OWN).tcp(80);
    let address = endpoint.parse().unwrap();
    service.load_balancer_vip("192.0.2.20").endpoints([sockline_testbed::Endpoint::at(&[address])])
}

#[test]
fn a_service_with_the_nodes_addresses_keeps_node_ports_and_causes_no_full_syncs() {
    let extra = |node: &Node| ip(node, "addr add 192.0.2.20/32 dev lo\n");
    let objects = vec![own_node(OWN, "192.0.2.20")];
    let mut setup = NodeWithPodAndClient::prepared(&[], [], extra, objects);
    setup.cluster.apply([at_the_node("10.244.9.1")]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_served("192.0.2.20", NODE_PORT);
    // Of `web` a cluster IP, two addresses and loopback; of the other its three. The gauge comes later
    // than the change.
    let before = wait_ok(DEADLINE, "the gauge of frontends", || {
        let (syncs, frontends) = setup.syncs_and_frontends();
        if (frontends - 7.0).abs() < 0.5 { Ok((syncs, frontends)) } else { Err(frontends) }
    });
    let before = before.unwrap();
    for change in 2..6 {
        setup.cluster.apply([at_the_node(&format!("10.244.9.{change}"))]).unwrap();
    }
    assert_eq!(setup.syncs_and_frontends(), before, "(full syncs, frontends)");
    setup.assert_served(OWN, NODE_PORT);
    setup.assert_served("192.0.2.20", NODE_PORT);
    // The service itself is served there.
    let web = setup.web.addresses()[0].to_string();
    let at_node = Service::new("at-node").ip("10.96.0.9").external_ip(OWN).tcp(WebCluster::PORT);
    let here = sockline_testbed::Endpoint::at(&[web.parse().unwrap()]);
    setup.cluster.apply([at_node.endpoints([here])]).unwrap();
    setup.assert_served(OWN, WebCluster::PORT);
}

/// The address belongs to the node, and so does the node port that the API server allocated.
#[test]
fn an_external_ip_takes_no_node_port_of_another_service() {
    let mut setup = NodeWithPodAndClient::with(&[], []);
    let claimant = || {
        let claimant =
            Service::new("claimant").ip("10.96.0.66").external_ip(OWN).external_ip("198.51.100.1");
        claimant.tcp(NODE_PORT)
    };
    setup.cluster.apply([claimant()]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    assert_eq!(
        setup.client.tcp_ask(at("198.51.100.1", NODE_PORT)).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "it has no endpoints, and its other address"
    );
    let (before, _) = setup.syncs_and_frontends();
    setup.cluster.apply([claimant().endpoints([&setup.client])]).unwrap();
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
    setup.assert_served(OWN, NODE_PORT);
    // Without the NodePort, the address is free; with it, it is not.
    setup.cluster.remove("web").unwrap();
    setup.cluster.apply([claimant().to(WebCluster::PORT).endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
    setup.cluster.apply([claimant()]).unwrap();
    setup.assert_not_served(OWN, NODE_PORT);
    setup.cluster.apply([web().endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, NODE_PORT);
}

/// The NodePort is reserved although the service is not in the kernel, because it did not fit.
#[test]
fn the_node_port_of_a_deleted_service_that_did_not_fit_is_free() {
    const OTHER: u16 = 30_090;
    let big = Service::new("big").ip("10.96.0.8").tcp(80).node_port(OTHER);
    // `web` takes three.
    let mut setup = NodeWithPodAndClient::with(&["--max-frontends", "5"], []);
    setup.cluster.apply([big]).unwrap();
    let unfit = wait_ok(DEADLINE, "the service not to fit", || {
        let metrics = setup.cluster.metrics().unwrap();
        let unfit = metrics.sum("sockline_service_ports_out_of_sync", &[]);
        if (unfit - 1.0).abs() < 0.5 { Ok(()) } else { Err(unfit) }
    });
    unfit.unwrap();
    setup.cluster.remove("big").unwrap();
    let (before, _) = setup.syncs_and_frontends();
    let heir =
        Service::new("heir").ip("10.96.0.9").external_ip(OWN).tcp(OTHER).to(WebCluster::PORT);
    setup.cluster.apply([heir.endpoints([&setup.web])]).unwrap();
    setup.assert_served(OWN, OTHER);
    assert_eq!(setup.syncs_and_frontends().0, before, "full syncs");
}
