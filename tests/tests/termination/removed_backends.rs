//! Sockets whose backend is gone: connected UDP sockets are closed, TCP connections if their service says so,
//! and no other socket is.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::common::{REPAIRS, WebNode, assert_logged_once, eventually, holds, options, series};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::socket::{getsockopt, sockopt::SocketError};
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_ebpf::socket::{OverflowEntry, SocketRecord, WAYS};
use sockline_testbed::{
    AgentOptions, Cluster, Endpoint, Ns, Pod, Service, Socket, TcpServer, UdpClient, UdpServer,
    kernel_version, mapped, objects, sockline_binary,
};

const V4: &str = "10.96.0.10:53";
const V6: &str = "[fd00:96::10]:53";
const CLOSE_ON_REMOVAL: &str = "sockline.dev/close-on-removal";

/// Pods that each answer UDP and TCP at 5353, and a client.
struct DnsPods {
    _servers: Vec<(UdpServer, TcpServer)>,
    pods: Vec<Pod>,
    client: Pod,
    cluster: Cluster,
}

impl DnsPods {
    /// All pods behind one service.
    fn new(pods: usize, args: &[&str]) -> Self {
        let mut this = Self::without_service(pods, args);
        this.cluster.apply([dns().endpoints(&this.pods)]).unwrap();
        this
    }

    fn without_service(pods: usize, args: &[&str]) -> Self {
        // The agent also looks for sockets with each reconciliation, so that there is always another pass.
        let mut args = args.to_vec();
        if !args.contains(&REPAIRS[0]) {
            args.extend(REPAIRS);
        }
        let mut cluster = Cluster::with_agent_args(&args).unwrap();
        let client = cluster.pod("client").unwrap();
        let pods = cluster.pods("dns", pods).unwrap();
        let servers = pods
            .iter()
            .map(|pod| (pod.udp_server(5353).unwrap(), pod.tcp_server(5353).unwrap()))
            .collect();
        Self { _servers: servers, pods, client, cluster }
    }

    /// All pods but the one of this name.
    fn without(&self, name: &str) -> Vec<&Pod> {
        self.pods.iter().filter(|pod| pod.name() != name).collect()
    }

    fn remove(&mut self, name: &str) {
        let service = dns().endpoints(self.without(name));
        self.cluster.apply([service]).unwrap();
    }

    /// Sockets are counted after they were closed.
    #[track_caller]
    fn eventually_counted(&self, protocol: &str, count: f64) {
        eventually(&format!("{count} closed over {protocol}"), || {
            let seen = self.closed(protocol);
            holds(seen == count, seen)
        });
    }

    fn closed(&self, protocol: &str) -> f64 {
        let metrics = self.cluster.metrics().unwrap();
        metrics.sum("sockline_sockets_closed_total", &[("protocol", protocol)])
    }

    /// Waits for more passes over the sockets than the agent makes for one that is not as expected.
    fn wait_for_passes(&self) {
        let passes = || {
            let metrics = self.cluster.metrics().unwrap();
            metrics.sum("sockline_socket_scan_duration_seconds_count", &[])
        };
        let before = passes();
        eventually("the agent to look for sockets again", || {
            let now = passes();
            holds(now >= before + 3.0, format!("{now} passes, {before} before"))
        });
    }
}

