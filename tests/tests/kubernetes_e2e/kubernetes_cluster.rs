//! A cluster of some nodes, each with its agent: services and pods come and go as in the
//! specifications, and every node has the change in its kernel when a call returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Command,
    thread,
};

use serde_json::{Value, json};
use sockline_testbed::{Cluster, Node, Ns, Pod, objects};

use crate::{api_server::Allocator, controller, pods::Server, wires};

/// Fields are dropped in this order: pods before their nodes.
pub struct KubernetesCluster {
    pods: BTreeMap<String, Server>,
    services: BTreeMap<String, Value>,
    /// Slices that no controller made.
    slices: Vec<Value>,
    allocator: Allocator,
    next_pod: u8,
    zones: Vec<String>,
    clusters: Vec<Cluster>,
}

/// A Service of type ClusterIP with one port, 80/TCP, that selects the pods of the app of its name.
///
/// It is written here as the suite creates it (`test/e2e/framework/service/jig.go`), with a selector and without what
/// the API server adds: the testbed's objects already have that, so that an allocator could not be seen to work.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "selector": {"app": name},
            "ports": [port("http", "TCP", 80, 80)],
        },
    })
}

/// A port of a service. The target is a number or the name of a container port.
pub fn port(name: &str, protocol: &str, number: u16, target: impl Into<Value>) -> Value {
    json!({"name": name, "protocol": protocol, "port": number, "targetPort": target.into()})
}

/// [`service`] of another type.
pub fn service_of_type(kind: &str, name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["type"] = kind.into();
    service
}

impl KubernetesCluster {
    /// A cluster of one node.
    pub fn new() -> Self {
        Self::in_zones(&["zone-0"])
    }

    /// A cluster of two nodes.
    pub fn of_two_nodes() -> Self {
        Self::in_zones(&["zone-0", "zone-0"])
    }

    /// A cluster with a node for each of these zones. The agents start with the first object.
    pub fn in_zones(zones: &[&str]) -> Self {
        Self::with_agent_args(zones, &[])
    }

    /// A cluster of two nodes without kube-proxy: the agents serve NodePorts at both nodes' addresses.
    pub fn without_kube_proxy() -> Self {
        Self::with_agent_args(&["zone-0", "zone-0"], &["--nodeports-of-all-nodes"])
    }

    fn with_agent_args(zones: &[&str], args: &[&str]) -> Self {
        let nodes: Vec<Node> = (0..zones.len())
            .map(|number| Node::with_addresses(&wires::node_addresses(number)).unwrap())
            .collect();
        wires::join_all(&nodes);
        let named = nodes.into_iter().enumerate();
        let cluster = |(number, node)| Cluster::on(node, &format!("node-{number}")).with_args(args);
        let clusters = named.map(cluster).collect();
        Self {
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: Vec::new(),
            allocator: Allocator::default(),
            next_pod: 0,
            zones: zones.iter().map(ToString::to_string).collect(),
            clusters,
        }
    }

    /// What a pod with `hostNetwork: true` on this node is in.
    pub fn host(&self, node: usize) -> &Ns {
        self.clusters[node].node()
    }

