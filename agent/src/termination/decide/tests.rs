use sockline_ebpf::socket::SocketRecord;

use super::*;

const BACKEND: &str = "10.244.0.1";
const SERVICE: &str = "10.96.0.1";

/// One service, `shop/dns`, at [`SERVICE`] port 53.
#[derive(Default)]
struct World {
    serving: HashSet<At>,
    after: Option<Duration>,
    tcp: bool,
    udp: bool,
}

impl Objects for World {
    fn serving(&self, _: &ServiceKey) -> Option<HashSet<At>> {
        Some(self.serving.clone())
    }

    fn close_on_removal(&self, _: &ObjectName) -> Option<Duration> {
        self.after
    }
}

impl World {
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

fn orphan(cookie: u64) -> Orphan {
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    let record = SocketRecord {
        service_address: address(SERVICE),
        service_port: 53u16.to_be(),
        backend_address: address(BACKEND),
        backend_port: 5353u16.to_be(),
        service: 1,
        backend: 2,
        generation: 3,
        ..SocketRecord::default()
    };
    Orphan { cookie, record, noted: false }
}

/// The actions for UDP and TCP of one orphan; `None` when nothing is to be done.
fn decide(judge: &mut Judge, world: &World, now: Instant) -> Option<(Action, Action)> {
    let verdict = judge.verdict(&[orphan(7)], &world.owners(), world, now, now);
    verdict.doomed.first().map(|doomed| (doomed.wanted.udp, doomed.wanted.tcp))
}

#[test]
fn a_socket_of_udp_is_closed_with_its_exact_peer() {
    let world = World { udp: true, ..World::default() };
    let now = Instant::now();
    let verdict = Judge::default().verdict(&[orphan(7)], &world.owners(), &world, now, now);
    let (address, port) = at(BACKEND, 5353);
    let wanted = Wanted { cookie: 7, address, port, udp: Action::Close, tcp: Action::Ignore };
    assert_eq!(verdict.doomed[0].wanted, wanted);
    assert_eq!(verdict.doomed[0].service, "shop/dns");
}

#[test]
fn an_endpoint_that_still_serves_keeps_its_sockets() {
    let mut world = World { udp: true, tcp: true, after: Some(Duration::ZERO), ..World::default() };
    world.serving.insert(at(BACKEND, 5353));
    let mut judge = Judge::default();
    assert_eq!(decide(&mut judge, &world, Instant::now()), None);
    assert!(judge.has_spared());
    world.serving = [at(BACKEND, 5354)].into();
    assert!(
        decide(&mut judge, &world, Instant::now()).is_some(),
        "another port is another endpoint"
    );
    assert!(!judge.has_spared());
}

#[test]
fn tcp_drains_by_itself_unless_the_service_says_otherwise() {
    let world = World { tcp: true, ..World::default() };
    assert_eq!(decide(&mut Judge::default(), &world, Instant::now()), None);
}

#[test]
fn tcp_is_closed_when_its_time_is_over_and_not_before() {
    let after = Duration::from_secs(30);
    let world = World { tcp: true, after: Some(after), ..World::default() };
    let (mut judge, left) = (Judge::default(), Instant::now());
    let orphans = [orphan(7)];
    let verdict = judge.verdict(&orphans, &world.owners(), &world, left, left);
    assert_eq!((verdict.doomed.len(), verdict.next), (0, Some(left + after)));
    // The time counts from the first verdict, not from a later one.
    let later = left + after / 2;
    let verdict = judge.verdict(&orphans, &world.owners(), &world, later, later);
    assert_eq!((verdict.doomed.len(), verdict.next), (0, Some(left + after)));
    let over = left + after;
    let verdict = judge.verdict(&orphans, &world.owners(), &world, over, over);
    assert_eq!(verdict.doomed[0].wanted.tcp, Action::Close);
    assert_eq!(verdict.doomed[0].wanted.udp, Action::Ignore);
}

#[test]
fn an_endpoint_that_comes_back_starts_the_time_anew() {
    let after = Duration::from_secs(30);
    let world = World { tcp: true, after: Some(after), ..World::default() };
    let (mut judge, left) = (Judge::default(), Instant::now());
    judge.verdict(&[orphan(7)], &world.owners(), &world, left, left);
    // Its record is no orphan while it is there; a new backend has another generation.
    judge.verdict(&[], &world.owners(), &world, left, left);
    let again = left + after;
    let verdict = judge.verdict(&[orphan(7)], &world.owners(), &world, again, again);
    assert_eq!((verdict.doomed.len(), verdict.next), (0, Some(again + after)));
}

#[test]
fn where_both_protocols_have_the_address_only_udp_is_closed() {
    let world = World { udp: true, tcp: true, ..World::default() };
    let decided = decide(&mut Judge::default(), &world, Instant::now());
    assert_eq!(decided, Some((Action::Close, Action::Look)));
}

#[test]
fn a_deleted_services_udp_sockets_are_closed_and_tcp_as_it_last_said() {
    let (gone, now) = (World::default(), Instant::now());
    let mut judge = Judge::default();
    assert_eq!(decide(&mut judge, &gone, now), Some((Action::Close, Action::Look)));
    judge.removed([at(SERVICE, 53)], Duration::from_secs(1));
    let later = now + Duration::from_secs(2);
    assert_eq!(decide(&mut judge, &gone, later), Some((Action::Close, Action::Close)));
    // It is remembered for as long as there are sockets of it.
    let much_later = now + REMEMBER * 2;
    assert_eq!(decide(&mut judge, &gone, much_later), Some((Action::Close, Action::Close)));
    judge.verdict(&[], &gone.owners(), &gone, much_later, much_later);
    assert_eq!(decide(&mut judge, &gone, much_later), Some((Action::Close, Action::Look)));
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
        let (gone, now) = (World::default(), Instant::now());
        let mut orphan = orphan(7);
        orphan.record.service_address = dialled.parse::<IpAddr>().unwrap().into();
        let mut judge = Judge::default();
        judge.removed([at(programmed, 53), at("10.96.0.9", 53)], Duration::ZERO);
        // Also later: it is remembered for as long as there are sockets of it.
        for now in [now, now + REMEMBER * 2, now + REMEMBER * 4] {
            let verdict = judge.verdict(&[orphan], &gone.owners(), &gone, now, now);
            assert_eq!(verdict.doomed[0].wanted.tcp, Action::Close, "{dialled}");
        }
    }
}

