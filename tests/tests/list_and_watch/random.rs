//! Random objects: few names and addresses, so that they conflict, and every field that a plan depends on.

use fastrand::Rng;
use serde_json::{Value, json};

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
    let mut metadata = json!({"name": SERVICES[number], "namespace": NAMESPACES[namespace]});
    if allow == Allow::Anything && chance(rng, 4) {
        // It can never be decoded: what remains of an object that was valid before depends on who saw it.
        metadata["name"] = json!("broken");
        return json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": "none"},
        });
    }
    let own = format!("10.96.{}.{}", namespace + 1, number + 1);
    let mut spec = json!({
        "type": "ClusterIP", "clusterIP": own, "clusterIPs": [own],
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
    });
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
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn slice(rng: &mut Rng, allow: Allow) -> Value {
    let name = pick(rng, &["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]);
    let mut labels = json!({"kubernetes.io/service-name": pick(rng, &SERVICES)});
    if chance(rng, 5) {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let mut endpoints: Vec<Value> = (0..rng.u8(..4)).map(|_| endpoint(rng)).collect();
    if allow == Allow::Anything && chance(rng, 5) {
        endpoints.push(json!({"addresses": 7}));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": pick(rng, &NAMESPACES), "labels": labels},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
    })
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
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": pick(rng, &[NODE, "node-b"]),
            "labels": {"topology.kubernetes.io/zone": pick(rng, &["zone-1", "zone-2"])},
        },
    })
}

fn namespace(rng: &mut Rng) -> Value {
    let mut metadata = json!({"name": pick(rng, &NAMESPACES)});
    let redirect = pick(rng, &["enabled", "disabled"]);
    metadata["labels"] = json!({"sockline.dev/redirect": redirect});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
}

fn pod(rng: &mut Rng) -> Value {
    let name = pick(rng, &["p1", "p2", "p3", "p4"]);
    let mut metadata = json!({"name": name, "namespace": pick(rng, &NAMESPACES)});
    metadata["uid"] = json!(format!("uid-{name}-{}", rng.u8(..2)));
    if chance(rng, 50) {
        metadata["labels"] = json!({"sockline.dev/redirect": pick(rng, &["enabled", "disabled"])});
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "nodeName": pick(rng, &[NODE, NODE, "node-b"]),
            "containers": [{"name": "c", "image": "none"}],
        },
        "status": {"phase": pick(rng, &["Pending", "Running", "Succeeded"])},
    })
}
