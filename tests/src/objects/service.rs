//! A Service and its endpoints as one value, which a test builds step by step.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{endpoint_slice, family::Family};
use crate::{Pod, Protocol};

const NAMESPACE: &str = "default";

/// A Service of the namespace `default` together with the EndpointSlices behind it.
///
/// ```
/// use sockline_testbed::Service;
/// let web = Service::new("web").ip("10.96.0.1").tcp(80).to(8080).sticky(60);
/// assert_eq!(web.objects().len(), 2, "the service, and its slice for IPv4");
/// ```
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    cluster_ips: Vec<String>,
    external_ips: Vec<String>,
    ingress: Vec<(String, &'static str)>,
    source_ranges: Vec<String>,
    ports: Vec<Port>,
    affinity_seconds: Option<u32>,
    internal_policy: Policy,
    external_policy: Policy,
    endpoints: Vec<Endpoint>,
    annotations: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Port {
    protocol: Protocol,
    number: u16,
    node_port: Option<u16>,
    target: u16,
}

/// An endpoint of every port of a service: one pod, with as many addresses as it has.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addresses: Vec<IpAddr>,
    node: String,
    zone: Option<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
}

impl Endpoint {
    /// A ready one on `node-a`, which is where agents of the testbed are.
    pub fn at(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            node: "node-a".to_owned(),
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
        }
    }

    /// On another node.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// In this zone; otherwise its slice names none.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Neither ready nor serving.
    #[must_use]
    pub fn unready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }

    /// No longer ready, but still serving while it shuts down.
    #[must_use]
    pub fn draining(mut self) -> Self {
        (self.ready, self.serving, self.terminating) = (false, true, true);
        self
    }
}

impl From<&Pod> for Endpoint {
    fn from(pod: &Pod) -> Self {
        Self::at(pod.addresses())
    }
}

impl Service {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            ingress: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            affinity_seconds: None,
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            endpoints: Vec::new(),
            annotations: Map::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a cluster IP: one per family.
    #[must_use]
    pub fn ip(mut self, ip: &str) -> Self {
        self.cluster_ips.push(ip.to_owned());
        self
    }

    #[must_use]
    pub fn external_ip(mut self, ip: &str) -> Self {
        self.external_ips.push(ip.to_owned());
        self
    }

    /// Adds a load-balancer address that is the load balancer's own on every node (`ipMode: VIP`).
    #[must_use]
    pub fn load_balancer_vip(mut self, ip: &str) -> Self {
        self.ingress.push((ip.to_owned(), "VIP"));
        self
    }

    /// Adds a load-balancer address that traffic has to pass through (`ipMode: Proxy`).
    #[must_use]
    pub fn load_balancer_proxy(mut self, ip: &str) -> Self {
        self.ingress.push((ip.to_owned(), "Proxy"));
        self
    }

    #[must_use]
    pub fn source_range(mut self, range: &str) -> Self {
        self.source_ranges.push(range.to_owned());
        self
    }

    /// Adds a TCP port; pods listen on the same one, unless [`Service::to`] says otherwise.
    #[must_use]
    pub fn tcp(self, port: u16) -> Self {
        self.port(Protocol::Tcp, port)
    }

    /// Adds a UDP port; pods listen on the same one, unless [`Service::to`] says otherwise.
    #[must_use]
    pub fn udp(self, port: u16) -> Self {
        self.port(Protocol::Udp, port)
    }

    fn port(mut self, protocol: Protocol, number: u16) -> Self {
        self.ports.push(Port { protocol, number, node_port: None, target: number });
        self
    }

    /// Where the pods listen for the port that was added last.
    #[must_use]
    pub fn to(mut self, target: u16) -> Self {
        self.last_port().target = target;
        self
    }

    /// The node port of the port that was added last.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        self.last_port().node_port = Some(port);
        self
    }

    fn last_port(&mut self) -> &mut Port {
        self.ports.last_mut().expect("a port has been added before it is described")
    }

    /// Session affinity by client, with this timeout.
    #[must_use]
    pub fn sticky(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal_policy = Policy::Local;
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external_policy = Policy::Local;
        self
    }

    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// The endpoints, in place of those it had.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<Endpoint>>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The objects as the API server would give them: the Service, and one EndpointSlice for each
    /// family.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = vec![self.service()];
        for family in Family::ALL {
            if self.cluster_ips.iter().any(|ip| Family::of_text(ip) == family) {
                objects.push(self.slice(family));
            }
        }
        objects
    }

    fn service(&self) -> Value {
        let mut ports = Vec::new();
        for port in &self.ports {
            let mut object = Map::new();
            object.insert("name".to_owned(), port.name().into());
            object.insert("protocol".to_owned(), port.protocol.to_string().into());
            object.insert("port".to_owned(), port.number.into());
            if let Some(node_port) = port.node_port {
                object.insert("nodePort".to_owned(), node_port.into());
            }
            ports.push(object);
        }
        let kind = if !self.ingress.is_empty() {
            "LoadBalancer"
        } else if self.ports.iter().any(|port| port.node_port.is_some()) {
            "NodePort"
        } else {
            "ClusterIP"
        };
        let mut spec = json!({
            "type": kind,
            "clusterIP": self.cluster_ips.first(),
            "clusterIPs": self.cluster_ips,
            "ports": ports,
            "externalIPs": self.external_ips,
            "loadBalancerSourceRanges": self.source_ranges,
            "internalTrafficPolicy": self.internal_policy.as_str(),
            "sessionAffinity": "None",
        });
        if kind != "ClusterIP" {
            spec["externalTrafficPolicy"] = self.external_policy.as_str().into();
        }
        if let Some(seconds) = self.affinity_seconds {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        let ingress: Vec<Value> =
            self.ingress.iter().map(|(ip, mode)| json!({"ip": ip, "ipMode": mode})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "annotations": self.annotations,
            },
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    fn slice(&self, family: Family) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                json!({
                    "name": port.name(),
                    "protocol": port.protocol.to_string(),
                    "port": port.target,
                })
            })
            .collect();
        let mut endpoints = Vec::new();
        for endpoint in &self.endpoints {
            for address in endpoint.addresses.iter().filter(|&&ip| Family::of(ip) == family) {
                endpoints.push(json!({
                    "addresses": [address.to_string()],
                    "nodeName": endpoint.node,
                    "zone": endpoint.zone,
                    "conditions": {
                        "ready": endpoint.ready,
                        "serving": endpoint.serving,
                        "terminating": endpoint.terminating,
                    },
                }));
            }
        }
        let mut slice = endpoint_slice(NAMESPACE, &self.name, family.as_str());
        slice["metadata"]["name"] = format!("{}-{}", self.name, family.suffix()).into();
        slice["ports"] = ports.into();
        slice["endpoints"] = endpoints.into();
        slice
    }
}

impl Port {
    fn name(&self) -> String {
        format!("{}-{}", self.protocol, self.number).to_lowercase()
    }
}

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug)]
enum Policy {
    Cluster,
    Local,
}

impl Policy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}
