//! The measured services. Each has one endpoint, the node itself.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use serde_json::{Value, json};

pub(super) const SERVICE_PORT: u16 = 80;
/// Contains all service addresses.
pub(super) const NETWORK: &str = "10.200.0.0/13";
/// Where the server listens: the node's own address.
pub(super) const BACKEND: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 7001));

pub(super) fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 1)) + number)
}

/// A `List` of services, TCP and UDP, with their slices.
pub(super) fn services(count: u32) -> Value {
    let items: Vec<Value> =
        (0..count).flat_map(|number| [service(number), slice(number)]).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn service(number: u32) -> Value {
    let address = service_address(number).to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "bench" },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ports": [
                { "name": "t", "port": SERVICE_PORT, "protocol": "TCP" },
                { "name": "u", "port": SERVICE_PORT, "protocol": "UDP" },
            ],
        },
    })
}

fn slice(number: u32) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("s{number}"), "namespace": "bench",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [BACKEND.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [
            { "name": "t", "port": BACKEND.port(), "protocol": "TCP" },
            { "name": "u", "port": BACKEND.port(), "protocol": "UDP" },
        ],
    })
}
