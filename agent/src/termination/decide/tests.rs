use sockline_ebpf::socket::{About, SocketRecord};

use super::*;

const BACKEND: &str = "10.244.0.1";
const SERVICE: &str = "10.96.0.1";

/// One service, `shop/dns`, at [`SERVICE`] port 53.
#[derive(Default)]
struct FixedObjects {
    serving: HashSet<At>,
    after: Option<Duration>,
    tcp: bool,
    udp: bool,
}

impl Objects for FixedObjects {
    fn serving(&self, _: &ServiceKey) -> Option<HashSet<At>> {
        Some(self.serving.clone())
    }

    fn close_on_removal(&self, _: &ObjectName) -> Option<Duration> {
        self.after
    }
}

impl FixedObjects {
    fn owners(&self) -> HashMap<At, Owners> {
        let key = |protocol| ServiceKey {
            service: ObjectName::new("shop", "dns"),
            port_name: "dns".into(),
            protocol,
        };
        let owners = Owners {
            tcp: self.tcp.then(|| key(Protocol::Tcp)),
            udp: self.udp.then(|| key(Protocol::Udp)),
        };
        [(at(SERVICE, 53), owners)].into()
    }
}

fn at(address: &str, port: u16) -> At {
    (address.parse().unwrap(), port)
}

fn socket(cookie: u64) -> StaleSocket {
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    let record = SocketRecord {
        service_address: address(SERVICE),
        service_port: 53u16.to_be(),
        backend_address: address(BACKEND),
        backend_port: 5353u16.to_be(),
        service: ServiceId(1),
        backend: BackendId(2),
        generation: 3,
        ..SocketRecord::default()
    };
    StaleSocket { cookie, record, in_overflow: false }
}

/// The actions for UDP and TCP of one socket; `None` when nothing is to be done.
fn decide(decider: &mut Decider, objects: &FixedObjects, now: Instant) -> Option<(Action, Action)> {
    let decision = decider.decide(&[socket(7)], &objects.owners(), objects, now, now);
    decision.targets.first().map(|target| (target.request.udp, target.request.tcp))
}

#[test]
fn a_socket_of_udp_is_closed_with_its_exact_peer() {
    let objects = FixedObjects { udp: true, ..FixedObjects::default() };
    let now = Instant::now();
    let decision = Decider::default().decide(&[socket(7)], &objects.owners(), &objects, now, now);
    let (address, port) = at(BACKEND, 5353);
    let request = CloseTarget { cookie: 7, address, port, udp: Action::Close, tcp: Action::Ignore };
    assert_eq!(decision.targets[0].request, request);
    assert_eq!(decision.targets[0].service, "shop/dns");
}

#[test]
fn an_endpoint_that_still_serves_keeps_its_sockets() {
    let mut objects = FixedObjects {
        udp: true,
        tcp: true,
        after: Some(Duration::ZERO),
        ..FixedObjects::default()
    };
    objects.serving.insert(at(BACKEND, 5353));
    let mut decider = Decider::default();
    assert_eq!(decide(&mut decider, &objects, Instant::now()), None);
    assert!(decider.has_spared());
    objects.serving = [at(BACKEND, 5354)].into();
    assert!(
        decide(&mut decider, &objects, Instant::now()).is_some(),
        "another port is another endpoint"
    );
    assert!(!decider.has_spared());
}

#[test]
fn tcp_drains_by_itself_unless_the_service_says_otherwise() {
    let objects = FixedObjects { tcp: true, ..FixedObjects::default() };
    assert_eq!(decide(&mut Decider::default(), &objects, Instant::now()), None);
}

#[test]
fn tcp_is_closed_when_its_time_is_over_and_not_before() {
    let after = Duration::from_secs(30);
    let objects = FixedObjects { tcp: true, after: Some(after), ..FixedObjects::default() };
    let (mut decider, left) = (Decider::default(), Instant::now());
    let sockets = [socket(7)];
    let decision = decider.decide(&sockets, &objects.owners(), &objects, left, left);
    assert_eq!((decision.targets.len(), decision.next), (0, Some(left + after)));
    // The time counts from the first decision, not from a later one.
    let later = left + after / 2;
    let decision = decider.decide(&sockets, &objects.owners(), &objects, later, later);
    assert_eq!((decision.targets.len(), decision.next), (0, Some(left + after)));
    let over = left + after;
    let decision = decider.decide(&sockets, &objects.owners(), &objects, over, over);
    assert_eq!(decision.targets[0].request.tcp, Action::Close);
    assert_eq!(decision.targets[0].request.udp, Action::Ignore);
}

#[test]
fn an_endpoint_that_comes_back_starts_the_time_again() {
    let after = Duration::from_secs(30);
    let objects = FixedObjects { tcp: true, after: Some(after), ..FixedObjects::default() };
    let (mut decider, left) = (Decider::default(), Instant::now());
    decider.decide(&[socket(7)], &objects.owners(), &objects, left, left);
    // Its socket is not stale while it is there; a new backend has another generation.
    decider.decide(&[], &objects.owners(), &objects, left, left);
    let again = left + after;
    let decision = decider.decide(&[socket(7)], &objects.owners(), &objects, again, again);
    assert_eq!((decision.targets.len(), decision.next), (0, Some(again + after)));
}

