//! Fields with values that cannot be used.

use serde_json::json;
use sockline_testbed::objects;

use super::{assert_told, cart, cart_slice, node, with_cart};
use crate::common::{CART, series, translated};

#[test]
fn port_0_is_reported_and_the_other_ports_are_served() {
    let mut service = cart();
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "none", "port": 0}));
    let input_error = "Service shop/cart: spec.ports[1].port: 0 is not a port number (1 to 65535); the port is \
                   skipped";
    let (node, _agent) = with_cart(&[service, cart_slice()], &[input_error]);
    node.assert_served(CART);
}

#[test]
fn port_70000_is_reported_and_the_other_ports_are_served() {
    let mut service = cart();
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "high", "port": 70000}));
    let input_error = "Service shop/cart: spec.ports[1].port: 70000 is not a port number (1 to 65535); the port \
                   is skipped";
    let (node, _agent) = with_cart(&[service, cart_slice()], &[input_error]);
    node.assert_served(CART);
}

#[test]
fn the_valid_part_of_an_update_is_applied_at_once() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    let mut service = cart();
    service["metadata"]["annotations"] = json!({"sockline.dev/redirect": "disabled"});
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "high", "port": 70000}));
    node.put("cart.yaml", &[service.clone(), cart_slice()]);
    node.eventually_untouched(CART);
    let input_error = "Service shop/cart: spec.ports[1].port: 70000 is not a port number (1 to 65535); the port \
                   is skipped";
    assert_told(&node, &agent, &[input_error]);
    service["metadata"]["annotations"] = json!({});
    node.put("cart.yaml", &[service, cart_slice()]);
    node.eventually_served(CART);
}

#[test]
fn a_service_whose_only_port_becomes_invalid_stays_as_it_was() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    let mut service = cart();
    service["spec"]["ports"][0]["port"] = json!(0);
    node.put("cart.yaml", &[service, cart_slice()]);
    let input_error = "Service shop/cart: spec.ports[0].port: 0 is not a port number (1 to 65535); \
                   what is programmed for it stays";
    let left = "Service shop/cart: spec.ports: no valid port; what is programmed for it stays";
    assert_told(&node, &agent, &[left, input_error]);
    node.assert_served(CART);
}

#[test]
fn an_ipv6_address_in_an_ipv4_slice_is_reported_and_the_other_endpoints_are_used() {
    let mut slice = cart_slice();
    let endpoints = slice["endpoints"].as_array_mut().unwrap();
    endpoints.insert(0, json!({"addresses": ["fd00::1"]}));
    let input_error = "EndpointSlice shop/cart-1: endpoints[0].addresses[0]: \"fd00::1\": an IPv6 address, \
                   but IPv4 is declared; it is skipped";
    let (node, _agent) = with_cart(&[cart(), slice], &[input_error]);
    assert_eq!(node.backends("cart", "web"), ["10.244.1.1"]);
}

#[test]
fn a_service_without_ports_is_reported() {
    let mut service = cart();
    service["spec"]["ports"] = json!([]);
    with_cart(
        &[service],
        &["Service shop/cart: spec.ports: no valid port; what is programmed for it stays"],
    );
}

#[test]
fn a_name_of_253_characters_is_shown_whole() {
    let node = node(1);
    let name = "n".repeat(253);
    let mut slice = cart_slice();
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
    node.put("long.yaml", &[objects::web_service(&name, CART), slice]);
    let agent = node.start_agent();
    node.assert_served(CART);
    assert!(node.services().contains(&format!("shop/{name}")), "{:?}", node.services());
    assert_eq!(series(&agent.metrics().unwrap(), &translated(&name, "TCP")), Some(1.0));
}
