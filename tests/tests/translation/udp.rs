//! UDP sockets, connected and unconnected: which pod answers, and from which address the answer seems to
//! come.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use sockline_ebpf::socket::{STORAGE_RECORDS, WAYS};
use sockline_testbed::{
    Cluster, Endpoint, Pod, Protocol, Service, Socket, UdpClient, UdpServer, mapped, to_std,
    wait_ok,
};

const V4: &str = "10.96.0.10:53";
const V6: &str = "[fd00:96::10]:53";

/// A client, and pods that each listen on UDP port 5353.
struct DnsPods {
    servers: Vec<UdpServer>,
    pods: Vec<Pod>,
    client: Pod,
    cluster: Cluster,
}

impl DnsPods {
    fn new(pods: usize) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let client = cluster.pod("client").unwrap();
        let pods = cluster.pods("dns", pods).unwrap();
        let servers = pods.iter().map(|pod| pod.udp_server(5353).unwrap()).collect();
        Self { servers, pods, client, cluster }
    }

    /// One service of all pods, at [`V4`] and [`V6`].
    fn with_dns(pods: usize) -> Self {
        let mut this = Self::new(pods);
        this.cluster.apply([dns().endpoints(&this.pods)]).unwrap();
        this
    }

    /// One service per pod, at the addresses of [`numbered`].
    fn with_service_per_pod(pods: usize) -> Self {
        let mut this = Self::new(pods);
        let services: Vec<Service> = (0..pods)
            .map(|n| {
                let ip = numbered(n).ip().to_string();
                let service = Service::new(&format!("svc-{n}")).ip(&ip).udp(53).to(5353);
                service.endpoints([&this.pods[n]])
            })
            .collect();
        this.cluster.apply(services).unwrap();
        this
    }
}

fn dns() -> Service {
    Service::new("dns").ip("10.96.0.10").ip("fd00:96::10").udp(53).to(5353)
}

fn numbered(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, 1, u8::try_from(n).unwrap()], 53))
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn unconnected() -> UdpClient {
    UdpClient::unconnected(at(V4).ip()).unwrap()
}

/// One question with `sendto`; the answer must seem to come from where the question went.
fn ask(client: &UdpClient, to: SocketAddr) -> String {
    let reply = client.ask_to(to, "who").unwrap();
    assert_eq!((reply.from, reply.payload.as_str()), (to, "who"));
    reply.who
}

#[test]
fn a_connected_socket_talks_to_the_service_over_both_families() {
    let setup = DnsPods::with_dns(1);
    for (to, own) in [V4, V6].into_iter().zip(setup.client.addresses()) {
        setup.client.run(|| {
            let client = UdpClient::connected(at(to)).unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), at(to));
            let reply = client.ask("x").unwrap();
            assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
        });
        assert_eq!(setup.servers[0].peers().last().unwrap().ip(), *own);
    }
}

#[test]
fn an_unconnected_socket_gets_answers_from_the_service_over_both_families() {
    let setup = DnsPods::with_dns(1);
    for (to, own) in [V4, V6].into_iter().zip(setup.client.addresses()) {
        let reply = setup.client.udp_ask(at(to), "x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
        assert_eq!(setup.servers[0].peers().last().unwrap().ip(), *own);
    }
}

#[test]
fn no_packet_ever_has_the_service_address() {
    let setup = DnsPods::with_dns(1);
    let mut capture = setup.client.capture().unwrap();
    for to in [V4, V6] {
        setup.client.udp_ask(at(to), "x").unwrap();
        setup.client.run(|| UdpClient::connected(at(to)).unwrap().ask("x").unwrap());
        assert_eq!(capture.packets_of(at(to).ip()).unwrap(), 0, "{:?}", capture.flows());
    }
    let to_pod = |flow: &sockline_testbed::Flow| flow.dst.port() == 5353;
    assert_eq!(capture.packets(to_pod).unwrap(), 4, "{:?}", capture.flows());
}

#[test]
fn a_datagram_to_an_address_that_is_no_service_is_not_translated() {
    let setup = DnsPods::with_dns(1);
    let mut capture = setup.client.capture().unwrap();
    for to in [at("10.96.0.11:53"), at("10.96.0.10:54"), at("[fd00:96::10]:54")] {
        setup.client.run(|| {
            let any = UdpClient::unconnected(to.ip()).unwrap();
            any.socket().send_to(b"x", to).unwrap();
            UdpClient::connected(to).unwrap().socket().send(b"x").unwrap();
        });
        assert_eq!(capture.packets(|flow| flow.dst == to).unwrap(), 2, "{to}");
    }
    let counts = setup.cluster.counts("dns", Protocol::Udp).unwrap();
    assert_eq!(counts, sockline_testbed::Counts::default());
}

#[test]
fn a_second_connect_goes_to_the_other_service() {
    let setup = DnsPods::with_service_per_pod(2);
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        assert_eq!(client.ask("x").unwrap().who, "dns-0");
        client.socket().connect(numbered(1)).unwrap();
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-1", numbered(1)));
        assert_eq!(client.socket().peer_addr().unwrap(), numbered(1));
    });
}

