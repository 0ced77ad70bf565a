//! What the API server adds to a Service when it is created or changed: defaults, a cluster IP for
//! each family, node ports.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

/// Hands out addresses and node ports, and remembers whose they are.
#[derive(Default)]
pub struct Allocator {
    cluster_ips: BTreeMap<String, u8>,
    next_cluster_ip: u8,
    /// By service and port number: a port keeps its node port when the list of ports is replaced,
    /// and has the same one for both protocols.
    node_ports: BTreeMap<(String, u64), u16>,
    next_node_port: u16,
}

impl Allocator {
    /// Completes a service.
    pub fn admit(&mut self, service: &mut Value) {
        let name = service["metadata"]["name"].as_str().expect("a service has a name").to_owned();
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let spec = &mut service["spec"];
        if kind == "ExternalName" {
            let fields = spec.as_object_mut().expect("a spec is an object");
            for field in ["clusterIP", "clusterIPs", "ipFamilies"] {
                fields.remove(field);
            }
            self.release(&name);
        } else {
            default(spec, "ipFamilies", json!(["IPv4"]));
            let ips = self.cluster_ips(&name, &spec["ipFamilies"]);
            spec["clusterIP"] = ips[0].to_string().into();
            spec["clusterIPs"] = ips.iter().map(ToString::to_string).collect();
            default(spec, "internalTrafficPolicy", "Cluster".into());
            default(spec, "sessionAffinity", "None".into());
        }
        if spec["sessionAffinity"] == "ClientIP" {
            let config = json!({"clientIP": {"timeoutSeconds": 10_800}});
            default(spec, "sessionAffinityConfig", config);
        } else if let Some(fields) = spec.as_object_mut() {
            fields.remove("sessionAffinityConfig");
        }
        let has_node_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
            _ => false,
        };
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            default(spec, "externalTrafficPolicy", "Cluster".into());
        }
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            default(port, "protocol", "TCP".into());
            let number = port["port"].clone();
            default(port, "targetPort", number.clone());
            let owner = (name.clone(), number.as_u64().expect("a port has a number"));
            if !has_node_ports {
                port.as_object_mut().expect("a port is an object").remove("nodePort");
            } else if port["nodePort"].is_null() {
                port["nodePort"] = self.node_port(owner).into();
            }
        }
        if kind != "LoadBalancer" {
            service["status"] = json!({"loadBalancer": {}});
        }
    }

    /// Takes back what a service had. Nothing is handed out twice, so that a test notices when an
    /// old address is still served.
    pub fn release(&mut self, name: &str) {
        self.cluster_ips.remove(name);
        self.node_ports.retain(|(owner, _), _| owner != name);
    }

    fn cluster_ips(&mut self, name: &str, families: &Value) -> Vec<IpAddr> {
        let number = *self.cluster_ips.entry(name.to_owned()).or_insert_with(|| {
            self.next_cluster_ip += 1;
            self.next_cluster_ip
        });
        let families = families.as_array().expect("ipFamilies is a list");
        let ip = |family: &Value| match family.as_str() {
            Some("IPv6") => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)]),
            _ => IpAddr::from([10, 96, 0, number]),
        };
        families.iter().map(ip).collect()
    }

    fn node_port(&mut self, owner: (String, u64)) -> u16 {
        *self.node_ports.entry(owner).or_insert_with(|| {
            self.next_node_port += 1;
            30_000 + self.next_node_port
        })
    }
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}