/// A service of UDP and TCP at one address and port.
fn dns() -> Service {
    Service::new("dns").ip("10.96.0.10").ip("fd00:96::10").udp(53).to(5353).tcp(53).to(5353)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A connected socket that has received an answer, and the name of the pod that answered.
fn connected(ns: &Ns, to: SocketAddr) -> (UdpClient, String) {
    let client = ns.run(|| UdpClient::connected(to).unwrap());
    let who = ask(&client);
    (client, who)
}

fn ask(client: &UdpClient) -> String {
    client.ask("?").unwrap().who
}

/// Waits until the kernel says that the socket has no peer any more.
#[track_caller]
fn eventually_closed(client: &UdpClient) {
    let error = eventually("the socket to be closed", || match client.ask("?") {
        Ok(reply) => Err(format!("{} still answers", reply.who)),
        Err(error) => Ok::<_, String>(error),
    });
    let expected = [libc::ECONNABORTED, libc::EDESTADDRREQ];
    assert!(error.raw_os_error().is_some_and(|error| expected.contains(&error)), "{error}");
    // The error of the socket is reported once.
    client.socket().take_error().unwrap();
}

/// An open TCP connection and the name of the pod that answered.
fn stream(ns: &Ns, to: SocketAddr) -> (TcpStream, String) {
    ns.run(|| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut who = Vec::new();
        while who.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            who.push(byte[0]);
        }
        who.pop();
        (stream, String::from_utf8(who).unwrap())
    })
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Waits until a connection was aborted here (and not ended by the other side).
#[track_caller]
fn eventually_aborted(stream: &mut TcpStream) {
    let error = eventually("the connection to be closed", || match echo(stream) {
        Ok(()) => Err("it is still open".to_owned()),
        Err(error) => Ok(error),
    });
    let expected = [libc::ECONNABORTED, libc::EPIPE];
    assert!(error.raw_os_error().is_some_and(|error| expected.contains(&error)), "{error}");
}

#[test]
fn cilium_48096_calico_4509_a_connected_udp_socket_does_not_stay_on_a_dead_backend() {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let mut setup = DnsPods::new(2, &[]);
        let (client, first) = connected(&setup.client, to);
        setup.remove(&first);
        eventually_closed(&client);
        // As a resolver does after an error.
        setup.client.run(|| client.socket().connect(to).unwrap());
        let second = ask(&client);
        assert_ne!(second, first, "{to}");
        assert_eq!(client.socket().peer_addr().unwrap(), to);
        setup.eventually_counted("UDP", 1.0);
        assert_eq!(setup.closed("TCP"), 0.0, "{to}");
    }
}

#[test]
fn a_client_that_waits_for_an_answer_gets_an_error_at_once() {
    let mut setup = DnsPods::new(1, &[]);
    let (client, first) = connected(&setup.client, at(V4));
    let waiting = setup.client.spawn(move || client.receive().unwrap_err()).unwrap();
    setup.remove(&first);
    let error = waiting.join();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
}

#[test]
fn sockets_are_closed_in_every_network_namespace_and_in_the_nodes_own() {
    let mut setup = DnsPods::new(1, &[]);
    let other = setup.cluster.pod("other").unwrap();
    let namespaces: [&Ns; 3] = [&setup.client, &other, setup.cluster.node()];
    let clients = namespaces.map(|ns| connected(ns, at(V4)).0);
    setup.remove("dns-0");
    clients.iter().for_each(eventually_closed);
    eventually("all of them to be counted", || {
        let closed = setup.closed("UDP");
        holds(closed == 3.0, format!("{closed} closed"))
    });
}

#[test]
fn cilium_42658_42649_an_unrelated_socket_to_the_same_backend_is_not_closed() {
    let mut setup = DnsPods::new(1, &[]);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    let (stranger, _) = connected(&setup.client, pod);
    let port = stranger.socket().local_addr().unwrap();
    let (client, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&client);
    setup.wait_for_passes();
    assert_eq!(ask(&stranger), "dns-0");
    assert_eq!(stranger.socket().local_addr().unwrap(), port);
    setup.eventually_counted("UDP", 1.0);
}

#[test]
fn cilium_48564_an_unconnected_socket_is_not_closed_and_keeps_its_port() {
    let mut setup = DnsPods::new(2, &[]);
    let unconnected = setup.client.run(|| UdpClient::unconnected(at(V4).ip()).unwrap());
    let ask_unconnected = || setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    let first = ask_unconnected().who;
    let port = unconnected.socket().local_addr().unwrap();
    // Its closing shows that the agent has looked at the sockets.
    let (client, of_client) = connected(&setup.client, at(V4));
    let rest: Vec<&Pod> = setup.without(&first);
    let rest: Vec<&Pod> = rest.into_iter().filter(|pod| pod.name() != of_client).collect();
    let service = dns().endpoints(rest);
    setup.cluster.apply([service]).unwrap();
    eventually_closed(&client);
    setup.wait_for_passes();
    assert_eq!(getsockopt(unconnected.socket(), SocketError).unwrap(), 0);
    assert_eq!(unconnected.socket().local_addr().unwrap(), port);
    setup.cluster.apply([dns().endpoints(&setup.pods)]).unwrap();
    let reply = setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    assert_eq!(reply.from, at(V4));
    assert_eq!(unconnected.socket().local_addr().unwrap(), port);
    setup.eventually_counted("UDP", 1.0);
}