#[test]
fn a_second_connect_to_another_service_of_the_same_pod_has_the_new_peer_name() {
    let mut setup = DnsPods::new(1);
    let twin = |name: &str, ip: &str| Service::new(name).ip(ip).udp(53).to(5353);
    let services = [twin("a", "10.96.1.0"), twin("b", "10.96.1.1")];
    setup.cluster.apply(services.map(|service| service.endpoints(&setup.pods))).unwrap();
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        for n in [1, 0, 1] {
            client.socket().connect(numbered(n)).unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), numbered(n));
            assert_eq!(client.ask("x").unwrap().from, numbered(n));
        }
    });
}

#[test]
fn a_second_connect_straight_to_the_pod_has_the_pods_peer_name() {
    let setup = DnsPods::with_dns(1);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let client = UdpClient::connected(at(V4)).unwrap();
        client.socket().connect(pod).unwrap();
        assert_eq!(client.socket().peer_addr().unwrap(), pod);
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", pod));
    });
}

#[test]
fn a_socket_disconnected_with_af_unspec_can_send_to_any_address() {
    let setup = DnsPods::with_service_per_pod(2);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let socket = Socket::udp(libc::AF_INET).unwrap();
        socket.connect(numbered(0)).unwrap();
        socket.disconnect().unwrap();
        let error = socket.peer().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "{error}");
        let socket: UdpSocket = socket.into_std();
        for (to, who) in [(numbered(1), "dns-1:x"), (numbered(0), "dns-0:x"), (pod, "dns-0:x")] {
            socket.send_to(b"x", to).unwrap();
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((from, std::str::from_utf8(&buffer[..length])), (to, Ok(who)));
        }
    });
}

#[test]
fn a_socket_connected_to_one_service_can_send_to_another() {
    let setup = DnsPods::with_service_per_pod(2);
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        client.socket().send_to(b"x", numbered(1)).unwrap();
        // The kernel lets only the connected peer answer.
        assert_eq!(client.ask("y").unwrap().from, numbered(0));
    });
    wait_ok(Duration::from_secs(10), "the other service's pod to hear of it", || {
        let hits = setup.servers[1].hits();
        if hits == 1 { Ok(()) } else { Err(hits) }
    })
    .unwrap();
}

#[test]
fn each_answer_comes_from_the_service_that_was_called() {
    let setup = DnsPods::with_service_per_pod(4);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..4 {
            client.socket().send_to(format!("{n}").as_bytes(), numbered(n)).unwrap();
        }
        // Sent before any was received, so the order is the network's.
        let replies: BTreeSet<_> = (0..4)
            .map(|_| client.receive().unwrap())
            .map(|reply| (reply.payload, reply.who, reply.from))
            .collect();
        let wanted: BTreeSet<_> =
            (0..4).map(|n| (n.to_string(), format!("dns-{n}"), numbered(n))).collect();
        assert_eq!(replies, wanted);
    });
}

#[test]
fn a_socket_keeps_its_backend() {
    let setup = DnsPods::with_dns(8);
    setup.client.run(|| {
        let client = unconnected();
        let first = ask(&client, at(V4));
        for _ in 0..50 {
            assert_eq!(ask(&client, at(V4)), first);
        }
    });
    let counts = setup.cluster.counts("dns", Protocol::Udp).unwrap();
    assert_eq!(counts.translated, 1, "one conversation, however many datagrams");
}

#[test]
fn a_socket_keeps_its_backend_while_others_are_added_and_removed() {
    let mut setup = DnsPods::with_dns(6);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let position = setup.pods.iter().position(|pod| pod.name() == first).unwrap();
    for round in 0..12 {
        // Always its own pod, and a different half of the others each time.
        let pods = setup.pods.iter().enumerate();
        let some = pods.filter(|(n, _)| *n == position || (n + round) % 3 == 0);
        let some: Vec<&Pod> = some.map(|(_, pod)| pod).collect();
        setup.cluster.apply([dns().endpoints(some)]).unwrap();
        assert_eq!(ask(&client, at(V4)), first, "round {round}");
    }
}