    /// A pod on this node that only asks.
    pub fn client(&mut self, node: usize) -> Pod {
        let client = self.pod("client", node);
        // A call to an address that no agent translates fails at once. The node would refuse it as well, with ICMP
        // errors, but sends only some of them in a second.
        for nowhere in ["10.96.0.0/12", "203.0.113.0/24", "fd00:96::/48"] {
            let mut ip = Command::new("ip");
            let done = client.output(ip.args(["route", "add", "unreachable", nowhere])).unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        client
    }

    fn pod(&mut self, name: &str, node: usize) -> Pod {
        self.next_pod += 1;
        let addresses = wires::pod_addresses(node, self.next_pod);
        self.clusters[node].node().pod(name, &addresses).unwrap()
    }

    /// Creates a service.
    pub fn create(&mut self, service: Value) {
        self.create_all([service]);
    }

    /// Creates services.
    pub fn create_all(&mut self, services: impl IntoIterator<Item = Value>) {
        for mut service in services {
            self.allocator.admit(&mut service);
            self.services.insert(name_of(&service), service);
        }
        self.sync();
    }

    /// Changes a service.
    pub fn update(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let service = self.services.get_mut(name).expect("the service exists");
        change(service);
        self.allocator.admit(service);
        self.sync();
    }

    /// Deletes a service.
    pub fn delete(&mut self, name: &str) {
        self.services.remove(name).expect("the service exists");
        self.allocator.release(name);
        self.sync();
    }

    /// Starts a pod.
    pub fn start(&mut self, server: Server) {
        self.start_all([server]);
    }

    /// Starts pods.
    pub fn start_all(&mut self, servers: impl IntoIterator<Item = Server>) {
        for mut server in servers {
            if server.host_network {
                let addresses = wires::node_addresses(server.node).to_vec();
                server.start(self.clusters[server.node].node(), None, addresses);
            } else {
                let pod = self.pod(&server.name, server.node);
                let addresses = pod.addresses().to_vec();
                server.start(self.clusters[server.node].node(), Some(pod), addresses);
            }
            self.pods.insert(server.name.clone(), server);
        }
        self.sync();
    }

    /// A pod that runs.
    pub fn server(&self, name: &str) -> &Server {
        self.pods.get(name).expect("the pod runs")
    }

    /// Changes what Kubernetes knows of a pod, which itself goes on.
    pub fn mark(&mut self, pod: &str, change: impl FnOnce(&mut Server)) {
        change(self.pods.get_mut(pod).expect("the pod runs"));
        self.sync();
    }

    /// Gives a pod its deletion timestamp: it is not ready any more for services, and still serves.
    pub fn terminate(&mut self, pod: &str) {
        self.mark(pod, |pod| pod.terminating = true);
    }

    /// A pod goes: first from the endpoints, then itself.
    pub fn stop(&mut self, pod: &str) {
        let gone = self.pods.remove(pod).expect("the pod runs");
        self.sync();
        drop(gone);
    }

    /// A pod crashes: it is gone before the endpoints say so.
    pub fn crash(&mut self, pod: &str) {
        drop(self.pods.remove(pod).expect("the pod runs"));
        self.sync();
    }

    /// Sets the slices of services without a selector.
    pub fn put_slices(&mut self, slices: Vec<Value>) {
        self.slices = slices;
        self.sync();
    }

    /// What the API server has of a service.
    pub fn service(&self, name: &str) -> &Value {
        self.services.get(name).expect("the service exists")
    }

    /// A cluster IP of a service with one of its ports.
    pub fn at(&self, service: &str, port: u16) -> SocketAddr {
        self.at_each_ip(service, port)[0]
    }

    /// The cluster IPs of a service, in their order.
    pub fn at_each_ip(&self, service: &str, port: u16) -> Vec<SocketAddr> {
        let ips = self.service(service)["spec"]["clusterIPs"].as_array().unwrap().iter();
        ips.map(|ip| SocketAddr::new(ip.as_str().unwrap().parse().unwrap(), port)).collect()
    }

    /// The node port of a service's port of this number.
    pub fn node_port(&self, service: &str, port: u16) -> u16 {
        let ports = self.service(service)["spec"]["ports"].as_array().unwrap();
        let port = ports.iter().find(|candidate| candidate["port"] == port).unwrap();
        u16::try_from(port["nodePort"].as_u64().unwrap()).unwrap()
    }

    /// The node port at each of a node's own addresses.
    pub fn at_each_address(&self, node: usize, service: &str, port: u16) -> [SocketAddr; 2] {
        let port = self.node_port(service, port);
        wires::node_addresses(node).map(|ip| SocketAddr::new(ip, port))
    }

    /// The agent of a node.
    pub fn node_with_agent(&self, node: usize) -> &Cluster {
        &self.clusters[node]
    }

    /// The node port at a node's own IPv4 address.
    pub fn at_node(&self, node: usize, service: &str, port: u16) -> SocketAddr {
        SocketAddr::new(wires::node_addresses(node)[0], self.node_port(service, port))
    }

    /// The families of the endpoints that the controller made for a service.
    pub fn endpoint_families(&self, service: &str) -> BTreeSet<String> {
        let slices = controller::slices(self.service(service), &self.located_pods());
        slices.iter().map(|slice| slice["addressType"].as_str().unwrap().to_owned()).collect()
    }

    fn located_pods(&self) -> Vec<(&Server, &str)> {
        self.pods.values().map(|pod| (pod, self.zones[pod.node].as_str())).collect()
    }

    /// Writes the objects for every node and waits until they are in every kernel.
    fn sync(&mut self) {
        let mut objects: Vec<Value> = self.services.values().cloned().collect();
        let pods = self.located_pods();
        for service in self.services.values() {
            objects.extend(controller::slices(service, &pods));
        }
        objects.extend(self.slices.iter().cloned());
        objects.extend(self.zones.iter().enumerate().map(|(number, zone)| node(number, zone)));
        let objects = &objects;
        thread::scope(|threads| {
            for cluster in &mut self.clusters {
                // A panic in here becomes one of the scope.
                threads.spawn(move || cluster.apply_objects(objects.clone()).unwrap());
            }
        });
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("an object has a name").to_owned()
}

fn node(number: usize, zone: &str) -> Value {
    let addresses = wires::node_addresses(number);
    let mut node = objects::node_at(&format!("node-{number}"), &addresses);
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
    node
}