#[test]
fn a_socket_that_has_since_connected_elsewhere_is_not_closed() {
    let mut setup = DnsPods::new(2, &[]);
    let (client, first) = connected(&setup.client, at(V4));
    let other = setup.without(&first)[0];
    let elsewhere = SocketAddr::new(other.addresses()[0], 5353);
    setup.client.run(|| client.socket().connect(elsewhere).unwrap());
    let (sign, _) = loop {
        let (sign, who) = connected(&setup.client, at(V4));
        if who == first {
            break (sign, who);
        }
    };
    setup.remove(&first);
    eventually_closed(&sign);
    setup.wait_for_passes();
    assert_eq!(ask(&client), setup.without(&first)[0].name());
}

#[test]
fn sockets_with_records_beyond_the_table_are_closed() {
    let mut setup = DnsPods::new(2, &["--without-features", "compare-and-swap"]);
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let (client, first) = connected(&setup.client, to);
        setup.remove(&first);
        eventually_closed(&client);
        setup.cluster.apply([dns().endpoints(&setup.pods)]).unwrap();
    }
    setup.eventually_counted("UDP", 3.0);
}

/// A connection to the service is closed when its endpoints are gone, and one to the pod's own address
/// is not.
#[track_caller]
fn assert_tcp_is_closed(setup: &mut DnsPods, service: &impl Fn() -> Service, to: SocketAddr) {
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    let (mut open, _) = stream(&setup.client, to);
    let direct = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    let (mut stranger, _) = stream(&setup.client, direct);
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    eventually_aborted(&mut open);
    echo(&mut stranger).unwrap();
}

#[test]
fn tcp_connections_with_records_beyond_the_table_are_closed() {
    let mut setup = DnsPods::new(1, &["--without-features", "compare-and-swap"]);
    let service = || dns().annotate(CLOSE_ON_REMOVAL, "0s");
    for to in [at(V4), at(V6), mapped(at(V4))] {
        assert_tcp_is_closed(&mut setup, &service, to);
    }
    setup.eventually_counted("TCP", 3.0);
    assert_eq!(setup.closed("UDP"), 0.0);
}

#[test]
fn a_socket_that_has_since_dialled_its_backend_directly_is_not_closed() {
    for args in [&[][..], &["--without-features", "compare-and-swap"]] {
        let mut setup = DnsPods::new(1, args);
        let (client, first) = connected(&setup.client, at(V4));
        let (sign, _) = connected(&setup.client, at(V4));
        let direct = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
        setup.client.run(|| client.socket().connect(direct).unwrap());
        setup.remove(&first);
        eventually_closed(&sign);
        setup.wait_for_passes();
        assert_eq!(ask(&client), first, "{args:?}");
        setup.eventually_counted("UDP", 1.0);
    }
}

/// What sockets have beyond the table, by their cookies.
fn overflow(bpffs: &Path) -> HashMap<MapData, u64, OverflowEntry> {
    let pin = Pins::in_bpffs(bpffs).map("OVERFLOW");
    Map::HashMap(MapData::from_pin(pin).unwrap()).try_into().unwrap()
}

#[test]
fn a_record_beyond_the_table_ends_with_its_socket() {
    let setup = DnsPods::new(2, &["--without-features", "compare-and-swap"]);
    let overflow = overflow(setup.cluster.node().bpffs());
    let udp = [at(V4), at(V6), mapped(at(V4))].map(|to| connected(&setup.client, to).0);
    let tcp = [at(V4), at(V6), mapped(at(V4))].map(|to| stream(&setup.client, to).0);
    let unconnected = setup.client.run(|| UdpClient::unconnected(at(V4).ip()).unwrap());
    setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    assert_eq!(overflow.keys().count(), 7);
    // A socket has one entry, however often it connects.
    setup.client.run(|| udp[0].socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), 7);
    drop((udp, tcp, unconnected));
    eventually("all entries to be gone", || {
        let left = overflow.keys().count();
        holds(left == 0, format!("{left} are left"))
    });
}