#[test]
fn a_socket_moves_when_its_backend_is_removed_and_does_not_move_back() {
    let mut setup = DnsPods::with_dns(3);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let others = |first: &str| -> Vec<_> {
        setup.pods.iter().filter(|pod| pod.name() != first).map(Into::into).collect()
    };
    let without: Vec<Endpoint> = others(&first);
    setup.cluster.apply([dns().endpoints(without)]).unwrap();
    let second = ask(&client, at(V4));
    assert_ne!(second, first);
    setup.cluster.apply([dns().endpoints(&setup.pods)]).unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&client, at(V4)), second, "the endpoint is back, the socket is not");
    }
}

#[test]
fn sockets_of_a_removed_backend_spread_over_the_others() {
    let mut setup = DnsPods::with_dns(4);
    let newcomer = setup.cluster.pod("newcomer").unwrap();
    let _server = newcomer.udp_server(5353).unwrap();
    let all: Vec<UdpClient> = setup.client.run(|| (0..120).map(|_| unconnected()).collect());
    let of_first: Vec<_> = all.iter().filter(|client| ask(client, at(V4)) == "dns-0").collect();
    assert!(of_first.len() > 10, "{} of 120", of_first.len());
    setup.cluster.apply([dns().endpoints(&setup.pods[1..])]).unwrap();
    // The first sync after a second reclaims its index, and the next one reuses it.
    let since = Instant::now();
    wait_ok(Duration::from_secs(5), "time to pass", || {
        let gone = since.elapsed();
        if gone > Duration::from_millis(1200) { Ok(()) } else { Err(format!("{gone:?}")) }
    })
    .unwrap();
    setup.cluster.apply([Service::new("bystander").ip("10.96.9.9").udp(53)]).unwrap();
    let with_newcomer = setup.pods[1..].iter().chain([&newcomer]);
    setup.cluster.apply([dns().endpoints(with_newcomer)]).unwrap();
    let seen: BTreeSet<_> = of_first.iter().map(|client| ask(client, at(V4))).collect();
    assert!(seen.len() > 1, "all {} sockets got {seen:?}", of_first.len());
}

#[test]
fn a_socket_keeps_a_draining_backend_no_longer_than_it_is_an_endpoint() {
    let mut setup = DnsPods::with_dns(2);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let endpoints = setup.pods.iter().map(|pod| {
        let endpoint = Endpoint::from(pod);
        if pod.name() == first { endpoint.draining() } else { endpoint }
    });
    let endpoints: Vec<_> = endpoints.collect();
    setup.cluster.apply([dns().endpoints(endpoints)]).unwrap();
    assert_ne!(ask(&client, at(V4)), first, "a ready endpoint takes its place");
}

