//! Kubernetes objects for tests.
//!
//! [`Service`] builds a Service and its EndpointSlices step by step; a [`Cluster`](crate::Cluster) takes it. [`Pod`]
//! builds a Pod object. The functions return plain JSON, where they take no namespace of [`NAMESPACE`], for tests that
//! change single fields or write the objects to a folder or a stand-in API server. [`mod@file`] writes manifests.

mod family;
pub mod file;
mod pod;
mod service;

use std::net::IpAddr;

use serde_json::{Value, json};

pub use self::{
    pod::Pod,
    service::{Endpoint, Service},
};

/// The most endpoints of a slice: `maxEndpoints` of the API's validation.
const SLICE_ENDPOINTS: usize = 1000;

/// The namespace of these objects.
pub const NAMESPACE: &str = "shop";

/// A Service of type ClusterIP with one TCP port "web" 80 and one UDP port "dns" 53.
pub fn service(name: &str, cluster_ip: &str) -> Value {
    let ports = json!([
        {"name": "web", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    service_with(NAMESPACE, name, cluster_ip, ports)
}

/// A Service of type ClusterIP with these ports.
pub fn service_with(namespace: &str, name: &str, cluster_ip: &str, ports: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip]},
    });
    service["spec"]["ports"] = ports;
    service
}

/// A Service with only its TCP port.
pub fn web_service(name: &str, cluster_ip: &str) -> Value {
    let mut service = service(name, cluster_ip);
    if let Some(ports) = service["spec"]["ports"].as_array_mut() {
        ports.truncate(1);
    }
    service
}

/// The only EndpointSlice of a service: these addresses, "web" at 8080 and "dns" at 8053.
///
/// # Panics
/// When there are more than the API lets a slice have.
pub fn slice(service: &str, addresses: &[IpAddr]) -> Value {
    assert!(addresses.len() <= SLICE_ENDPOINTS, "{}: use `slices`", addresses.len());
    let family = if addresses.iter().any(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    let mut slice = endpoint_slice(NAMESPACE, service, family);
    slice["endpoints"] = endpoints.into();
    slice["ports"] = json!([
        {"name": "web", "port": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 8053, "protocol": "UDP"},
    ]);
    slice
}

/// An EndpointSlice without ports and endpoints.
pub fn endpoint_slice(namespace: &str, service: &str, address_type: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": address_type,
    })
}

/// As many slices as it takes.
pub fn slices(service: &str, addresses: &[IpAddr]) -> Vec<Value> {
    let number = |(number, addresses)| {
        let mut slice = slice(service, addresses);
        slice["metadata"]["name"] = format!("{service}-{number}").into();
        slice
    };
    (1..).zip(addresses.chunks(SLICE_ENDPOINTS)).map(number).collect()
}

/// A Namespace with these labels.
pub fn namespace(name: &str, labels: impl Into<Value>) -> Value {
    let mut namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    namespace["metadata"]["labels"] = labels.into();
    namespace
}

/// The Node that an agent with the testbed's default name runs on.
pub fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
}

/// A Node with nothing but a zone.
pub fn node_in_zone(name: &str, zone: &str) -> Value {
    let mut node = node();
    node["metadata"] = json!({"name": name, "labels": {"topology.kubernetes.io/zone": zone}});
    node
}

/// A Node in `zone-0` with these InternalIPs.
pub fn node_at(name: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    let mut node = node_in_zone(name, "zone-0");
    node["status"] = json!({ "addresses": addresses });
    node
}
