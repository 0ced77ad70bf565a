//! What the EndpointSlice controller makes of a Service and the pods that it selects.
//!
//! The rules are those of `staging/src/k8s.io/endpointslice` (`utils.go` for the conditions,
//! `trafficdist/trafficdist.go` for the hints).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sockline_testbed::objects;

use crate::pods::Server;

/// The port list of a slice: name, protocol and number.
type Ports = Vec<(String, String, u16)>;

/// The slices of a service: for each family, one for each list of ports that its pods have. Each pod comes with its zone.
pub fn slices(service: &Value, pods: &[(&Server, &str)]) -> Vec<Value> {
    let spec = &service["spec"];
    let Some(app) = spec["selector"]["app"].as_str() else { return Vec::new() };
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let families = spec["ipFamilies"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut slices = Vec::new();
    for family in families {
        let mut endpoints: BTreeMap<Ports, Vec<Value>> = BTreeMap::new();
        for (pod, zone) in pods.iter().filter(|(pod, _)| pod.app == app && !pod.failed) {
            let made = endpoints.entry(ports(spec, pod)).or_default();
            for address in pod.addresses().iter().filter(|ip| ip.is_ipv6() == (family == "IPv6")) {
                made.push(endpoint(spec, pod, &address.to_string(), zone));
            }
        }
        if endpoints.is_empty() {
            endpoints.insert(Ports::new(), Vec::new());
        }
        for (number, (ports, endpoints)) in endpoints.into_iter().enumerate() {
            let suffix = format!("{}-{number}", family.to_lowercase());
            slices.push(slice(service, &suffix, family, &ports, &endpoints));
        }
    }
    slices
}

/// A slice of a service.
pub fn slice(
    service: &Value,
    suffix: &str,
    family: &str,
    ports: &[(String, String, u16)],
    endpoints: &[Value],
) -> Value {
    let name = service["metadata"]["name"].as_str().expect("a service has a name");
    // The service's own labels, but not those that the controller keeps for itself.
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.remove("service.kubernetes.io/headless");
    labels.insert("kubernetes.io/service-name".to_owned(), name.into());
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    let mut slice = objects::endpoint_slice("default", name, family);
    slice["metadata"]["name"] = format!("{name}-{suffix}").into();
    slice["metadata"]["labels"] = labels.into();
    slice["ports"] = ports.into();
    slice["endpoints"] = endpoints.into();
    slice
}

/// What the pod has of the service's ports. A target port may be the name of a container port.
fn ports(spec: &Value, pod: &Server) -> Ports {
    let of = |port: &Value| {
        let protocol = port["protocol"].as_str()?;
        let target = match port["targetPort"].as_str() {
            Some(name) => pod.container_port(name, protocol)?,
            None => u16::try_from(port["targetPort"].as_u64()?).ok()?,
        };
        let name = port["name"].as_str().unwrap_or_default();
        Some((name.to_owned(), protocol.to_owned(), target))
    };
    spec["ports"].as_array().into_iter().flatten().filter_map(of).collect()
}

fn endpoint(spec: &Value, pod: &Server, address: &str, zone: &str) -> Value {
    let publish_not_ready = spec["publishNotReadyAddresses"] == true;
    let ready = publish_not_ready || (pod.ready && !pod.terminating);
    let mut endpoint = json!({
        "addresses": [address],
        "nodeName": pod.node_name(),
        "zone": zone,
        "conditions": {"ready": ready, "serving": pod.ready, "terminating": pod.terminating},
    });
    if ready {
        let here = json!([{"name": zone}]);
        match spec["trafficDistribution"].as_str() {
            Some("PreferSameZone" | "PreferClose") => endpoint["hints"] = json!({"forZones": here}),
            Some("PreferSameNode") => {
                let node = json!([{"name": pod.node_name()}]);
                endpoint["hints"] = json!({"forZones": here, "forNodes": node});
            }
            _ => {}
        }
    }
    endpoint
}