#[test]
fn each_socket_chooses_for_itself() {
    let setup = DnsPods::with_dns(4);
    let seen: BTreeSet<String> =
        setup.client.run(|| (0..60).map(|_| ask(&unconnected(), at(V4))).collect());
    // One of them is missing by chance with a probability of 4 × 0.75^60: in one run of eight million.
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn each_connect_on_one_socket_chooses_again() {
    let setup = DnsPods::with_dns(4);
    let seen: BTreeSet<String> = setup.client.run(|| {
        let client = UdpClient::connected(at(V4)).unwrap();
        let mut once = |_| {
            client.socket().connect(at(V4)).unwrap();
            client.ask("x").unwrap().who
        };
        (0..60).map(&mut once).collect()
    });
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_socket_may_use_more_services_than_its_record_holds() {
    let setup = DnsPods::with_service_per_pod(20);
    setup.client.run(|| {
        let client = unconnected();
        for round in 0..3 {
            for n in 0..20 {
                assert_eq!(ask(&client, numbered(n)), format!("dns-{n}"), "round {round}");
            }
        }
    });
}

/// More than the table has for one socket, and not more than the kernel remembers.
const OVERFLOWING: usize = WAYS + STORAGE_RECORDS / 2;

/// As many, or the limit of the hash where there is no table (before Linux 5.12).
fn remembered(setup: &DnsPods) -> usize {
    let has_table = setup.cluster.features().unwrap().compare_and_swap;
    if has_table { OVERFLOWING } else { STORAGE_RECORDS }
}

#[test]
fn records_that_overflow_the_table_are_kept_beyond_it() {
    // Three pods each: that all of them keep their pod by chance happens once in 531,441 runs per round,
    // and once in 6,561 where there are eight.
    let mut setup = DnsPods::new(3 * OVERFLOWING);
    let services: Vec<_> = (0..OVERFLOWING)
        .map(|n| {
            let ip = numbered(n).ip().to_string();
            let service = Service::new(&format!("svc-{n}")).ip(&ip).udp(53).to(5353);
            service.endpoints(&setup.pods[3 * n..3 * n + 3])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    let count = remembered(&setup);
    let client = setup.client.run(unconnected);
    let round = || -> Vec<_> { (0..count).map(|n| ask(&client, numbered(n))).collect() };
    let first = round();
    setup.cluster.wait_for_sockets(WAYS as u64).unwrap();
    assert_eq!((round(), round()), (first.clone(), first));
    for n in 0..count {
        let counts = setup.cluster.counts(&format!("svc-{n}"), Protocol::Udp).unwrap();
        assert_eq!(counts.translated, 1, "svc-{n}: chosen once, recalled twice");
    }
}

#[test]
fn late_answers_to_overflowed_records_come_from_the_service() {
    let setup = DnsPods::with_service_per_pod(OVERFLOWING);
    let count = remembered(&setup);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..count {
            client.socket().send_to(b"x", numbered(n)).unwrap();
        }
        let from: BTreeSet<_> = (0..count).map(|_| client.receive().unwrap().from).collect();
        assert_eq!(from, (0..count).map(numbered).collect());
    });
}

#[test]
fn an_ipv6_socket_sends_to_the_mapped_address_and_receives_from_it() {
    let setup = DnsPods::with_dns(1);
    let to = mapped(at(V4));
    setup.client.run(|| {
        let client = UdpClient::unconnected(to.ip()).unwrap();
        assert_eq!(ask(&client, to), "dns-0");
        // The same socket, to the other family.
        assert_eq!(ask(&client, at(V6)), "dns-0");
    });
    let seen: Vec<_> = setup.servers[0].peers().iter().map(SocketAddr::ip).collect();
    assert_eq!(seen, setup.client.addresses(), "the first over IPv4, the second over IPv6");
}

#[test]
fn an_ipv6_socket_connects_to_the_mapped_address() {
    let setup = DnsPods::with_dns(1);
    let to = mapped(at(V4));
    setup.client.run(|| {
        let client = UdpClient::connected(to).unwrap();
        assert_eq!(client.socket().peer_addr().unwrap(), to);
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", to));
    });
}

#[test]
fn a_connected_socket_that_also_names_the_pod_keeps_its_peer_name() {
    let setup = DnsPods::with_dns(1);
    for (to, pod) in [V4, V6].into_iter().zip(setup.pods[0].addresses()) {
        setup.client.run(|| {
            let client = UdpClient::connected(at(to)).unwrap();
            client.ask_to(SocketAddr::new(*pod, 5353), "x").unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), at(to));
        });
    }
}

#[test]
fn an_ipv6_socket_may_name_the_service_with_an_ipv4_sockaddr() {
    let setup = DnsPods::with_dns(1);
    let mut buffer = [0; 64];
    setup.client.run(|| {
        // Linux takes AF_INET on dual-stack UDP sockets, and answers with mapped addresses.
        let connected = Socket::udp(libc::AF_INET6).unwrap();
        connected.connect(at(V4)).unwrap();
        assert_eq!(connected.peer().unwrap(), mapped(at(V4)));
        let connected: UdpSocket = connected.into_std();
        connected.send(b"x").unwrap();
        let (length, from) = connected.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"dns-0:x"[..], mapped(at(V4))));

        let any = Socket::udp(libc::AF_INET6).unwrap();
        any.send_to(b"y", at(V4), 0).unwrap();
        let any: UdpSocket = any.into_std();
        let (length, from) = any.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"dns-0:y"[..], mapped(at(V4))));
    });
}