#[test]
fn a_record_beyond_the_table_without_a_socket_is_removed() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let args = [&["--without-features", "compare-and-swap"], &REPAIRS[..]].concat();
    let all_seeing = AgentOptions { binary: all_seeing(&node), ..options(&args) };
    let mut agent = node.agent(&all_seeing).unwrap();
    let mut overflow = overflow(node.bpffs());
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    // As if its socket had been closed while other programs were attached. Its backend never existed.
    let record = SocketRecord { generation: u32::MAX, ..SocketRecord::default() };
    let stale = OverflowEntry { owner: 1 << 60, record, ..OverflowEntry::default() };
    overflow.insert(stale.owner, stale, 0).unwrap();
    eventually("the stale entry to be gone", || {
        let left = overflow.keys().count();
        holds(left == 1, format!("{left} are left"))
    });
    assert_eq!(ask(&client), "web-0");
    // `unshare` does not forward signals.
    agent.kill().unwrap();
}

/// An agent that can look into every network namespace that it knows of. Where the machine hides some of its
/// processes, it has its own process namespace.
fn all_seeing(node: &WebNode) -> Option<PathBuf> {
    if fs::metadata("/proc/1/ns/net").is_ok() {
        return None;
    }
    let wrapper = node.temp().join("sockline-alone");
    let script = format!(
        "#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc {} \"$@\"\n",
        sockline_binary().unwrap().display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    Some(wrapper)
}

#[test]
fn a_warning_of_namespaces_that_cannot_be_seen_ends_with_its_cause() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    // The helper may not pass folders of others, where a network namespace is mounted twice; only the
    // agent's own mounts have it.
    let folder = node.temp().join("others");
    fs::create_dir(&folder).unwrap();
    let points = ["one", "two"].map(|name| folder.join(name));
    points.iter().for_each(|point| fs::write(point, "").unwrap());
    let nobody = Some(65534);
    std::os::unix::fs::chown(&folder, nobody, nobody).unwrap();
    let close = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    close(0o700);
    let wrapper = node.temp().join("sockline-beside-others");
    let [one, two] = points.each_ref().map(|point| point.display());
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --pid --fork --kill-child --mount-proc sh -c '\
         unshare --net={one} true && mount --bind {one} {two} && exec {} \"$@\"' sh \"$@\"\n",
        sockline_binary().unwrap().display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let args = [&["--without-features", "compare-and-swap"], &REPAIRS[..]].concat();
    let beside = AgentOptions { binary: Some(wrapper), ..options(&args) };
    let mut agent = node.agent(&beside).unwrap();
    let mut overflow = overflow(node.bpffs());
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    // A socket that is in no namespace, so that the helper looks in all of them.
    let record = SocketRecord { generation: u32::MAX, ..SocketRecord::default() };
    let stale = OverflowEntry { owner: 1 << 60, record, ..OverflowEntry::default() };
    overflow.insert(stale.owner, stale, 0).unwrap();
    let unseen = || node.status()["agent"]["termination"]["unsearched"].clone();
    eventually("the warning", || {
        let seen = unseen();
        let text = seen.as_str().unwrap_or_default();
        let holds_both =
            text.contains("Permission denied") && text.contains("those of 2 processes");
        holds(holds_both, seen.clone())
    });
    assert_eq!(overflow.keys().count(), 2, "not forgotten, as it may be there");
    close(0o755);
    eventually("the warning to go", || holds(unseen().is_null(), unseen()));
    let log = agent.log();
    assert_eq!(crate::common::lines_with(&log, "cannot enter all network").len(), 1, "{log}");
    assert_eq!(crate::common::lines_with(&log, "can be entered again").len(), 1, "{log}");
    assert_eq!(ask(&client), "web-0");
    // `unshare` does not forward signals.
    agent.kill().unwrap();
}

