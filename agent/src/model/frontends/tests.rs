use super::*;
use crate::model::testing::{endpoint, endpoint_port, ip, line, service, service_port, slice};

const HERE: ThisNode<'_> = ThisNode { name: "here", zone: None };

fn lines(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    service_frontends(service, slices, HERE, None).iter().map(line).collect()
}

/// 10.0.0.1 is elsewhere.
fn elsewhere() -> [EndpointSlice; 1] {
    [slice("web-1", "web", vec![endpoint("10.0.0.1").on("there")])]
}

/// Every kind of IPv4 address.
fn exposed() -> Service {
    let mut service = service("web", "10.96.0.1");
    service.external_ips = vec![ip("198.51.100.1")];
    service.load_balancer_ips = vec![ip("203.0.113.1")];
    service.ports[0].node_port = Some(30080);
    service
}

#[test]
fn every_address_of_a_service_forwards_to_its_endpoints() {
    assert_eq!(
        lines(&exposed(), &elsewhere()),
        [
            "NodePort * 30080/TCP Forward [10.0.0.1:8080]",
            "ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080]",
            "ExternalIP 198.51.100.1 80/TCP Forward [10.0.0.1:8080]",
            "LoadBalancer 203.0.113.1 80/TCP Forward [10.0.0.1:8080]",
        ]
    );
}

#[test]
fn every_address_refuses_when_there_is_no_endpoint() {
    for line in lines(&exposed(), &[]) {
        assert!(line.ends_with("Refuse NoEndpoints []"), "{line}");
    }
}

#[test]
fn internal_policy_local_refuses_the_cluster_ip_alone() {
    let mut service = exposed();
    service.internal_traffic_policy = TrafficPolicy::Local;
    assert_eq!(
        lines(&service, &elsewhere()),
        [
            "NodePort * 30080/TCP Forward [10.0.0.1:8080]",
            "ClusterIP 10.96.0.1 80/TCP Refuse NoLocalEndpoints []",
            "ExternalIP 198.51.100.1 80/TCP Forward [10.0.0.1:8080]",
            "LoadBalancer 203.0.113.1 80/TCP Forward [10.0.0.1:8080]",
        ]
    );
}

#[test]
fn internal_policy_local_without_any_endpoint_says_no_endpoints() {
    let mut service = service("web", "10.96.0.1");
    service.internal_traffic_policy = TrafficPolicy::Local;
    assert_eq!(lines(&service, &[]), ["ClusterIP 10.96.0.1 80/TCP Refuse NoEndpoints []"]);
    let unready = slice("web-1", "web", vec![endpoint("10.0.0.1").on("here").unready()]);
    assert_eq!(lines(&service, &[unready]), ["ClusterIP 10.96.0.1 80/TCP Refuse NoEndpoints []"]);
}

#[test]
fn external_policy_local_does_not_bind_clients_on_the_node() {
    let mut service = exposed();
    service.external_traffic_policy = TrafficPolicy::Local;
    for line in lines(&service, &elsewhere()) {
        assert!(line.ends_with("Forward [10.0.0.1:8080]"), "{line}");
    }
}

#[test]
fn source_ranges_leave_only_load_balancer_addresses_of_their_family_to_kube_proxy() {
    let mut service = exposed();
    service.source_ranges[Family::IPv4 as usize] = true;
    let bypassed: Vec<_> =
        lines(&service, &elsewhere()).into_iter().filter(|line| line.contains("Bypass")).collect();
    assert_eq!(bypassed, ["LoadBalancer 203.0.113.1 80/TCP Bypass SourceRanges []"]);

    service.source_ranges = [false, true];
    assert!(lines(&service, &elsewhere()).iter().all(|line| line.contains("Forward")));
}