#[test]
fn each_message_of_one_call_goes_to_its_service_and_is_answered_from_it() {
    const COUNT: usize = 6;
    let setup = DnsPods::with_service_per_pod(3);
    let target = |n: usize| numbered(n % 3);
    let got: BTreeMap<String, SocketAddr> = setup.client.run(|| {
        let socket = Socket::udp(libc::AF_INET).unwrap();
        let payloads: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
        let slices: Vec<_> = payloads.iter().map(|p| [IoSlice::new(p.as_bytes())]).collect();
        let to: Vec<_> = (0..COUNT).map(|n| Some(SockaddrStorage::from(target(n)))).collect();
        let mut headers = MultiHeaders::preallocate(COUNT, None);
        let none = MsgFlags::empty();
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &to, [], none).unwrap();
        assert_eq!(sent.count(), COUNT);

        let mut got = BTreeMap::new();
        wait_ok(Duration::from_secs(10), "all answers", || {
            let mut buffers = [[0_u8; 64]; COUNT];
            let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(COUNT, None);
            let flags = MsgFlags::MSG_DONTWAIT;
            let heard = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None);
            let heard: Vec<_> = heard
                .map(|all| all.map(|one| (one.bytes, one.address)).collect())
                .unwrap_or_default();
            for (buffer, (length, from)) in buffers.iter().zip(heard) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                got.insert(text, to_std(&from.unwrap()).unwrap());
            }
            if got.len() == COUNT { Ok(()) } else { Err(format!("only {got:?}")) }
        })
        .unwrap();
        got
    });
    let wanted = (0..COUNT).map(|n| (format!("dns-{}:{n}", n % 3), target(n)));
    assert_eq!(got, wanted.collect());
}

#[test]
fn an_answer_to_a_datagram_straight_to_the_pod_comes_from_the_pod() {
    let setup = DnsPods::with_dns(1);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let client = unconnected();
        // Whatever was asked last: the address of the service, or of the pod that is behind it.
        for to in [pod, at(V4), pod, pod, at(V4), at(V4), pod] {
            assert_eq!(ask(&client, to), "dns-0");
        }
    });
}

#[test]
fn an_answer_to_a_datagram_straight_to_the_pod_comes_from_the_pod_after_an_overflow() {
    let setup = DnsPods::with_service_per_pod(8);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..8 {
            ask(&client, numbered(n));
        }
        for (n, pod) in setup.pods.iter().enumerate() {
            ask(&client, SocketAddr::new(pod.addresses()[0], 5353));
            ask(&client, numbered(n));
        }
    });
}

#[test]
fn five_hundred_sockets_at_once_each_receive_from_the_service() {
    let setup = DnsPods::with_dns(3);
    let clients: Vec<_> = setup.client.run(|| {
        let clients: Vec<_> = (0..500).map(|_| unconnected()).collect();
        for (n, client) in clients.iter().enumerate() {
            client.socket().send_to(format!("{n}").as_bytes(), at(V4)).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let reply = client.receive().unwrap();
            assert_eq!((reply.from, reply.payload), (at(V4), n.to_string()));
        }
        clients
    });
    setup.cluster.wait_for_sockets(500).unwrap();
    drop(clients);
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_client_in_the_hosts_namespace_is_served_too() {
    let setup = DnsPods::with_dns(1);
    for to in [V4, V6] {
        let reply = setup.cluster.node().udp_ask(at(to), "x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
    }
}

/// Removes a route to an address, or restores it.
fn route(pod: &Pod, verb: &str, to: &str) {
    let mut command = Command::new("ip");
    let done = pod.output(command.args(["route", verb, "unreachable", to])).unwrap();
    assert!(done.status.success(), "ip route {verb} {to}: {done:?}");
}

/// The kernel leaves a connected socket as it is when a further connect fails.
#[test]
fn a_connect_that_fails_leaves_the_connection_with_its_peer_name() {
    for args in [&[][..], &["--without-features", "compare-and-swap"]] {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        let (pod, client) = (cluster.pod("dns-0").unwrap(), cluster.pod("client").unwrap());
        let _server = pod.udp_server(5353).unwrap();
        route(&client, "add", "10.99.0.1/32");
        let nowhere = Endpoint::at(&[[10, 99, 0, 1].into()]);
        let endpoints = [Endpoint::from(&pod), nowhere];
        cluster.apply([dns().endpoints(endpoints)]).unwrap();
        client.run(|| {
            let socket: UdpSocket = Socket::udp(libc::AF_INET).unwrap().into_std();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (mut connected, mut failed) = (false, 0);
            // Each outcome of a connect has a chance of one in two: not 20 of one kind in a row.
            for _ in 0..100 {
                match socket.connect(at(V4)) {
                    Ok(()) => connected = true,
                    Err(_) if connected => failed += 1,
                    Err(_) => continue,
                }
                assert_eq!(socket.peer_addr().unwrap(), at(V4), "{args:?}, {failed} failed");
                socket.send(b"x").unwrap();
                let mut buffer = [0; 64];
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, at(V4), "{args:?}, {failed} failed");
                // A datagram that names the service goes to the peer, too: the kernel accepts no other
                // sender.
                socket.send_to(b"x", at(V4)).unwrap();
                socket.recv_from(&mut buffer).unwrap();
            }
            assert!(connected && failed > 0);
        });
    }
}