/// An unconnected socket with as many conversations as fill the set of the table that its cookie leads
/// to: each with another service and another port of the pods, from [`CROWD`] on, where no pod answers.
fn crowded(setup: &mut DnsPods) -> UdpClient {
    let address = |n: u16| format!("10.96.1.{n}");
    let ways = u16::try_from(WAYS).unwrap();
    let services = (0..ways).map(|n| {
        let service = Service::new(&format!("svc-{n}")).ip(&address(n)).udp(53);
        service.to(CROWD + n).endpoints(&setup.pods)
    });
    let services: Vec<Service> = services.chain([dns().endpoints(&setup.pods)]).collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        for n in 0..ways {
            client.socket().send_to(b"?", at(&format!("{}:53", address(n)))).unwrap();
        }
        client
    })
}

const CROWD: u16 = 6000;

#[test]
fn a_socket_whose_set_of_the_table_was_full_is_closed() {
    let mut setup = DnsPods::without_service(2, &[]);
    let client = crowded(&mut setup);
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow(setup.cluster.node().bpffs()).keys().count(), 1);
    let first = ask(&client);
    setup.remove(&first);
    eventually_closed(&client);
}

#[test]
fn a_socket_that_moves_into_the_table_has_no_other_record() {
    let mut setup = DnsPods::without_service(1, &[]);
    let client = crowded(&mut setup);
    if !setup.cluster.features().unwrap().compare_and_swap {
        return;
    }
    let overflow = overflow(setup.cluster.node().bpffs());
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), 1);
    // A datagram straight to the pod ends the conversation with it.
    let direct = SocketAddr::new(setup.pods[0].addresses()[0], CROWD);
    setup.client.run(|| client.socket().send_to(b"?", direct).unwrap());
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), 0);
    let first = ask(&client);
    setup.remove(&first);
    eventually_closed(&client);
    setup.eventually_counted("UDP", 1.0);
}

#[test]
fn the_next_agent_finds_a_backend_that_was_removed_without_an_agent() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let mut agent = node.start_agent();
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    agent.kill().unwrap();
    let slice = objects::slice("cart", &[]);
    let service = objects::service("cart", "10.96.0.1");
    node.put("cart.yaml", &[service, slice]);
    assert_eq!(ask(&client), "web-0", "no agent was there to close it");
    let _next = node.start_agent();
    eventually_closed(&client);
}

/// A socket keeps a terminating endpoint while that serves.
#[track_caller]
fn assert_kept_while_serving(setup: &mut DnsPods, service: &Service, to: SocketAddr) {
    setup.cluster.apply([service.clone().endpoints(&setup.pods)]).unwrap();
    let (client, first) = connected(&setup.client, to);
    let draining = |setup: &DnsPods| -> Vec<Endpoint> {
        let of = |pod: &Pod| {
            let endpoint = Endpoint::from(pod);
            if pod.name() == first { endpoint.draining() } else { endpoint }
        };
        setup.pods.iter().map(of).collect()
    };
    setup.cluster.apply([service.clone().endpoints(draining(setup))]).unwrap();
    // The socket of another backend shows that the agent has looked at the sockets.
    let other = Service::new("other").ip("10.96.0.11").udp(53).to(5353);
    setup.cluster.apply([other.clone().endpoints(&setup.pods)]).unwrap();
    let (sign, _) = connected(&setup.client, at("10.96.0.11:53"));
    setup.cluster.apply([other.endpoints(Vec::<Endpoint>::new())]).unwrap();
    eventually_closed(&sign);
    assert_eq!(ask(&client), first, "new connections have left it, this one stays");
    let fresh = connected(&setup.client, to).1;
    assert_ne!(fresh, first);
    // The plan does not change: the endpoint was not in it any more.
    setup.cluster.apply([service.clone().endpoints(setup.without(&first))]).unwrap();
    eventually_closed(&client);
}

