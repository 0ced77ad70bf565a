use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn on(device: Device, addresses: &[&str]) -> Vec<InterfaceAddress> {
    addresses.iter().map(|text| InterfaceAddress { address: ip(text), device }).collect()
}

fn node(addresses: &[&str]) -> Node {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    Node { name: "node-a".into(), zone: None, addresses }
}

fn ranges(text: &str) -> NodePortAddresses {
    let ranges = text.split(',').filter(|text| !text.is_empty());
    NodePortAddresses(ranges.map(|text| text.parse().unwrap()).collect())
}

fn told(
    text: &str,
    interfaces: &[InterfaceAddress],
    node: Option<&Node>,
    used: &[(&str, ServiceUse)],
) -> Vec<String> {
    let used = |address| used.iter().find(|(text, _)| ip(text) == address).map(|(_, used)| *used);
    let addresses = node_addresses(&ranges(text), interfaces, node, used);
    addresses.iter().map(ToString::to_string).collect()
}

const ALL: [&str; 6] =
    ["127.0.0.1", "192.0.2.1", "192.0.2.2", "169.254.1.1", "fe80::1", "2001:db8::1"];

#[test]
fn by_default_it_is_every_address_but_loopback_and_link_local_ones() {
    let all = on(Device::Ordinary, &ALL);
    let told = told("", &all, Some(&node(&["198.51.100.1"])), &[]);
    assert_eq!(told, ["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"]);
}

#[test]
fn primary_is_the_first_of_each_family_that_the_node_object_has() {
    let all = on(Device::Ordinary, &ALL);
    let of_node = node(&["192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2"]);
    assert_eq!(told("primary", &all, Some(&of_node), &[]), ["192.0.2.2", "2001:db8::1"]);
    assert_eq!(told("primary", &all, Some(&node(&["192.0.2.1"])), &[]), ["192.0.2.1"]);
    assert!(told("primary", &all, None, &[]).is_empty(), "nobody knows it");
}

#[test]
fn a_family_without_a_range_has_all_of_its_own() {
    let all = on(Device::Ordinary, &ALL);
    assert_eq!(told("192.0.2.2/31", &all, None, &[]), ["192.0.2.2", "2001:db8::1"]);
    assert_eq!(told("2001:db8:1::/48", &all, None, &[]), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        told("192.0.2.2/31,0.0.0.0/0,2001:db8:1::/48", &all, None, &[]),
        ["192.0.2.1", "192.0.2.2"]
    );
    let of_node = node(&["192.0.2.1"]);
    assert_eq!(told("primary,192.0.2.2/32", &all, Some(&of_node), &[]), ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn devices_of_services_have_no_addresses_of_the_node() {
    assert_eq!(Device::of("kube-ipvs0", Some("dummy")), Device::OfServices);
    assert_eq!(Device::of("kube-ipvs0", None), Device::OfServices);
    assert_eq!(Device::of("nodelocaldns", Some("dummy")), Device::OfServices);
    assert_eq!(Device::of("kube-dummy-if", Some("dummy")), Device::Dummy);
    assert_eq!(Device::of("eth0", None), Device::Ordinary);
    assert_eq!(Device::of("kube-ipvs0.7", Some("vlan")), Device::Ordinary);
    for device in [Device::OfServices, Device::Dummy] {
        let addresses = on(device, &["198.51.100.1"]);
        assert!(told("", &addresses, None, &[]).is_empty(), "{device:?}");
        // The Node object knows better: a host with a routing daemon has its address on a dummy.
        let of_node = node(&["198.51.100.1"]);
        assert_eq!(told("", &addresses, Some(&of_node), &[]), ["198.51.100.1"], "{device:?}");
    }
    let dummy = on(Device::Dummy, &["198.51.100.1"]);
    assert_eq!(told("198.51.100.0/24", &dummy, None, &[]), ["198.51.100.1"], "on demand");
    assert!(told("0.0.0.0/0", &dummy, None, &[]).is_empty());
    let of_services = on(Device::OfServices, &["198.51.100.1"]);
    assert!(told("198.51.100.0/24", &of_services, None, &[]).is_empty());
}

#[test]
fn an_address_that_a_service_uses_is_the_services() {
    let all = on(Device::Ordinary, &["192.0.2.1", "10.96.0.1", "203.0.113.7"]);
    let used = [
        ("10.96.0.1", ServiceUse::ClusterIP),
        ("203.0.113.7", ServiceUse::LoadBalancer),
        ("192.0.2.1", ServiceUse::LoadBalancer),
    ];
    assert!(told("", &all, None, &used).is_empty());
    let of_node = node(&["192.0.2.1", "10.96.0.1"]);
    assert_eq!(told("", &all, Some(&of_node), &used), ["192.0.2.1"], "ServiceLB");
}

#[test]
fn what_is_no_range_is_told() {
    assert_eq!("".parse(), Ok(AddressRange::All), "an empty variable");
    for text in ["eth0", "192.0.2.0/33", "192.0.2.1", "Primary"] {
        let error = text.parse::<AddressRange>().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("primary"), "{error}");
    }
}
