//! The counters in `/metrics` are exactly the number of calls.

use std::fs;

use sockline::dataplane::Pins;
use sockline_testbed::{Cluster, Counts, Endpoint, Pod, Protocol, Service, Socket, UdpClient, at};

struct CountedServices {
    client: Pod,
    cluster: Cluster,
    _servers: Vec<Box<dyn std::any::Any>>,
}

impl CountedServices {
    fn new() -> Self {
        let mut cluster = Cluster::new().unwrap();
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        let servers: Vec<Box<dyn std::any::Any>> =
            vec![Box::new(web.tcp_server(80).unwrap()), Box::new(web.udp_server(80).unwrap())];
        let both = |name: &str, ip: &str| Service::new(name).ip(ip).tcp(80).udp(80);
        let far = Endpoint::from(&web).on_node("node-b");
        cluster
            .apply([
                both("good", "10.96.0.1").endpoints([&web]),
                both("twin", "10.96.0.2").tcp(81).to(80).endpoints([&web]),
                both("empty", "10.96.0.3"),
                both("far", "10.96.0.4").internal_local().endpoints([far]),
                both("ranges", "10.96.0.5")
                    .load_balancer_vip("203.0.113.5")
                    .source_range("10.0.0.0/8")
                    .endpoints([&web]),
            ])
            .unwrap();
        Self { client, cluster, _servers: servers }
    }

    /// Does not wait for the connection: the program has run and counted when connect returns.
    fn tcp(&self, to: &str, times: usize) {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        self.client.run(|| {
            for _ in 0..times {
                let socket = Socket::open(libc::AF_INET, kind, libc::IPPROTO_TCP).unwrap();
                let _ = socket.connect(at(to));
            }
        });
    }

    fn udp_connect(&self, to: &str, times: usize) {
        self.client.run(|| {
            let socket = Socket::udp(libc::AF_INET).unwrap();
            for _ in 0..times {
                let _ = socket.connect(at(to));
            }
        });
    }

    /// `sockets` sockets that send `datagrams` each.
    fn udp_send(&self, to: &str, sockets: usize, datagrams: usize) {
        self.client.run(|| {
            for _ in 0..sockets {
                let client = UdpClient::unconnected(at(to).ip()).unwrap();
                for _ in 0..datagrams {
                    let _ = client.socket().send_to(b"x", at(to));
                }
            }
        });
    }

    fn assert_counts(&self, service: &str, tcp: Counts, udp: Counts) {
        assert_eq!(self.cluster.counts(service, Protocol::Tcp).unwrap(), tcp, "{service} TCP");
        assert_eq!(self.cluster.counts(service, Protocol::Udp).unwrap(), udp, "{service} UDP");
    }
}

const NONE: Counts =
    Counts { translated: 0, no_endpoints: 0, no_local_endpoints: 0, bypassed: 0, failed_open: 0 };

fn translated(count: u64) -> Counts {
    Counts { translated: count, ..NONE }
}

#[test]
fn each_connect_and_each_conversation_is_counted_once() {
    let setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 7);
    setup.udp_connect("10.96.0.1:80", 11);
    setup.udp_send("10.96.0.1:80", 5, 3);
    setup.assert_counts("good", translated(7), translated(11 + 5));
    setup.assert_counts("twin", NONE, NONE);
}

#[test]
fn each_backend_shows_how_often_it_was_chosen() {
    let setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 7);
    let listing = setup.cluster.agent().cli(&["backends", "default/good", "-o", "json"]).unwrap();
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let chosen = |port: usize| &listing["items"][port]["backends"][0]["connections"];
    assert_eq!((chosen(0).as_u64(), chosen(1).as_u64()), (Some(7), Some(0)), "{listing:#}");
}

#[test]
fn the_counters_of_a_service_are_the_sum_of_its_ports() {
    let setup = CountedServices::new();
    setup.tcp("10.96.0.2:80", 2);
    setup.tcp("10.96.0.2:81", 3);
    setup.assert_counts("twin", translated(5), NONE);
}

