//! A full map costs what does not fit, says so, and goes on when there is room; growing harms
//! nobody.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod common;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use common::{EHOSTUNREACH, Stage, error_of, eventually, hammer::Hammer, holds, ip, series};
use serde_json::json;
use sockline::dataplane::Pins;
use sockline_ebpf::backend::BACKEND_SEGMENT;
use sockline_testbed::{Agent, objects};

fn address(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250 + 1)
}

/// Services `s00`, `s01`, … in files of their own, one frontend and one backend per web pod each.
fn put_services(stage: &Stage, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let name = name(number);
        let slice = objects::slice(&name, &stage.addresses());
        let service = objects::web_service(&name, &address(number));
        stage.put(&format!("{name}.yaml"), &[service, slice]);
    }
}

fn name(number: usize) -> String {
    format!("s{number:02}")
}

fn not_in_sync(agent: &Agent) -> Option<f64> {
    series(&agent.metrics().unwrap(), "sockline_services_not_in_sync")
}

/// How many of the services `s00` to `s11` are served; the others must be untouched.
fn served(stage: &Stage) -> usize {
    (0..12)
        .filter(|number| match stage.ask(&address(*number)) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => false,
            Err(error) => panic!("{} is neither served nor untouched: {error}", address(*number)),
        })
        .count()
}

#[test]
fn services_that_do_not_fit_are_reported_and_the_others_are_served() {
    let stage = Stage::new(1);
    put_services(&stage, 0..12);
    let agent = stage.agent_with(&["--max-frontends", "10"]);
    assert_eq!(served(&stage), 10);
    let failures = ["s10", "s11"].map(|name| {
        format!("shop/{name}:web/TCP: map `FRONTENDS` is full: its limit is 10 entries")
    });
    assert_eq!(stage.wrong("failures"), failures);
    assert_eq!(not_in_sync(&agent), Some(2.0));
    let table = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(table.contains(&format!("NOT IN THE KERNEL\n  {}\n", failures[0])), "{table}");
    let log = agent.log();
    assert_eq!(common::lines_with(&log, &failures[0]).len(), 1, "{log}");
}

#[test]
fn only_what_is_in_the_kernel_is_counted_as_in_the_kernel() {
    let stage = Stage::new(1);
    put_services(&stage, 0..12);
    let agent = stage.agent_with(&["--max-frontends", "10"]);
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_frontends"), Some(10.0));
    assert_eq!(series(&metrics, "sockline_services"), Some(10.0));
    assert_eq!(stage.services().len(), 10);
}

#[test]
fn a_service_that_outgrows_the_limit_keeps_its_old_state() {
    let stage = Stage::new(1);
    put_services(&stage, 0..10);
    let agent = stage.agent_with(&["--max-frontends", "10"]);
    let mut grown = objects::web_service("s00", &address(0));
    grown["spec"]["externalIPs"] = json!(["10.97.0.1"]);
    stage.put("s00.yaml", &[grown, objects::slice("s00", &stage.addresses())]);
    eventually("the failure", || holds(not_in_sync(&agent) == Some(1.0), agent.log()));
    stage.assert_served(&address(0));
    stage.assert_untouched("10.97.0.1");
}

#[test]
fn a_higher_limit_on_restart_lets_the_others_in() {
    let stage = Stage::new(1);
    put_services(&stage, 0..12);
    let mut agent = stage.agent_with(&["--max-frontends", "10"]);
    agent.stop().unwrap();
    let next = stage.agent_with(&["--max-frontends", "20"]);
    assert_eq!(served(&stage), 12);
    assert_eq!(not_in_sync(&next), Some(0.0));
}

#[test]
fn a_lower_limit_on_restart_takes_nothing_away() {
    let stage = Stage::new(1);
    put_services(&stage, 0..12);
    let mut agent = stage.agent();
    agent.stop().unwrap();
    let _next = stage.agent_with(&["--max-frontends", "5", "--max-backends", "5"]);
    assert_eq!(served(&stage), 12);
    assert_eq!(stage.wrong("failures"), [""; 0]);
    // And goes on working below the limits again.
    for number in 0..10 {
        stage.remove(&format!("{}.yaml", name(number)));
    }
    eventually("two to be left", || {
        let left = stage.services();
        holds(left.len() == 2, format!("{left:?}"))
    });
    put_services(&stage, 0..2);
    eventually("four to be served", || {
        let served = served(&stage);
        holds(served == 4, served)
    });
}

#[test]
fn a_deleted_service_makes_room_for_a_reported_one() {
    let stage = Stage::new(1);
    put_services(&stage, 0..11);
    let agent = stage.agent_with(&["--max-frontends", "10"]);
    stage.assert_untouched(&address(10));
    stage.remove("s03.yaml");
    stage.eventually_served(&address(10));
    assert_eq!(not_in_sync(&agent), Some(0.0));
    stage.assert_untouched(&address(3));
}

#[test]
fn a_service_that_replaces_another_in_one_step_fits() {
    let stage = Stage::new(1);
    let all = |numbers: std::ops::Range<usize>| {
        let pairs = numbers.map(|number| {
            let name = name(number);
            let slice = objects::slice(&name, &stage.addresses());
            [objects::web_service(&name, &address(number)), slice]
        });
        pairs.flatten().collect::<Vec<_>>()
    };
    stage.put("all.yaml", &all(0..10));
    let agent = stage.agent_with(&["--max-frontends", "10"]);
    stage.put("all.yaml", &all(1..11));
    stage.eventually_served(&address(10));
    let log = agent.log();
    assert!(!log.contains("is full"), "{log}");
}