#[test]
fn a_terminating_endpoint_keeps_its_sockets_while_it_serves() {
    let mut setup = DnsPods::without_service(2, &["--reconcile-interval", "3600s"]);
    assert_kept_while_serving(&mut setup, &dns(), at(V4));
}

/// The addresses of another node. No machine has them: connections to them work if they are translated.
const OF_NODE_B: [&str; 2] = ["198.51.100.7", "fd00:100::7"];
const NODE_PORT: u16 = 30_053;

/// Addresses of [`NODE_PORT`] at node-b.
fn at_node_b() -> [SocketAddr; 3] {
    let [v4, v6] = OF_NODE_B.map(|address| SocketAddr::new(crate::common::ip(address), NODE_PORT));
    [v4, v6, mapped(v4)]
}

/// Node node-b at these addresses.
fn set_node_b(setup: &mut DnsPods, addresses: [&str; 2]) {
    setup.cluster.set_objects(vec![objects::node_at("node-b", &addresses.map(crate::common::ip))]);
}

fn with_node_b(pods: usize) -> DnsPods {
    let args = ["--nodeports-of-all-nodes", "--reconcile-interval", "3600s"];
    let mut setup = DnsPods::without_service(pods, &args);
    set_node_b(&mut setup, OF_NODE_B);
    setup
}

/// As [`dns`], with a NodePort.
fn node_port() -> Service {
    let service = Service::new("dns").ip("10.96.0.10").ip("fd00:96::10");
    service.udp(53).to(5353).node_port(NODE_PORT).tcp(53).to(5353).node_port(NODE_PORT)
}

#[test]
fn a_terminating_endpoint_keeps_its_sockets_at_another_nodes_address() {
    for to in at_node_b() {
        assert_kept_while_serving(&mut with_node_b(2), &node_port(), to);
    }
}

#[test]
fn tcp_connections_to_another_nodes_address_are_closed_as_their_service_sets() {
    let mut setup = with_node_b(1);
    let policies = [node_port(), node_port().external_local()];
    for service in policies.map(|service| service.annotate(CLOSE_ON_REMOVAL, "0s")) {
        let pods: Vec<Endpoint> =
            setup.pods.iter().map(|pod| Endpoint::from(pod).on_node("node-b")).collect();
        let serve = |setup: &mut DnsPods| {
            setup.cluster.apply([service.clone().endpoints(pods.clone())]).unwrap();
        };
        let without_endpoints = || service.clone().endpoints(Vec::<Endpoint>::new());
        for to in at_node_b() {
            serve(&mut setup);
            let (mut open, _) = stream(&setup.client, to);
            setup.cluster.apply([without_endpoints()]).unwrap();
            eventually_aborted(&mut open);
            // The service is deleted.
            serve(&mut setup);
            let (mut open, _) = stream(&setup.client, to);
            setup.cluster.remove("dns").unwrap();
            eventually_aborted(&mut open);
            // The node is removed with the endpoint.
            serve(&mut setup);
            let (mut open, _) = stream(&setup.client, to);
            set_node_b(&mut setup, ["198.51.100.8", "fd00:100::8"]);
            setup.cluster.apply([without_endpoints()]).unwrap();
            eventually_aborted(&mut open);
            set_node_b(&mut setup, OF_NODE_B);
        }
    }
}

#[test]
fn tcp_connections_to_a_removed_endpoint_are_not_closed_by_default() {
    let mut setup = DnsPods::new(1, &[]);
    let (mut open, first) = stream(&setup.client, at(V4));
    let (sign, _) = connected(&setup.client, at(V4));
    setup.remove(&first);
    eventually_closed(&sign);
    setup.wait_for_passes();
    echo(&mut open).unwrap();
    assert_eq!(setup.closed("TCP"), 0.0);
}

#[test]
fn tcp_connections_are_closed_after_the_time_that_their_service_sets() {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let mut setup = DnsPods::new(1, &[]);
        let service = || dns().annotate(CLOSE_ON_REMOVAL, "300ms");
        assert_tcp_is_closed(&mut setup, &service, to);
        setup.eventually_counted("TCP", 1.0);
        assert_eq!(setup.closed("UDP"), 0.0);
    }
}

