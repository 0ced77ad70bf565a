//! Random objects, and events about them.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};

use crate::model::{
    event::{Event, Sourced},
    object::{
        Endpoint, EndpointSlice, Kind, Node, Object, ObjectRef, Protocol, Service, TrafficPolicy,
    },
    testing::{endpoint, endpoint_port, ip, node, service, service_port, slice, sourced},
};

/// Of every service that has one.
const NODE_PORT: u16 = 30080;

/// Few names and addresses, so that objects meet: same service, same slice, same address.
fn any_service() -> impl Strategy<Value = Service> {
    (
        select(&["a", "b", "c"][..]),
        select(&["10.96.0.1", "10.96.0.2", "fd00::1"][..]),
        proptest::option::of(0..2_i64),
        any::<[bool; 6]>(),
        any::<[bool; 4]>(),
    )
        .prop_map(
            |(name, cluster_ip, created, bits, [external_local, sticky, high, udp_node_port])| {
                let [dual, external, local, node_port, udp, lb] = bits;
                let uid = created.map(|created| created.to_string().into());
                let mut service = Service { created, uid, ..service(name, cluster_ip) };
                service.close_on_removal = local.then_some(Duration::from_secs(1));
                if dual && cluster_ip != "fd00::1" {
                    service.cluster_ips.push(ip("fd00::2"));
                }
                if external {
                    // Its own twice, and another service's cluster IP.
                    service.external_ips =
                        ["198.51.100.1", "198.51.100.1", "10.96.0.2"].map(ip).into();
                }
                if local {
                    service.internal_traffic_policy = TrafficPolicy::Local;
                }
                if external_local {
                    service.external_traffic_policy = TrafficPolicy::Local;
                }
                service.affinity_seconds = sticky.then_some(60);
                if udp {
                    let mut port = service_port("dns", Protocol::Udp, 80);
                    port.node_port = udp_node_port.then_some(NODE_PORT);
                    service.ports.push(port);
                }
                // An external IP that is another node's address, with a port that is a node port.
                if high {
                    service.ports.push(service_port("high", Protocol::Tcp, NODE_PORT));
                }
                // Also without node ports, as with `allocateLoadBalancerNodePorts: false`.
                if lb {
                    service.load_balancer_ips = vec![ip("198.51.100.1"), ip("203.0.113.1")];
                    service.source_ranges = [udp, dual];
                }
                service.ports[0].node_port = node_port.then_some(NODE_PORT);
                service
            },
        )
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (
        select(&["10.0.0.1", "10.0.0.2", "10.0.0.3"][..]),
        select(&[None, Some("here"), Some("there")][..]),
        select(&[None, Some("zone-1"), Some("zone-2")][..]),
        select(&[None, Some("here"), Some("there")][..]),
        select(&[None, Some("zone-1"), Some("zone-2")][..]),
        0..6,
    )
        .prop_map(|(address, on, zone, hint, is_in, state)| {
            let endpoint = endpoint(address).for_zones(zone.as_slice()).for_nodes(hint.as_slice());
            let endpoint = on.map_or(endpoint.clone(), |node| endpoint.on(node));
            let endpoint = is_in.map_or(endpoint.clone(), |zone| endpoint.in_zone(zone));
            match state {
                0 => endpoint.draining(),
                1 => endpoint.unready(),
                2 => Endpoint { serving: false, ..endpoint.draining() },
                3 => Endpoint { serving: true, ..endpoint.unready() },
                _ => endpoint,
            }
        })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoints = vec(any_endpoint(), 0..6);
    let ports = vec((select(&["http", "dns"][..]), any::<bool>(), 8080..8082_u16), 0..3);
    (select(&["s1", "s2", "s3", "s4"][..]), select(&["a", "b", "c"][..]), endpoints, ports)
        .prop_map(|(name, service, endpoints, ports)| {
            let mut slice = slice(name, service, endpoints);
            slice.ports.extend(ports.into_iter().map(|(name, udp, port)| {
                endpoint_port(name, if udp { Protocol::Udp } else { Protocol::Tcp }, port)
            }));
            slice
        })
}

fn any_node() -> impl Strategy<Value = Node> {
    let zone = select(&[None, Some("zone-1"), Some("zone-2")][..]);
    // One is also an external IP of services; two nodes may have the same.
    let addresses = vec(select(&["198.51.100.1", "192.0.2.1", "fd00::7"][..]), 0..3);
    (select(&["here", "there", "elsewhere"][..]), zone, addresses).prop_map(
        |(name, zone, addresses)| Node {
            addresses: addresses.into_iter().map(ip).collect(),
            ..node(name, zone)
        },
    )
}

pub(super) fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        any_service().prop_map(Object::Service),
        any_slice().prop_map(Object::EndpointSlice),
        any_node().prop_map(Object::Node),
    ]
}

fn any_sourced() -> impl Strategy<Value = Sourced> {
    (any_object(), 0..8).prop_map(|(object, state)| match state {
        0 => sourced(object).with_input_error("spec"),
        1 => sourced(object).with_input_error("spec").unusable(),
        _ => sourced(object),
    })
}

pub(super) fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any_sourced().prop_map(Event::Apply),
        2 => any_object().prop_map(|object| Event::Delete(object.reference())),
        1 => (select(&Kind::ALL[..]), vec(any_sourced(), 0..8)).prop_map(|(kind, objects)| {
            let of_kind: BTreeMap<ObjectRef, Sourced> = objects
                .into_iter()
                .filter(|sourced| sourced.reference.kind == kind)
                .map(|sourced| (sourced.reference.clone(), sourced))
                .collect();
            Event::Replace(kind, of_kind.into_values().collect())
        }),
    ]
}
