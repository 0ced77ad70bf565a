use crate::model::{
    object::{Family, Protocol, Service},
    plan::FrontendAddress,
    planner,
    testing::{ip, node, service, service_port},
};

/// Who answers what, and what is said.
fn planned(services: &[Service]) -> (Vec<String>, Vec<String>) {
    let (plan, input_errors) = planner::plan(services, &[], &[node("here", None)], "here");
    let owners = plan
        .frontends
        .iter()
        .map(|f| format!("{} {} {}:{}", f.service, f.port_name, f.address, f.port))
        .collect();
    (owners, input_errors.iter().map(ToString::to_string).collect())
}

fn created(name: &str, created: Option<i64>) -> Service {
    Service { created, ..service(name, "10.96.0.1") }
}

#[test]
fn the_oldest_service_keeps_a_contested_address() {
    let cases: &[(&str, [Service; 2], &str)] = &[
        ("older", [created("a", Some(2)), created("b", Some(1))], "ns/b"),
        ("same age: by name", [created("b", Some(1)), created("a", Some(1))], "ns/a"),
        ("no age is newest", [created("a", None), created("b", Some(i64::MAX))], "ns/b"),
        ("no age twice: by name", [created("b", None), created("a", None)], "ns/a"),
    ];
    for (rule, services, winner) in cases {
        let (owners, input_errors) = planned(services);
        assert_eq!(owners, [format!("{winner} http 10.96.0.1:80")], "{rule}");
        assert_eq!(input_errors.len(), 1, "{rule}: {input_errors:#?}");
    }
}

/// CVE-2020-8554: a tenant reserves an address of the service range before it is allocated.
#[test]
fn a_cluster_ip_wins_over_every_other_kind_of_address_however_old() {
    let reserved = || vec![ip("10.96.0.1")];
    let external = Service { external_ips: reserved(), ..service("a", "10.96.0.9") };
    let balanced = Service { load_balancer_ips: reserved(), ..service("a", "10.96.0.9") };
    let claims = [("spec.externalIPs", external), ("status.loadBalancer.ingress", balanced)];
    let ages = [(Some(1), Some(2)), (Some(1), Some(1)), (Some(1), None), (None, None)];
    for (field, tenant) in claims {
        for (tenant_created, created_later) in ages {
            let tenant = Service { created: tenant_created, ..tenant.clone() };
            let allocated = created("b", created_later);
            for services in [[tenant.clone(), allocated.clone()], [allocated, tenant]] {
                let (owners, input_errors) = planned(&services);
                assert_eq!(owners, ["ns/a http 10.96.0.9:80", "ns/b http 10.96.0.1:80"], "{field}");
                assert_eq!(input_errors.len(), 1, "{input_errors:#?}");
                for part in ["Service ns/a", field, "belongs to port \"http\" of Service ns/b"] {
                    assert!(input_errors[0].contains(part), "{part} in {input_errors:?}");
                }
            }
        }
    }
}

#[test]
fn of_external_ips_and_load_balancer_addresses_the_oldest_service_keeps_a_contested_one() {
    let mut older = Service { created: Some(1), ..service("b", "10.96.0.1") };
    older.load_balancer_ips = vec![ip("198.51.100.1")];
    let mut newer = Service { created: Some(2), ..service("a", "10.96.0.2") };
    newer.external_ips = vec![ip("198.51.100.1")];
    let (owners, input_errors) = planned(&[newer, older]);
    assert!(owners.contains(&"ns/b http 198.51.100.1:80".to_owned()), "{owners:#?}");
    assert_eq!(owners.len(), 3, "{owners:#?}");
    assert!(input_errors[0].contains("of Service ns/b (it is older)"), "{input_errors:#?}");
}

#[test]
fn the_input_error_names_both_services_the_address_and_the_field() {
    let mut newer = service("newer", "10.96.0.2");
    newer.external_ips = vec![ip("10.96.0.1")];
    newer.created = Some(9);
    let (_, input_errors) = planned(&[service("older", "10.96.0.1"), newer]);
    for part in ["ns/newer", "ns/older", "10.96.0.1", "80/TCP", "spec.externalIPs"] {
        assert!(input_errors[0].contains(part), "{part} in {input_errors:?}");
    }
}

#[test]
fn other_ports_and_protocols_of_the_same_address_are_no_conflict() {
    let mut other = service("b", "10.96.0.1");
    other.ports =
        vec![service_port("http", Protocol::Tcp, 81), service_port("udp", Protocol::Udp, 80)];
    let (owners, input_errors) = planned(&[service("a", "10.96.0.1"), other]);
    assert_eq!(owners.len(), 3, "{owners:#?}");
    assert!(input_errors.is_empty(), "{input_errors:#?}");
}

#[test]
fn node_ports_conflict_within_a_family_only() {
    let with_node_port = |name, cluster_ip| {
        let mut service = service(name, cluster_ip);
        service.ports[0].node_port = Some(30080);
        service
    };
    let a = with_node_port("a", "10.96.0.1");
    let b = with_node_port("b", "10.96.0.2");
    let c = with_node_port("c", "fd00::3");
    let (plan, input_errors) = planner::plan([&a, &b, &c], &[], &[node("here", None)], "here");
    let node_ports: Vec<_> = plan
        .frontends
        .iter()
        .filter(|f| f.address == FrontendAddress::Node)
        .map(|f| (f.service.to_string(), f.family))
        .collect();
    let expected = [("ns/a".to_owned(), Family::IPv4), ("ns/c".to_owned(), Family::IPv6)];
    assert_eq!(node_ports, expected);
    assert_eq!(input_errors.len(), 1, "{input_errors:#?}");
    assert_eq!(input_errors[0].field, "spec.ports[name=\"http\"].nodePort");
}

#[test]
fn two_ports_of_one_service_conflict_by_port_name() {
    let mut service = service("a", "10.96.0.1");
    service.ports =
        vec![service_port("z", Protocol::Tcp, 80), service_port("b", Protocol::Tcp, 80)];
    let (owners, input_errors) = planned(&[service]);
    assert_eq!(owners, ["ns/a b 10.96.0.1:80"]);
    assert!(input_errors[0].contains("port \"b\" of Service ns/a"), "{input_errors:#?}");
}

#[test]
fn the_loser_keeps_its_other_addresses() {
    let mut newer = service("newer", "10.96.0.2");
    newer.external_ips = vec![ip("10.96.0.1")];
    newer.created = Some(9);
    let (owners, _) = planned(&[service("older", "10.96.0.1"), newer]);
    assert_eq!(owners, ["ns/newer http 10.96.0.2:80", "ns/older http 10.96.0.1:80"]);
}