#[test]
fn each_refused_call_is_counted_by_its_reason() {
    let setup = CountedServices::new();
    for to in ["10.96.0.3:80", "10.96.0.4:80"] {
        setup.tcp(to, 4);
        setup.udp_connect(to, 5);
        setup.udp_send(to, 2, 3);
    }
    let empty = |count| Counts { no_endpoints: count, ..NONE };
    setup.assert_counts("empty", empty(4), empty(11));
    let far = |count| Counts { no_local_endpoints: count, ..NONE };
    setup.assert_counts("far", far(4), far(11));
}

#[test]
fn each_bypassed_call_is_counted() {
    let setup = CountedServices::new();
    setup.tcp("203.0.113.5:80", 3);
    setup.udp_connect("203.0.113.5:80", 4);
    setup.udp_send("203.0.113.5:80", 2, 3);
    setup.tcp("10.96.0.5:80", 2);
    let bypassed = |count| Counts { bypassed: count, ..NONE };
    setup.assert_counts("ranges", Counts { translated: 2, ..bypassed(3) }, bypassed(10));
}

#[test]
fn calls_to_anything_else_are_not_counted() {
    let setup = CountedServices::new();
    setup.tcp("10.96.0.99:80", 3);
    setup.tcp("10.96.0.1:81", 3);
    setup.udp_send("10.96.0.99:80", 2, 2);
    for service in ["good", "twin", "empty", "far", "ranges"] {
        setup.assert_counts(service, NONE, NONE);
    }
}

#[test]
fn the_counters_survive_a_change_of_the_service() {
    let mut setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 3);
    let more = setup.cluster.pod("more").unwrap();
    let changed = Service::new("good").ip("10.96.0.1").tcp(80).udp(80);
    setup.cluster.apply([changed.endpoints([&more])]).unwrap();
    setup.tcp("10.96.0.1:80", 2);
    setup.assert_counts("good", translated(5), NONE);
}

#[test]
fn a_service_that_is_gone_has_no_series() {
    let mut setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 3);
    setup.cluster.remove("good").unwrap();
    let text = setup.cluster.agent().metrics().unwrap();
    let left: Vec<_> = text.lines().filter(|line| line.contains("service=\"good\"")).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_count_of_a_removed_endpoint_never_becomes_another_services() {
    let mut setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 3);
    // The endpoint is removed first, and its service right after it.
    setup.cluster.apply([Service::new("good").ip("10.96.0.1").tcp(80).udp(80)]).unwrap();
    setup.cluster.remove("good").unwrap();
    let web = Endpoint::at(setup.client.addresses());
    let heirs = ["heir-0", "heir-1"].map(|name| Service::new(name).tcp(80).udp(80));
    let [first, second] = heirs;
    let heirs =
        [first.ip("10.96.1.1").endpoints([web.clone()]), second.ip("10.96.1.2").endpoints([web])];
    setup.cluster.apply(heirs).unwrap();
    setup.assert_counts("heir-0", NONE, NONE);
    setup.assert_counts("heir-1", NONE, NONE);
}

#[test]
fn a_scrape_opens_nothing_that_is_open() {
    let setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 3);
    let inner = Pins::in_bpffs(setup.cluster.node().bpffs()).inner_maps();
    // Without their pins, the agent cannot open these maps. It pins them again within seconds, and the test
    // ignores maps that are pinned again.
    loop {
        for pin in fs::read_dir(&inner).unwrap() {
            fs::remove_file(pin.unwrap().path()).unwrap();
        }
        let counts = setup.cluster.metrics().unwrap();
        let were_gone = fs::read_dir(&inner).unwrap().next().is_none();
        if were_gone {
            let good = [("service", "good"), ("protocol", "TCP")];
            assert_eq!(counts.sum("sockline_connections_translated_total", &good), 3.0);
            break;
        }
    }
}

#[test]
fn a_service_that_comes_back_counts_from_zero() {
    let mut setup = CountedServices::new();
    setup.tcp("10.96.0.1:80", 3);
    setup.cluster.remove("good").unwrap();
    let web = Endpoint::at(setup.client.addresses());
    let again = Service::new("good").ip("10.96.0.1").tcp(80).udp(80).endpoints([web]);
    setup.cluster.apply([again]).unwrap();
    setup.tcp("10.96.0.1:80", 2);
    setup.assert_counts("good", translated(2), NONE);
}
