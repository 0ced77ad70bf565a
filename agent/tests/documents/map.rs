//! A picture of `sockline map`: what it draws of invented numbers.

use std::net::{IpAddr, Ipv4Addr};

use sockline::{
    cli::map::{
        document::{BackendTraffic, ClientTraffic, Rates, ServiceTraffic, Traffic, TrafficMap},
        svg,
        view::View,
    },
    model::object::{ObjectName, Protocol},
    workloads::WorkloadRef,
};

/// A workload with its kind, and its connections per second.
type Client = (&'static str, &'static str, f64);

/// A service port, its clients, and how many of a hundred connections fail.
const SERVICES: [(&str, &str, &[Client], u8, f64); 6] = [
    ("adservice", "grpc", &[("frontend", "Deployment", 46.0)], 2, 0.0),
    (
        "cartservice",
        "grpc",
        &[("checkoutservice", "Deployment", 9.5), ("frontend", "Deployment", 118.0)],
        3,
        0.0,
    ),
    (
        "frontend",
        "http",
        &[("loadgenerator", "Deployment", 75.0), ("kubelet.service", "SystemdService", 0.4)],
        2,
        0.0,
    ),
    ("paymentservice", "grpc", &[("checkoutservice", "Deployment", 9.0)], 1, 0.34),
    (
        "productcatalogservice",
        "grpc",
        &[
            ("checkoutservice", "Deployment", 9.5),
            ("frontend", "Deployment", 205.0),
            ("recommendationservice", "Deployment", 48.0),
        ],
        3,
        0.0,
    ),
    (
        "redis-cart",
        "tcp-redis",
        &[("cartservice", "Deployment", 2.0), ("nightly-backup", "CronJob", 0.0)],
        1,
        0.0,
    ),
];

fn traffic(rate: f64, failing: f64) -> Traffic {
    let seconds = 3600.0;
    let count = |rate: f64| (rate * seconds).round() as u64;
    Traffic {
        active: (rate / 8.0).round() as u64,
        opened: count(rate).max(3),
        failed: count(rate * failing),
        sent_bytes: count(rate * 300.0),
        received_bytes: count(rate * 2000.0),
        rates: Rates {
            opened: rate,
            failed: rate * failing,
            sent_bytes: rate * 300.0,
            received_bytes: rate * 2000.0,
        },
    }
}

fn client(name: &str, kind: &str, rate: f64, failing: f64) -> ClientTraffic {
    let namespace = (kind != "SystemdService").then(|| "boutique".to_owned());
    let workload = WorkloadRef { namespace, kind: kind.to_owned(), name: name.to_owned() };
    let traffic = traffic(rate, failing);
    ClientTraffic { workload: Some(workload), pod_uid: None, cgroups: 1, traffic }
}

pub fn svg() -> String {
    let services =
        (1_u8..).zip(SERVICES).map(|(place, (name, port, clients, backends, failing))| {
            let rate: f64 = clients.iter().map(|(_, _, rate)| rate).sum();
            let share = rate / f64::from(backends);
            let backends = (1..=backends).map(|host| BackendTraffic {
                address: IpAddr::V4(Ipv4Addr::new(10, 244, host, 10 + place)),
                port: 8080,
                traffic: traffic(share, failing),
            });
            ServiceTraffic {
                service: ObjectName::new("boutique", name),
                port_name: port.to_owned(),
                protocol: Protocol::Tcp,
                traffic: traffic(rate, failing),
                clients: clients
                    .iter()
                    .map(|(name, kind, rate)| client(name, kind, *rate, failing))
                    .collect(),
                backends: backends.collect(),
            }
        });
    let map = TrafficMap {
        node_name: "node-a".to_owned(),
        interval_seconds: 2.0,
        services: services.collect(),
    };
    svg::render(&View::of(&map))
}
