//! The watched cluster: services with the same number of endpoints, and their changes.

use std::{cell::RefCell, net::Ipv4Addr, time::SystemTime};

use serde_json::{Value, json};
use sockline_testbed::{api::Api, objects};

/// The endpoint-slice controller's limit for one slice.
const PER_SLICE: u32 = 100;
const NODES: u32 = 100;
const LARGEST_SLICES: u32 = 100;

pub(super) struct Cluster {
    api: Api,
    services: u32,
    endpoints: u32,
    /// Every change uses a new address.
    next_address: RefCell<u32>,
}

impl std::fmt::Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} services x {} endpoints", self.services, self.endpoints)
    }
}

impl Cluster {
    pub(super) fn fill(api: Api, services: u32, endpoints: u32) -> Self {
        api.apply(&objects::node());
        for namespace in ["default", "bench"] {
            api.apply(&objects::namespace(namespace, json!({})));
        }
        let cluster = Self { api, services, endpoints, next_address: RefCell::new(1 << 22) };
        for number in 0..services {
            cluster.api.apply(&service(number));
            cluster.api.apply(&slice(number, 0, addresses(number * endpoints, endpoints)));
        }
        cluster
    }

    pub(super) fn service_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (0..self.services).map(service_address)
    }

    /// Gives one endpoint of a service another address.
    pub(super) fn change(&self, number: u32) {
        let service = number.wrapping_mul(7919) % self.services;
        let endpoints = addresses(service * self.endpoints, self.endpoints - 1);
        self.api.apply(&slice(service, 0, endpoints.chain([self.fresh_address()])));
    }

    /// Adds a service with 10,000 endpoints.
    pub(super) fn add_largest(&self) {
        self.api.apply(&service(self.services));
        for part in 0..LARGEST_SLICES {
            self.api.apply(&slice(self.services, part, self.of_largest(part, PER_SLICE)));
        }
    }

    pub(super) fn change_largest(&self, number: u32) {
        let part = number % LARGEST_SLICES;
        let endpoints = self.of_largest(part, PER_SLICE - 1).chain([self.fresh_address()]);
        self.api.apply(&slice(self.services, part, endpoints));
    }

    fn of_largest(&self, part: u32, count: u32) -> impl Iterator<Item = Ipv4Addr> + use<> {
        addresses(self.services * self.endpoints + part * PER_SLICE, count)
    }

    fn fresh_address(&self) -> Ipv4Addr {
        let mut next = self.next_address.borrow_mut();
        *next += 1;
        address(*next)
    }
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number)
}

fn addresses(first: u32, count: u32) -> impl Iterator<Item = Ipv4Addr> + use<> {
    (first..first + count).map(address)
}

fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + number)
}

fn service(number: u32) -> Value {
    let address = service_address(number).to_string();
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
    objects::service_with("bench", &format!("service-{number}"), &address, ports)
}

/// As the endpoint-slice controller writes it, with the fields that no test needs: the agent reads them, too.
fn slice(service: u32, part: u32, addresses: impl Iterator<Item = Ipv4Addr>) -> Value {
    let endpoints: Vec<Value> = addresses
        .map(|address| {
            let pod = format!("service-{service}-{:x}", u32::from(address));
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", u32::from(address) % NODES),
                "zone": format!("zone-{}", u32::from(address) % 3),
                "targetRef": {
                    "kind": "Pod", "namespace": "bench", "name": pod,
                    "uid": format!("00000000-0000-0000-0000-{:012x}", u32::from(address)),
                },
            })
        })
        .collect();
    let mut slice = objects::endpoint_slice("bench", &format!("service-{service}"), "IPv4");
    let metadata = &mut slice["metadata"];
    metadata["name"] = format!("service-{service}-{part}").into();
    metadata["labels"]["endpointslice.kubernetes.io/managed-by"] =
        "endpointslice-controller.k8s.io".into();
    metadata["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": now()});
    slice["endpoints"] = endpoints.into();
    slice["ports"] = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    slice
}

fn now() -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    now.to_string()
}
