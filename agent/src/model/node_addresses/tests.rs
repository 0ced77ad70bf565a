use super::*;
use crate::model::testing::{ip, node_at};

fn devices(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| ip(text)).collect()
}

fn ranges(text: &str) -> NodePortAddresses {
    let ranges = text.split(',').filter(|text| !text.is_empty());
    NodePortAddresses(ranges.map(|text| text.parse().unwrap()).collect())
}

/// All addresses that NodePorts are at, with loopback.
fn chosen(
    text: &str,
    devices: &BTreeSet<IpAddr>,
    node: Option<&Node>,
    used: &[(&str, ServiceUse)],
) -> Vec<String> {
    let used = |address| used.iter().find(|(text, _)| ip(text) == address).map(|(_, used)| *used);
    let addresses = node_addresses(&ranges(text), devices, node, used);
    addresses.iter().map(ToString::to_string).collect()
}

fn told(
    text: &str,
    devices: &BTreeSet<IpAddr>,
    node: Option<&Node>,
    used: &[(&str, ServiceUse)],
) -> Vec<String> {
    let mut addresses = chosen(text, devices, node, used);
    addresses.retain(|address| address != "127.0.0.1" && address != "::1");
    addresses
}

const ALL: [&str; 6] =
    ["127.0.0.1", "192.0.2.1", "192.0.2.2", "169.254.1.1", "fe80::1", "2001:db8::1"];

#[test]
fn by_default_it_is_every_address_but_loopback_and_link_local_ones() {
    let all = devices(&ALL);
    let told = told("", &all, Some(&node_at("here", &["198.51.100.1"])), &[]);
    assert_eq!(told, ["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"]);
}

#[test]
fn primary_is_the_first_of_each_family_that_the_node_object_has() {
    let all = devices(&ALL);
    let of_node = node_at("here", &["192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2"]);
    assert_eq!(told("primary", &all, Some(&of_node), &[]), ["192.0.2.2", "2001:db8::1"]);
    assert_eq!(told("primary", &all, Some(&node_at("here", &["192.0.2.1"])), &[]), ["192.0.2.1"]);
    assert!(told("primary", &all, None, &[]).is_empty(), "nobody knows it");
}

#[test]
fn a_family_without_a_range_has_all_of_its_own() {
    let all = devices(&ALL);
    assert_eq!(told("192.0.2.2/31", &all, None, &[]), ["192.0.2.2", "2001:db8::1"]);
    assert_eq!(told("2001:db8:1::/48", &all, None, &[]), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        told("192.0.2.2/31,0.0.0.0/0,2001:db8:1::/48", &all, None, &[]),
        ["192.0.2.1", "192.0.2.2"]
    );
    let of_node = node_at("here", &["192.0.2.1"]);
    assert_eq!(told("primary,192.0.2.2/32", &all, Some(&of_node), &[]), ["192.0.2.1", "192.0.2.2"]);
}

/// A routing daemon has the node's second address and its IPv6 one on `dummy0`; kube-proxy serves
/// NodePorts there, whatever the Node object has.
#[test]
fn what_no_service_has_is_the_nodes_on_a_device_of_any_kind() {
    let dummy = devices(&["198.51.100.1", "198.51.100.2", "2001:db8::1", "10.96.0.1"]);
    let of_node = node_at("here", &["198.51.100.1"]);
    let used = [("10.96.0.1", ServiceUse::ClusterIP)];
    let expected = ["198.51.100.1", "198.51.100.2", "2001:db8::1"];
    assert_eq!(told("", &dummy, Some(&of_node), &used), expected);
}

#[test]
fn loopback_is_chosen_as_any_other_address() {
    let chosen = |text, addresses: &[&str]| {
        chosen(text, &devices(&[]), Some(&node_at("here", addresses)), &[])
    };
    assert_eq!(chosen("", &[]), ["127.0.0.1", "::1"]);
    assert_eq!(chosen("0.0.0.0/0", &[]), ["127.0.0.1", "::1"]);
    assert_eq!(chosen("primary", &["192.0.2.1"]), ["192.0.2.1"]);
    assert_eq!(chosen("primary,127.0.0.0/8", &["192.0.2.1"]), ["127.0.0.1", "192.0.2.1"]);
    assert_eq!(chosen("192.0.2.0/24", &["192.0.2.1"]), ["192.0.2.1", "::1"]);
    assert_eq!(chosen("2001:db8::/32", &["192.0.2.1"]), ["127.0.0.1", "192.0.2.1"]);
}

#[test]
fn an_address_that_a_service_uses_is_the_services() {
    let all = devices(&["192.0.2.1", "10.96.0.1", "203.0.113.7"]);
    let used = [
        ("10.96.0.1", ServiceUse::ClusterIP),
        ("203.0.113.7", ServiceUse::LoadBalancer),
        ("192.0.2.1", ServiceUse::LoadBalancer),
    ];
    assert!(told("", &all, None, &used).is_empty());
    let of_node = node_at("here", &["192.0.2.1", "10.96.0.1"]);
    assert_eq!(told("", &all, Some(&of_node), &used), ["192.0.2.1"], "ServiceLB");
}

#[test]
fn what_is_no_range_is_an_error() {
    assert_eq!("".parse(), Ok(AddressRange::All), "an empty variable");
    for text in ["eth0", "192.0.2.0/33", "192.0.2.1", "Primary"] {
        let error = text.parse::<AddressRange>().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("primary"), "{error}");
    }
}