#[test]
fn where_both_protocols_have_the_address_only_udp_is_closed() {
    let objects = FixedObjects { udp: true, tcp: true, ..FixedObjects::default() };
    let decided = decide(&mut Decider::default(), &objects, Instant::now());
    assert_eq!(decided, Some((Action::Close, Action::Keep)));
}

#[test]
fn a_deleted_services_udp_sockets_are_closed_and_tcp_as_it_last_said() {
    let (gone, now) = (FixedObjects::default(), Instant::now());
    let mut decider = Decider::default();
    assert_eq!(decide(&mut decider, &gone, now), Some((Action::Close, Action::Keep)));
    decider.removed(ServiceId(1), [at(SERVICE, 53)], Duration::from_secs(1));
    let later = now + Duration::from_secs(2);
    assert_eq!(decide(&mut decider, &gone, later), Some((Action::Close, Action::Close)));
    // It is remembered for as long as there are sockets of it.
    let much_later = now + FORMER_TTL * 2;
    assert_eq!(decide(&mut decider, &gone, much_later), Some((Action::Close, Action::Close)));
    decider.decide(&[], &gone.owners(), &gone, much_later, much_later);
    assert_eq!(decide(&mut decider, &gone, much_later), Some((Action::Close, Action::Keep)));
}

/// NodePorts of other nodes are programmed at the unspecified address, and those at 127.0.0.0/8 at
/// 127.0.0.1.
#[test]
fn a_deleted_services_word_counts_at_addresses_that_it_is_not_programmed_at() {
    for (dialled, programmed) in [
        ("198.51.100.7", "0.0.0.0"),
        ("fd00:100::7", "::"),
        ("127.0.0.2", "127.0.0.1"),
        (SERVICE, SERVICE),
    ] {
        let (gone, now) = (FixedObjects::default(), Instant::now());
        let mut socket = socket(7);
        socket.record.service_address = dialled.parse::<IpAddr>().unwrap().into();
        let mut decider = Decider::default();
        decider.removed(ServiceId(1), [at(programmed, 53), at("10.96.0.9", 53)], Duration::ZERO);
        // Also later: it is remembered for as long as there are sockets of it.
        for now in [now, now + FORMER_TTL * 2, now + FORMER_TTL * 4] {
            let decision = decider.decide(&[socket], &gone.owners(), &gone, now, now);
            assert_eq!(decision.targets[0].request.tcp, Action::Close, "{dialled}");
        }
    }
}

/// A socket of `shop/dns`, whose last word is not known, and a NodePort of another tenant at the same port.
#[test]
fn another_services_word_about_a_node_port_does_not_count_for_an_address_of_its_own() {
    let (gone, now) = (FixedObjects::default(), Instant::now());
    let mut decider = Decider::default();
    decider.removed(ServiceId(2), [at("0.0.0.0", 53), at("10.96.0.9", 53)], Duration::ZERO);
    assert_eq!(decide(&mut decider, &gone, now), Some((Action::Close, Action::Keep)));
    decider.removed(ServiceId(1), [at("0.0.0.0", 53)], Duration::ZERO);
    assert_eq!(decide(&mut decider, &gone, now), Some((Action::Close, Action::Close)));
}

#[test]
fn a_socket_that_is_not_found_is_looked_for_a_few_times_only() {
    let objects = FixedObjects { udp: true, ..FixedObjects::default() };
    let (mut decider, now) = (Decider::default(), Instant::now());
    let mut looks = 0;
    while let Some(target) =
        decider.decide(&[socket(7)], &objects.owners(), &objects, now, now).targets.first()
    {
        looks += 1;
        let retry = decider.record_outcome(target, &Outcome::Kept);
        assert_eq!(retry == Retry::Yes, looks < MAX_SEARCHES);
    }
    assert_eq!(looks, MAX_SEARCHES);
}

#[test]
fn a_socket_that_was_closed_is_not_looked_for_again() {
    let objects = FixedObjects { udp: true, ..FixedObjects::default() };
    let (mut decider, now) = (Decider::default(), Instant::now());
    let decision = decider.decide(&[socket(7)], &objects.owners(), &objects, now, now);
    let retry = decider.record_outcome(&decision.targets[0], &Outcome::ClosedUdp);
    assert_eq!(retry, Retry::No);
    assert_eq!(decide(&mut decider, &objects, now), None);
}

#[test]
fn what_a_record_says_of_the_protocol_counts() {
    let objects = FixedObjects {
        udp: true,
        tcp: true,
        after: Some(Duration::ZERO),
        ..FixedObjects::default()
    };
    let now = Instant::now();
    for (protocol, actions) in [
        (frontend::Protocol::Tcp, (Action::Ignore, Action::Close)),
        (frontend::Protocol::Udp, (Action::Close, Action::Ignore)),
    ] {
        let mut socket = socket(7);
        socket.record.about = About::new(protocol.byte(), 0);
        let decision = Decider::default().decide(&[socket], &objects.owners(), &objects, now, now);
        let request = decision.targets[0].request;
        assert_eq!((request.udp, request.tcp), actions, "{protocol:?}");
    }
}

#[test]
fn a_socket_with_the_same_record_twice_is_closed_once() {
    let objects = FixedObjects { udp: true, ..FixedObjects::default() };
    let now = Instant::now();
    let both = [socket(7), StaleSocket { in_overflow: true, ..socket(7) }];
    let decision = Decider::default().decide(&both, &objects.owners(), &objects, now, now);
    assert_eq!(decision.targets.len(), 1, "{:?}", decision.targets);
}
