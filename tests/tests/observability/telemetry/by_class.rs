//! Connections by how far traffic goes: the sums of each class equal what the applications sent.
//!
//! All pods are on this node in truth; what counts is what the EndpointSlices say. That the classes of a service port add
//! up to its totals is checked by [`Seen`] with each reading, in all tests of connections.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
};

use serde_json::Value;
use sockline_testbed::{Cluster, Endpoint, Pod, Service, objects};

use super::{at, transfer};
use crate::common::{eventually, holds};

const WEB: &str = "10.96.0.1:80";
pub(super) const CLASSES: [&str; 4] = ["same-node", "same-zone", "other-zone", "unknown"];

/// Opened connections, bytes sent and bytes received, by class.
type ByClass = BTreeMap<String, [u64; 3]>;

/// The service `web` with an endpoint of each class, and a client.
pub(super) struct Zones {
    pub(super) cluster: Cluster,
    pub(super) client: Pod,
    /// By class, as in [`CLASSES`].
    pods: Vec<Pod>,
    listeners: Vec<TcpListener>,
    /// What the applications did.
    expected: ByClass,
}

/// A connection of the client, the server's end of it, and the class.
pub(super) type Open = (TcpStream, TcpStream, &'static str);

impl Zones {
    pub(super) fn new() -> Self {
        let mut zones = Self::without_zone();
        zones.label_node();
        zones
    }

    /// This node has no label yet.
    fn without_zone() -> Self {
        let mut cluster = Cluster::new().unwrap();
        let pods = cluster.pods("web", CLASSES.len()).unwrap();
        let client = cluster.pod("client").unwrap();
        let listeners = pods.iter().map(|pod| {
            let listener = pod.run(|| TcpListener::bind("[::]:8080")).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let listeners = listeners.collect();
        let mut zones = Self { cluster, client, pods, listeners, expected: ByClass::new() };
        let endpoints = zones.endpoints();
        zones.cluster.apply([service().endpoints(endpoints)]).unwrap();
        zones
    }

    fn label_node(&mut self) {
        let node = objects::node_in_zone("node-a", "zone-0");
        self.cluster.apply_objects(vec![node]).unwrap();
    }

    fn endpoints(&self) -> [Endpoint; 4] {
        let of = |place: usize| Endpoint::from(&self.pods[place]);
        [
            of(0),
            of(1).on_node("node-b").in_zone("zone-0"),
            of(2).on_node("node-c").in_zone("zone-1"),
            of(3).on_node("node-d"),
        ]
    }

    fn open(&mut self) -> Open {
        let client = self.client.run(|| TcpStream::connect(at(WEB))).unwrap();
        let (server, class) = eventually("an endpoint to have the connection", || {
            for (listener, class) in self.listeners.iter().zip(CLASSES) {
                match listener.accept() {
                    Ok((server, _)) => return Ok((server, class)),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            Err("none")
        });
        server.set_nonblocking(false).unwrap();
        self.expected.entry(class.to_owned()).or_default()[0] += 1;
        (client, server, class)
    }

    /// One open connection of each class. The backends are drawn at random: others are closed at once.
    pub(super) fn one_of_each(&mut self) -> Vec<Open> {
        let mut open: BTreeMap<&str, Open> = BTreeMap::new();
        for _ in 0..1000 {
            if open.len() == CLASSES.len() {
                break;
            }
            let one = self.open();
            open.entry(one.2).or_insert(one);
        }
        assert_eq!(open.len(), CLASSES.len());
        open.into_values().collect()
    }

    /// Sends other numbers of bytes for each class, both ways, and closes.
    pub(super) fn use_and_close(&mut self, open: Vec<Open>) {
        for (mut client, mut server, class) in open {
            let number = CLASSES.iter().position(|one| *one == class).unwrap() + 1;
            let (sent, received) = (100 * number, 1000 * number);
            transfer(&mut client, &mut server, sent);
            transfer(&mut server, &mut client, received);
            let expected = self.expected.get_mut(class).unwrap();
            expected[1] += sent as u64;
            expected[2] += received as u64;
        }
    }

    fn seen(&self) -> ByClass {
        let metrics = self.cluster.metrics().unwrap();
        let mut seen = ByClass::new();
        for (place, what) in
            ["connections_opened", "sent_bytes", "received_bytes"].iter().enumerate()
        {
            let name = format!("sockline_traffic_class_{what}_total");
            for class in metrics.label_values(&name, "traffic_class") {
                let labels = [("service", "web"), ("protocol", "TCP"), ("traffic_class", class)];
                let count = metrics.sum(&name, &labels) as u64;
                seen.entry(class.to_owned()).or_default()[place] = count;
            }
        }
        seen
    }

    #[track_caller]
    pub(super) fn assert_seen(&self) {
        eventually(&format!("{:?}", self.expected), || {
            let seen = self.seen();
            holds(seen == self.expected, format!("{seen:?}"))
        });
        super::Seen::of(&self.cluster, "web", sockline_testbed::Protocol::Tcp);
    }

    /// The backends of `web` by their address, with the class that `sockline backends` shows.
    pub(super) fn shown(&self) -> BTreeMap<String, String> {
        let text = self.cluster.agent().cli(&["backends", "-o", "json"]).unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        let backends = list["items"][0]["backends"].as_array().unwrap().clone();
        let of = |backend: &Value, field: &str| backend[field].as_str().unwrap().to_owned();
        let entry = |backend: &Value| (of(backend, "address"), of(backend, "trafficClass"));
        backends.iter().map(entry).collect()
    }

    /// As [`Self::shown`], of these classes.
    pub(super) fn with(&self, classes: [&str; 4]) -> BTreeMap<String, String> {
        let address = |pod: &Pod| pod.addresses()[0].to_string();
        self.pods.iter().map(address).zip(classes.map(str::to_owned)).collect()
    }
}

pub(super) fn service() -> Service {
    Service::new("web").ip("10.96.0.1").tcp(80).to(8080)
}

#[test]
fn connections_and_bytes_are_counted_by_how_far_they_go_also_over_a_restart() {
    let mut zones = Zones::new();
    assert_eq!(zones.shown(), zones.with(CLASSES));
    let wide = zones.cluster.agent().cli(&["backends", "-o", "wide"]).unwrap();
    assert!(wide.lines().next().unwrap().contains("TRAFFIC"), "{wide}");
    for class in CLASSES {
        assert!(wide.contains(class), "{wide}");
    }
    let open = zones.one_of_each();
    zones.use_and_close(open);
    zones.assert_seen();
    let lasting = zones.one_of_each();
    zones.cluster.restart(|_| ()).unwrap();
    zones.assert_seen();
    zones.use_and_close(lasting);
    zones.assert_seen();
}

#[test]
fn what_ends_after_its_endpoint_was_removed_counts_for_the_class_that_it_had() {
    let mut zones = Zones::new();
    let ended = zones.one_of_each();
    zones.use_and_close(ended);
    let lasting = zones.one_of_each();
    let heir = zones.cluster.pod("heir").unwrap();
    let heir = Endpoint::from(&heir).on_node("node-c").in_zone("zone-1");
    zones.cluster.apply([service().endpoints([heir])]).unwrap();
    zones.assert_seen();
    eventually("the removed endpoints to be reclaimed", || {
        let maps = zones.cluster.status().unwrap()["agent"]["maps"].as_array().unwrap().clone();
        let backends = maps.into_iter().find(|map| map["name"] == "backends").unwrap();
        if backends["entries"] == 1 { Ok(()) } else { Err(backends) }
    });
    zones.assert_seen();
    zones.use_and_close(lasting);
    zones.assert_seen();
    zones.cluster.restart(|_| ()).unwrap();
    zones.assert_seen();
}

/// A label of this node that is set late makes no new backend of an endpoint, which would end its UDP sockets. What is
/// counted stays where it is, as the counters of a class must not fall.
#[test]
fn what_was_counted_before_a_zone_becomes_known_stays_with_its_class() {
    let mut zones = Zones::without_zone();
    assert_eq!(zones.shown(), zones.with(["same-node", "unknown", "unknown", "unknown"]));
    let ended = zones.one_of_each();
    zones.use_and_close(ended);
    // As the programs saw it.
    for class in ["same-zone", "other-zone"] {
        let counts = zones.expected.remove(class).unwrap();
        let unknown = zones.expected.get_mut("unknown").unwrap();
        unknown.iter_mut().zip(counts).for_each(|(sum, one)| *sum += one);
    }
    zones.assert_seen();
    zones.label_node();
    assert_eq!(zones.shown(), zones.with(CLASSES));
    zones.assert_seen();
    let open = zones.one_of_each();
    zones.use_and_close(open);
    zones.assert_seen();
    // The removed endpoints' counts go to their service, and nothing is read from an entry any more.
    zones.cluster.restart(|_| ()).unwrap();
    zones.assert_seen();
    let heir = zones.cluster.pod("heir").unwrap();
    zones.cluster.apply([service().endpoints([&heir])]).unwrap();
    zones.assert_seen();
}
