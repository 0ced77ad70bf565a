//! Random objects: few names and addresses, so that they conflict, and every field that a plan depends on.

use fastrand::Rng;
use serde_json::{Value, json};
use sockline_testbed::objects::{self, Pod};

use super::watched::NODE;

/// A change of the cluster's objects.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Apply(Value),
    Delete(Value),
}

/// Whether to make objects that a real API server would reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allow {
    Anything,
    /// Only what passes the API's validation.
    Valid,
}

pub(crate) fn change(rng: &mut Rng, allow: Allow) -> Change {
    let object = match rng.u8(..100) {
        0..40 => slice(rng, allow),
        40..75 => service(rng, allow),
        75..80 => node(rng),
        80..86 => namespace(rng),
        _ => pod(rng),
    };
    if rng.u8(..100) < 25 { Change::Delete(object) } else { Change::Apply(object) }
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

const NAMESPACES: [&str; 2] = ["east", "west"];
const SERVICES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn service(rng: &mut Rng, allow: Allow) -> Value {
    let (namespace, number) = (rng.usize(..2), rng.usize(..SERVICES.len()));
    let own = format!("10.96.{}.{}", namespace + 1, number + 1);
    let ports = json!([{"name": "web", "port": 80, "protocol": "TCP"}]);
    let mut service = objects::service_with(NAMESPACES[namespace], SERVICES[number], &own, ports);
    // An API server sets it, and refuses a change of it.
    service["metadata"]["creationTimestamp"].take();
    if allow == Allow::Anything && chance(rng, 4) {
        // It can never be decoded: what remains of an object that was valid before depends on who saw it.
        service["metadata"]["name"] = json!("broken");
        service["spec"] = json!({"ports": "none"});
        return service;
    }
    let spec = &mut service["spec"];
    if chance(rng, 10) {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
    } else {
        if chance(rng, 30) {
            spec["type"] = json!("NodePort");
            let port = 30_000 + 10 * namespace + number;
            spec["ports"][0]["nodePort"] = json!(port);
        }
        if chance(rng, 30) {
            spec["externalIPs"] = json!([pick(rng, &["198.51.100.1", "198.51.100.2"])]);
        }
        if chance(rng, 20) {
            spec["internalTrafficPolicy"] = json!("Local");
        }
        if chance(rng, 20) {
            spec["sessionAffinity"] = json!("ClientIP");
        }
    }
    if chance(rng, 30)
        && let Some(ports) = spec["ports"].as_array_mut()
    {
        ports.push(json!({"name": "dns", "port": 53, "protocol": "UDP"}));
    }
    let metadata = &mut service["metadata"];
    if chance(rng, 10) {
        metadata["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    }
    if chance(rng, 10) {
        metadata["annotations"] = json!({"sockline.dev/redirect": "disabled"});
    }
    if allow == Allow::Anything {
        let second = rng.u8(..3);
        metadata["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
    }
    service
}

fn slice(rng: &mut Rng, allow: Allow) -> Value {
    let name = pick(rng, &["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]);
    let mut slice = objects::endpoint_slice(NAMESPACES[0], pick(rng, &SERVICES), "IPv4");
    slice["metadata"]["name"] = json!(name);
    if chance(rng, 5) {
        slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    }
    let mut endpoints: Vec<Value> = (0..rng.u8(..4)).map(|_| endpoint(rng)).collect();
    if allow == Allow::Anything && chance(rng, 5) {
        endpoints.push(json!({"addresses": 7}));
    }
    slice["metadata"]["namespace"] = json!(pick(rng, &NAMESPACES));
    slice["endpoints"] = endpoints.into();
    slice["ports"] = json!([{"name": "web", "port": 8080, "protocol": "TCP"}]);
    slice
}

fn endpoint(rng: &mut Rng) -> Value {
    let address = format!("10.244.1.{}", rng.u8(1..9));
    let (ready, terminating) = (chance(rng, 70), chance(rng, 20));
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready || chance(rng, 50), "terminating": terminating},
    });
    if chance(rng, 60) {
        endpoint["nodeName"] = json!(pick(rng, &[NODE, "node-b"]));
    }
    if chance(rng, 30) {
        let zone = pick(rng, &["zone-1", "zone-2"]);
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
    }
    endpoint
}

fn node(rng: &mut Rng) -> Value {
    let name = pick(rng, &[NODE, "node-b"]);
    objects::node_in_zone(name, pick(rng, &["zone-1", "zone-2"]))
}

fn namespace(rng: &mut Rng) -> Value {
    let name = pick(rng, &NAMESPACES);
    let redirect = pick(rng, &["enabled", "disabled"]);
    objects::namespace(name, json!({"sockline.dev/redirect": redirect}))
}

fn pod(rng: &mut Rng) -> Value {
    let name = pick(rng, &["p1", "p2", "p3", "p4"]);
    let mut pod = Pod::new(&format!("{}/{name}", pick(rng, &NAMESPACES)));
    pod = pod.uid(&format!("uid-{name}-{}", rng.u8(..2)));
    if chance(rng, 50) {
        pod = pod.label("sockline.dev/redirect", pick(rng, &["enabled", "disabled"]));
    }
    let node = pick(rng, &[NODE, NODE, "node-b"]);
    pod.node(node).phase(pick(rng, &["Pending", "Running", "Succeeded"])).object()
}