#[test]
fn source_ranges_of_each_family_count_for_that_family() {
    for restricted in Family::ALL {
        let mut service = service("web", "10.96.0.1");
        service.cluster_ips.push(ip("fd00:96::1"));
        service.load_balancer_ips = vec![ip("203.0.113.1"), ip("2001:db8::1")];
        service.source_ranges[restricted as usize] = true;
        for frontend in service_frontends(&service, &[], HERE, None) {
            let expected =
                frontend.kind == FrontendKind::LoadBalancer && frontend.family == restricted;
            assert_eq!(frontend.action == Action::Bypass, expected, "{}", line(&frontend));
        }
    }
}

#[test]
fn source_ranges_hold_for_an_address_that_is_an_external_ip_as_well() {
    let mut service = exposed();
    service.external_ips = service.load_balancer_ips.clone();
    service.source_ranges[Family::IPv4 as usize] = true;
    let lines = lines(&service, &elsewhere());
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[2], "LoadBalancer 203.0.113.1 80/TCP Bypass SourceRanges []");
}

#[test]
fn sctp_is_left_to_kube_proxy_on_every_address_and_tcp_beside_it_is_not() {
    let mut service = exposed();
    service.ports.push(service_port("sig", Protocol::Sctp, 3868));
    service.ports[1].node_port = Some(30081);
    let mut slice = elsewhere();
    slice[0].ports.push(endpoint_port("sig", Protocol::Sctp, 3868));
    for line in lines(&service, &slice) {
        let expected = if line.contains("/SCTP") { "Bypass Protocol []" } else { "Forward [" };
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_family_without_cluster_ip_is_not_served_at_all() {
    let mut service = exposed();
    service.external_ips = vec![ip("2001:db8::1")];
    service.load_balancer_ips = vec![ip("2001:db8::2")];
    let families: Vec<_> =
        service_frontends(&service, &elsewhere(), HERE, None).iter().map(|f| f.family).collect();
    assert_eq!(families, [Family::IPv4, Family::IPv4], "node port and cluster IP");
}

#[test]
fn each_family_of_a_dual_stack_service_uses_its_own_endpoints() {
    let mut service = service("web", "fd00:96::1");
    service.cluster_ips.push(ip("10.96.0.1"));
    service.ports[0].node_port = Some(30080);
    let slices = [
        slice("web-4", "web", vec![endpoint("10.0.0.1")]),
        slice("web-6", "web", vec![endpoint("fd00::1")]),
    ];
    assert_eq!(
        lines(&service, &slices),
        [
            "NodePort * 30080/TCP Forward [10.0.0.1:8080]",
            "ClusterIP 10.96.0.1 80/TCP Forward [10.0.0.1:8080]",
            "NodePort * 30080/TCP Forward [[fd00::1]:8080]",
            "ClusterIP fd00:96::1 80/TCP Forward [[fd00::1]:8080]",
        ]
    );
}

#[test]
fn affinity_is_set_only_where_the_call_is_forwarded() {
    let mut service = exposed();
    service.affinity_seconds = Some(60);
    service.source_ranges = [true; 2];
    service.ports.push(service_port("empty", Protocol::Tcp, 81));
    for frontend in service_frontends(&service, &elsewhere(), HERE, None) {
        let expected = (frontend.action == Action::Forward).then_some(60);
        assert_eq!(frontend.affinity_seconds, expected, "{}", line(&frontend));
    }
}

#[test]
fn an_address_listed_twice_is_one_frontend() {
    let mut service = service("web", "10.96.0.1");
    service.external_ips = vec![ip("10.96.0.1"), ip("198.51.100.1"), ip("198.51.100.1")];
    let lines = lines(&service, &[]);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("ClusterIP 10.96.0.1"), "{lines:#?}");
}

#[test]
fn addresses_are_in_numeric_order() {
    let mut service = service("web", "10.96.0.10");
    service.external_ips = vec![ip("10.96.0.9"), ip("9.0.0.1")];
    let addresses: Vec<_> = service_frontends(&service, &[], HERE, None)
        .iter()
        .map(|f| f.address.to_string())
        .collect();
    assert_eq!(addresses, ["9.0.0.1", "10.96.0.9", "10.96.0.10"]);
}

#[test]
fn a_service_with_redirect_disabled_is_bypassed_at_every_address() {
    let mut service = exposed();
    service.redirect = Redirect::Disabled;
    for line in lines(&service, &elsewhere()) {
        assert!(line.ends_with("Bypass RedirectDisabled []"), "{line}");
    }
}

#[test]
fn ports_that_a_service_has_no_backends_left_for_are_bypassed_and_reported() {
    let mut service = service("web", "10.96.0.1");
    let number = |n: u16| format!("p{n:03}");
    service.ports = (1..=300).map(|n| service_port(&number(n), Protocol::Tcp, n)).collect();
    let endpoints = (0..1000).map(|n| endpoint(&format!("10.0.{}.{}", n / 250, n % 250 + 1)));
    let mut slice = slice("web-1", "web", endpoints.collect());
    slice.ports = (1..=300).map(|n| endpoint_port(&number(n), Protocol::Tcp, 8000 + n)).collect();
    let frontends: Vec<_> =
        service_frontends(&service, [&slice], HERE, None).into_iter().map(Arc::new).collect();
    let forwarded = frontends.iter().filter(|f| f.backends.len() == 1000).count();
    assert_eq!(forwarded, limits::BACKENDS / 1000);
    let bypassed = frontends.iter().filter(|f| f.reason == Some(Reason::TooLarge)).count();
    assert_eq!((bypassed, frontends.len()), (300 - forwarded, 300));
    let input_error = too_large(&service.name, &frontends).expect("told").to_string();
    let expected = "Service ns/web: spec.ports: more than 262144 backends, counted once for each port; \
                    38 of its 300 addresses are left to kube-proxy";
    assert_eq!(input_error, expected);
}

fn others() -> OtherNodes {
    let mut others = OtherNodes::default();
    for (name, addresses) in
        [("there", vec!["192.0.2.2", "2001:db8::2"]), ("empty", vec!["192.0.2.3"])]
    {
        let addresses = addresses.into_iter().map(ip).collect();
        others.put(&crate::model::object::Node { name: name.into(), zone: None, addresses });
    }
    others
}

fn at_all_nodes(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    let frontends = service_frontends(service, slices, HERE, Some(&others()));
    frontends.iter().filter(|f| f.kind == FrontendKind::NodePort).map(line).collect()
}

#[test]
fn a_node_port_at_other_nodes_is_one_frontend_with_any_endpoint() {
    let node_port = "30080/TCP Forward [10.0.0.1:8080]";
    assert_eq!(
        at_all_nodes(&exposed(), &elsewhere()),
        [format!("NodePort * {node_port}"), format!("NodePort other-nodes {node_port}")]
    );
    let mut disabled = exposed();
    disabled.redirect = Redirect::Disabled;
    disabled.external_traffic_policy = TrafficPolicy::Local;
    assert_eq!(
        at_all_nodes(&disabled, &elsewhere()),
        ["*", "other-nodes"]
            .map(|at| format!("NodePort {at} 30080/TCP Bypass RedirectDisabled []"))
    );
}

#[test]
fn with_external_policy_local_a_node_port_at_another_node_has_that_nodes_endpoints() {
    let mut service = exposed();
    service.external_traffic_policy = TrafficPolicy::Local;
    let endpoints = vec![
        endpoint("10.0.0.1").on("there"),
        endpoint("10.0.0.2").on("here"),
        endpoint("10.0.0.3").on("empty").unready(),
    ];
    assert_eq!(
        at_all_nodes(&service, &[slice("web-1", "web", endpoints)]),
        [
            "NodePort * 30080/TCP Forward [10.0.0.1:8080 10.0.0.2:8080]",
            "NodePort other-nodes 30080/TCP Refuse NoLocalEndpoints []",
            "NodePort 192.0.2.2 30080/TCP Forward [10.0.0.1:8080]",
        ]
    );
    assert_eq!(
        at_all_nodes(&service, &[]),
        ["*", "other-nodes"].map(|at| format!("NodePort {at} 30080/TCP Refuse NoEndpoints []"))
    );
}