#[test]
fn a_connect_that_hangs_on_a_removed_endpoint_is_closed() {
    let mut setup = DnsPods::without_service(1, &[]);
    let service = || dns().annotate(CLOSE_ON_REMOVAL, "0s");
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    // The pod has lost its address: packets for it are dropped.
    let pod = &setup.pods[0];
    let address = format!("{}/32", pod.addresses()[0]);
    let lost =
        pod.output(Command::new("ip").args(["addr", "del", &address, "dev", "eth0"])).unwrap();
    assert!(lost.status.success(), "{lost:?}");
    let connecting = setup
        .client
        .spawn(|| Socket::tcp(libc::AF_INET).unwrap().connect(at(V4)).unwrap_err())
        .unwrap();
    eventually("the connect to be on its way", || {
        let translated = setup.cluster.counts("dns", sockline_testbed::Protocol::Tcp).unwrap();
        holds(translated.translated == 1, format!("{translated:?}"))
    });
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    let error = connecting.join();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
}

#[test]
fn an_endpoint_that_comes_back_in_time_keeps_its_connections() {
    let mut setup = DnsPods::new(2, &[]);
    let service = || dns().annotate(CLOSE_ON_REMOVAL, "2s");
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    let to = |wanted: &str| loop {
        let (open, who) = stream(&setup.client, at(V4));
        if who == wanted {
            return open;
        }
    };
    let (mut comes_back, mut stays_away) = (to("dns-0"), to("dns-1"));
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    setup.cluster.apply([service().endpoints([&setup.pods[0]])]).unwrap();
    // Both were removed at the same time.
    eventually_aborted(&mut stays_away);
    echo(&mut comes_back).unwrap();
}

#[test]
fn a_broken_annotation_is_one_problem_and_costs_only_itself() {
    let mut setup = DnsPods::new(1, &[]);
    let service = dns().annotate(CLOSE_ON_REMOVAL, "soon").endpoints(&setup.pods);
    setup.cluster.apply([service]).unwrap();
    let (mut open, _) = stream(&setup.client, at(V4));
    let problem = "Service default/dns: metadata.annotations[sockline.dev/close-on-removal]: \
                   \"soon\" is not a duration of 0s to 24h like 30s or 1m30s; it is ignored";
    eventually("the problem to be shown", || {
        let status = setup.cluster.status().unwrap();
        let problems = crate::common::texts(&status["agent"]["invalidObjects"]);
        let of_service: Vec<&String> =
            problems.iter().filter(|problem| problem.contains("default/dns")).collect();
        holds(of_service == [problem], format!("{problems:?}"))
    });
    assert_logged_once(setup.cluster.agent(), "close-on-removal");
    let (sign, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&sign);
    echo(&mut open).unwrap();
}

#[test]
fn the_sockets_of_a_deleted_service_are_closed_as_it_set() {
    let mut setup = DnsPods::new(1, &[]);
    let other = Service::new("other").ip("10.96.0.11").tcp(53).to(5353).endpoints(&setup.pods);
    let said = dns().annotate(CLOSE_ON_REMOVAL, "200ms").endpoints(&setup.pods);
    setup.cluster.apply([said, other]).unwrap();
    let (client, _) = connected(&setup.client, at(V4));
    let (mut open, _) = stream(&setup.client, at(V4));
    let (mut of_other, _) = stream(&setup.client, at("10.96.0.11:53"));
    setup.cluster.forget("other");
    setup.cluster.remove("dns").unwrap();
    eventually_closed(&client);
    eventually_aborted(&mut open);
    setup.wait_for_passes();
    echo(&mut of_other).unwrap();
}

#[test]
fn connections_of_a_deleted_service_are_closed_even_if_the_sync_fails_afterwards() {
    let node = WebNode::new(1);
    let mut service = objects::service("cart", "10.96.0.1");
    service["metadata"]["annotations"] = json!({ CLOSE_ON_REMOVAL: "0s" });
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    let agent = node.start_agent_with(&REPAIRS);
    let (mut open, _) = stream(&node.client, at("10.96.0.1:80"));
    // A complete sync records its time in this map.
    crate::common::damage::Damage::of(&node).freeze("AGENT_RECORD");
    node.remove("cart.yaml");
    eventually_aborted(&mut open);
    let failures = node.wrong("outOfSync");
    assert!(failures.iter().any(|failure| failure.contains("AGENT_RECORD")), "{failures:?}");
    assert!(series(&agent.metrics().unwrap(), "sockline_sync_errors_total") > Some(0.0));
}

