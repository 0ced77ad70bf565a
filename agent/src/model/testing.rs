//! Short ways to write objects in tests, also in those of the agent's control loop.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    event::Sourced,
    object::{
        Endpoint, EndpointPort, EndpointSlice, Family, Hints, InputError, Namespace, Node, Object,
        ObjectName, Pod, PodPhase, Protocol, Redirect, Service, ServicePort, TrafficPolicy,
        Workload,
    },
    plan::{Backend, Frontend},
};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// In namespace `ns`.
pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

/// One TCP port 80 named `http`.
pub(super) fn service(service: &str, cluster_ip: &str) -> Service {
    Service {
        name: name(service),
        uid: None,
        created: Some(0),
        cluster_ips: vec![ip(cluster_ip)],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: [false; 2],
        ports: vec![service_port("http", Protocol::Tcp, 80)],
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        redirect: Redirect::Enabled,
        close_on_removal: None,
    }
}

pub(super) fn service_port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: None }
}

/// With TCP port 8080 named `http`, of the family of its first endpoint.
pub(super) fn slice(slice: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: service.into(),
        family: endpoints.first().map_or(Family::IPv4, |endpoint| Family::of(endpoint.address)),
        ports: vec![endpoint_port("http", Protocol::Tcp, 8080)],
        endpoints,
        triggered: None,
    }
}

pub(super) fn endpoint_port(name: &str, protocol: Protocol, port: u16) -> EndpointPort {
    EndpointPort { name: name.into(), protocol, port }
}

/// Ready, on no node and in no zone, without hints.
pub(super) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        node: None,
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    }
}

impl Endpoint {
    pub(super) fn on(self, node: &str) -> Self {
        Self { node: Some(node.into()), ..self }
    }

    pub(super) fn in_zone(self, zone: &str) -> Self {
        Self { zone: Some(zone.into()), ..self }
    }

    /// Still serves while it terminates.
    pub(super) fn draining(self) -> Self {
        Self { ready: false, serving: true, terminating: true, ..self }
    }

    /// Neither ready nor serving, but not terminating.
    pub(super) fn unready(self) -> Self {
        Self { ready: false, serving: false, terminating: false, ..self }
    }

    pub(super) fn for_zones(self, zones: &[&str]) -> Self {
        let zones = zones.iter().map(|zone| Arc::from(*zone)).collect();
        self.with_hints(|hints| hints.zones = zones)
    }

    pub(super) fn for_nodes(self, nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(|node| Arc::from(*node)).collect();
        self.with_hints(|hints| hints.nodes = nodes)
    }

    fn with_hints(self, set: impl FnOnce(&mut Hints)) -> Self {
        let mut hints = self.hints.as_deref().cloned().unwrap_or_default();
        set(&mut hints);
        let hints = (hints != Hints::default()).then(|| Arc::new(hints));
        Self { hints, ..self }
    }
}

pub(super) fn node(name: &str, zone: Option<&str>) -> Node {
    Node { name: name.into(), zone: zone.map(Into::into), addresses: vec![] }
}

/// In no zone, with these addresses in this order.
pub(super) fn node_at(name: &str, addresses: &[&str]) -> Node {
    Node { addresses: addresses.iter().map(|address| ip(address)).collect(), ..node(name, None) }
}

/// A running pod without an owner; its UID is `uid-` and its name.
pub(crate) fn pod(pod: &str, node: &str) -> Pod {
    Pod {
        name: name(pod),
        node: Some(node.into()),
        cgroup_uid: format!("uid-{pod}").into(),
        redirect: None,
        labels: BTreeMap::new(),
        phase: PodPhase::Running,
        workload: Workload::new("Pod", pod),
    }
}

/// Without input errors.
pub(crate) fn sourced(object: impl Into<Object>) -> Sourced {
    let object = object.into();
    Sourced {
        reference: object.reference(),
        object: Some(object),
        service: None,
        input_errors: vec![],
    }
}

impl Sourced {
    pub(super) fn with_input_error(mut self, field: &str) -> Self {
        self.input_errors.push(InputError {
            object: (&self.reference).into(),
            field: field.to_owned(),
            message: "wrong".to_owned(),
        });
        self
    }

    pub(super) fn unusable(self) -> Self {
        let service = match &self.object {
            Some(Object::EndpointSlice(slice)) => Some(Arc::clone(&slice.service)),
            _ => None,
        };
        Self { object: None, service, ..self }
    }
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Self::Service(service)
    }
}

impl From<EndpointSlice> for Object {
    fn from(slice: EndpointSlice) -> Self {
        Self::EndpointSlice(slice)
    }
}

impl From<Pod> for Object {
    fn from(pod: Pod) -> Self {
        Self::Pod(pod)
    }
}

impl From<Namespace> for Object {
    fn from(namespace: Namespace) -> Self {
        Self::Namespace(namespace)
    }
}

impl From<Node> for Object {
    fn from(node: Node) -> Self {
        Self::Node(node)
    }
}

/// Addresses with their ports.
pub(super) fn texts(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|b| std::net::SocketAddr::new(b.address, b.port).to_string()).collect()
}

/// `address:port/protocol action [backends]`
pub(super) fn line(frontend: &Frontend) -> String {
    let Frontend { address, port, protocol, kind, action, reason, .. } = frontend;
    let reason = reason.map(|reason| format!(" {reason:?}")).unwrap_or_default();
    let backends = texts(&frontend.backends).join(" ");
    format!("{kind:?} {address} {port}/{protocol} {action:?}{reason} [{backends}]")
}
