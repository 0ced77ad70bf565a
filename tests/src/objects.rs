//! Services and their slices as the tests need them: small values that are changed by hand.

use std::{
    fs, io,
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

use crate::manifests;

/// The most endpoints of a slice: `maxEndpoints` of the API's validation.
const SLICE_ENDPOINTS: usize = 1000;

/// The namespace of everything made here.
pub const NAMESPACE: &str = "shop";

/// A Service of type ClusterIP with one TCP port "web" 80 and one UDP port "dns" 53.
pub fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    })
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
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [
            {"name": "web", "port": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 8053, "protocol": "UDP"},
        ],
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

/// The Node that an agent with the testbed's default name runs on.
pub fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
}

/// A Node in `zone-0` with these InternalIPs.
pub fn node_at(name: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    let mut node = manifests::node(name, "zone-0");
    node["status"] = json!({ "addresses": addresses });
    node
}

/// The objects as documents of one YAML file. (JSON is YAML.)
pub fn yaml(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

/// Writes a file in one step, so that no reader sees half of it. The draft lies beside the folder.
///
/// # Errors
/// Those of writing and renaming.
pub fn put(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = folder.with_extension(format!("draft-{number}"));
    fs::write(&draft, text)?;
    fs::rename(&draft, folder.join(file))
}