#[test]
fn a_socket_that_is_not_found_is_looked_for_a_few_times_only() {
    let world = World { udp: true, ..World::default() };
    let (mut judge, now) = (Judge::default(), Instant::now());
    let mut looks = 0;
    while let Some(doomed) =
        judge.verdict(&[orphan(7)], &world.owners(), &world, now, now).doomed.first()
    {
        looks += 1;
        let again = judge.came_of(doomed, &Outcome::Kept);
        assert_eq!(again, looks < LOOKS);
    }
    assert_eq!(looks, LOOKS);
}

#[test]
fn a_socket_that_was_closed_is_not_looked_for_again() {
    let world = World { udp: true, ..World::default() };
    let (mut judge, now) = (Judge::default(), Instant::now());
    let verdict = judge.verdict(&[orphan(7)], &world.owners(), &world, now, now);
    assert!(!judge.came_of(&verdict.doomed[0], &Outcome::ClosedUdp));
    assert_eq!(decide(&mut judge, &world, now), None);
}

#[test]
fn what_a_record_says_of_the_protocol_counts() {
    let world = World { udp: true, tcp: true, after: Some(Duration::ZERO), ..World::default() };
    let now = Instant::now();
    for (protocol, actions) in
        [(TCP, (Action::Ignore, Action::Close)), (UDP, (Action::Close, Action::Ignore))]
    {
        let mut orphan = orphan(7);
        orphan.record.protocol = protocol.into();
        let verdict = Judge::default().verdict(&[orphan], &world.owners(), &world, now, now);
        let wanted = verdict.doomed[0].wanted;
        assert_eq!((wanted.udp, wanted.tcp), actions, "protocol {protocol}");
    }
}

#[test]
fn a_socket_with_the_same_record_twice_is_closed_once() {
    let world = World { udp: true, ..World::default() };
    let now = Instant::now();
    let both = [orphan(7), Orphan { noted: true, ..orphan(7) }];
    let verdict = Judge::default().verdict(&both, &world.owners(), &world, now, now);
    assert_eq!(verdict.doomed.len(), 1, "{:?}", verdict.doomed);
}