#[test]
fn nothing_is_closed_while_the_source_cannot_be_read_in_full() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let mut agent = node.start_agent();
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    agent.kill().unwrap();
    node.put_text("cart.yaml", "]");
    let next = node.agent(&options(&[])).unwrap();
    let looked =
        || series(&next.metrics().unwrap(), "sockline_sync_duration_seconds_count").unwrap();
    let before = looked();
    node.put_service("other", "10.96.0.2");
    eventually("another sync", || holds(looked() > before, looked()));
    assert_eq!(ask(&client), "web-0");
    node.remove("cart.yaml");
    eventually_closed(&client);
}

#[test]
fn status_and_the_log_say_what_was_closed() {
    let mut setup = DnsPods::new(1, &[]);
    let (client, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&client);
    let closing = eventually("status to count it", || {
        let closing = setup.cluster.status().unwrap()["agent"]["termination"].clone();
        if closing["udpSocketsClosed"] == 1 { Ok(closing) } else { Err(closing) }
    });
    assert_eq!(closing["method"], "sock-destroy", "{closing:#}");
    assert!(closing["helper"]["pid"].is_u64(), "{closing:#}");
    assert_eq!(closing["unsearched"], Value::Null, "{closing:#}");
    let log = setup.cluster.agent().log();
    assert_eq!(crate::common::lines_with(&log, "default/dns (1)").len(), 1, "{log}");
}

#[test]
fn without_sock_destroy_iterators_close_them() {
    let mut setup = DnsPods::new(2, &["--without-features", "sock-destroy"]);
    let closing = setup.cluster.status().unwrap()["agent"]["termination"].clone();
    // `bpf_sock_destroy` exists since Linux 6.5.
    let method = if kernel_version().unwrap() >= (6, 5) { "iterator".into() } else { Value::Null };
    assert_eq!(closing["method"], method, "{closing:#}");
    if method.is_null() {
        return;
    }
    let other = setup.cluster.pod("other").unwrap();
    let annotated = dns().annotate(CLOSE_ON_REMOVAL, "0s");
    for to in [at(V4), at(V6), mapped(at(V4))] {
        setup.cluster.apply([annotated.clone().endpoints(&setup.pods)]).unwrap();
        let (client, first) = connected(&setup.client, to);
        let mut streams = [stream(&other, to), stream(&other, to), stream(&other, to)];
        let pod = setup.pods.iter().find(|pod| pod.name() == first).unwrap();
        let direct = SocketAddr::new(pod.addresses()[0], 5353);
        let (stranger, _) = connected(&setup.client, direct);
        let rest = setup.without(&first);
        setup.cluster.apply([annotated.clone().endpoints(rest)]).unwrap();
        eventually_closed(&client);
        for (open, who) in &mut streams {
            if *who == first {
                eventually_aborted(open);
            } else {
                echo(open).unwrap();
            }
        }
        assert_eq!(ask(&stranger), first);
    }
}

#[test]
fn without_both_ways_to_close_sockets_stay_open_and_that_is_reported() {
    let mut setup = DnsPods::new(1, &["--without-features", "sock-destroy,sock-iterator"]);
    let (client, first) = connected(&setup.client, at(V4));
    setup.remove(&first);
    let status = setup.cluster.status().unwrap();
    assert_eq!(status["agent"]["termination"]["method"], Value::Null, "{status:#}");
    let table = setup.cluster.agent().cli(&["status"]).unwrap();
    assert!(table.contains("NOT possible with this kernel"), "{table}");
    let log = setup.cluster.agent().log();
    assert_eq!(crate::common::lines_with(&log, "this kernel closes no sockets").len(), 1, "{log}");
    assert_eq!(ask(&client), first);
}