#[test]
fn backends_that_do_not_fit_are_reported_and_the_others_are_used() {
    let stage = Stage::new(2);
    put_services(&stage, 0..3);
    let agent = stage.agent_with(&["--max-backends", "4"]);
    stage.assert_served(&address(0));
    stage.assert_served(&address(1));
    stage.assert_untouched(&address(2));
    assert_eq!(
        stage.wrong("failures"),
        ["shop/s02:web/TCP: map `BACKENDS` is full: its limit is 4 entries"]
    );
    assert_eq!(not_in_sync(&agent), Some(1.0));
}

#[test]
fn a_service_whose_new_endpoints_do_not_fit_keeps_its_old_ones() {
    let stage = Stage::new(3);
    let put = |webs: &[usize]| {
        let addresses: Vec<_> = webs.iter().map(|web| stage.addresses()[*web]).collect();
        stage.put("slice.yaml", &[objects::slice("cart", &addresses)]);
    };
    stage.put("cart.yaml", &[objects::web_service("cart", &address(0))]);
    put(&[0]);
    let agent = stage.agent_with(&["--max-backends", "2"]);
    put(&[0, 1, 2]);
    eventually("the failure", || holds(not_in_sync(&agent) == Some(1.0), agent.log()));
    assert_eq!(stage.backends("cart", "web"), ["10.244.1.1"]);
    assert_eq!(stage.spread(&address(0), 5).into_keys().collect::<Vec<_>>(), ["web-0"]);
    put(&[0, 1]);
    eventually("both endpoints", || {
        let backends = stage.backends("cart", "web");
        holds(backends == ["10.244.1.1", "10.244.1.2"], format!("{backends:?}"))
    });
    assert_eq!(not_in_sync(&agent), Some(0.0));
}

#[test]
fn a_higher_limit_of_backends_on_restart_lets_the_others_in() {
    let stage = Stage::new(2);
    put_services(&stage, 0..3);
    let mut agent = stage.agent_with(&["--max-backends", "4"]);
    agent.stop().unwrap();
    let next = stage.agent_with(&["--max-backends", "6"]);
    stage.assert_served(&address(2));
    assert_eq!(not_in_sync(&next), Some(0.0));
}

#[test]
fn a_deleted_service_makes_room_for_the_backends_of_another() {
    let stage = Stage::new(2);
    put_services(&stage, 0..3);
    let _agent = stage.agent_with(&["--max-backends", "4"]);
    stage.remove("s00.yaml");
    stage.eventually_served(&address(2));
}

/// Services with 20 addresses each.
fn broad(count: usize) -> Vec<serde_json::Value> {
    (0..count)
        .map(|number| {
            let mut service =
                objects::web_service(&format!("broad-{number}"), &format!("10.97.{number}.1"));
            let external: Vec<String> =
                (2..=20).map(|last| format!("10.97.{number}.{last}")).collect();
            service["spec"]["externalIPs"] = json!(external);
            service
        })
        .collect()
}

#[test]
fn no_connect_fails_while_the_frontends_outgrow_their_map() {
    let stage = Stage::new(2);
    put_services(&stage, 0..2);
    let agent = stage.agent();
    let addresses = [0, 1].map(|number| SocketAddr::new(ip(&address(number)), 80)).to_vec();
    let hammer = Hammer::start(&stage.client, addresses);
    hammer.wait_for(100);
    // The addresses of 250 services fit into the third octet.
    let mut services = broad(250);
    for service in &mut services {
        let ports = service["spec"]["ports"].as_array_mut().unwrap();
        ports.push(json!({"name": "more", "port": 81}));
    }
    services.truncate(150);
    stage.put("broad.yaml", &services);
    eventually("6,000 more frontends", || {
        let frontends = series(&agent.metrics().unwrap(), "sockline_frontends");
        holds(frontends == Some(6002.0), format!("{frontends:?}"))
    });
    hammer.wait_for(100);
    hammer.assert_nothing_failed();
    let capacity = series(&agent.metrics().unwrap(), "sockline_map_capacity{map=\"frontends\"}");
    assert!(capacity > Some(4096.0), "it did not grow: {capacity:?}");
    stage.eventually_refused("10.97.149.20");
    let listing = stage.look(&["services"]);
    assert!(listing.status.success(), "{}", error_of(&listing));
}

#[test]
fn a_segment_that_could_not_be_made_is_made_when_it_can_be() {
    let stage = Stage::new(1);
    // With id 0, which is none, as many backends as there are in a segment.
    let filling: Vec<IpAddr> =
        (1..BACKEND_SEGMENT).map(|n| Ipv4Addr::from_bits(0x0a01_0000 + n).into()).collect();
    let service = objects::web_service("filling", "10.96.0.1");
    stage.put("filling.yaml", &[service, objects::slice("filling", &filling)]);
    let agent = stage.agent();
    let inner = Pins::in_bpffs(stage.node.bpffs()).inner_maps();
    let away = inner.with_file_name("away");
    fs::rename(&inner, &away).unwrap();
    put_services(&stage, 1..2);
    eventually("the failure", || holds(not_in_sync(&agent) == Some(1.0), agent.log()));
    stage.assert_untouched(&address(1));
    fs::rename(&away, &inner).unwrap();
    stage.eventually_served(&address(1));
}
