//! Maps that outgrow what they were made for.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use aya::maps::MapData;
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_ebpf::backend::BACKEND_SEGMENT;
use sockline_testbed::{Socket, objects};

use super::{
    address,
    common::{Stage, error_of, eventually, hammer::Hammer, holds, ip, series, translated},
    map, name, not_in_sync, put_services,
};

/// Services with 20 addresses each.
fn broad(count: usize) -> Vec<Value> {
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
    let capacity =
        series(&agent.metrics().unwrap(), "sockline_bpf_map_allocated_entries{map=\"frontends\"}");
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
    let objects = [vec![service], objects::slices("filling", &filling)].concat();
    stage.put("filling.yaml", &objects);
    // Links and pins are not looked at meanwhile.
    let agent = stage.agent_with(&["--reconcile-interval", "3600s"]);
    let inner = Pins::in_bpffs(stage.node.bpffs()).inner_maps();
    let away = inner.with_file_name("away");
    fs::rename(&inner, &away).unwrap();
    put_services(&stage, 1..2);
    eventually("the failure", || holds(not_in_sync(&agent) == Some(1.0), agent.log()));
    // A scrape reads the segments that the agent has, and opens no pin of theirs.
    let filling = translated("filling", "TCP");
    assert_eq!(series(&agent.metrics().unwrap(), &filling), Some(0.0), "{}", agent.log());
    stage.assert_untouched(&address(1));
    fs::rename(&away, &inner).unwrap();
    stage.eventually_served(&address(1));
}

#[test]
fn counters_that_cannot_be_read_are_told_of_once() {
    let stage = Stage::new(1);
    put_services(&stage, 0..1);
    // Pins are not looked at meanwhile.
    let agent = stage.agent_with(&["--reconcile-interval", "3600s"]);
    let pin = Pins::in_bpffs(stage.node.bpffs()).map("REMOVED_BACKENDS");
    let away = pin.with_file_name("away");
    fs::rename(&pin, &away).unwrap();
    let translated = translated(&name(0), "TCP");
    for _ in 0..2 {
        assert_eq!(series(&agent.metrics().unwrap(), &translated), None, "{}", agent.log());
    }
    let told = agent.log().matches("cannot read the services' counters").count();
    assert_eq!(told, 1, "{}", agent.log());
    fs::rename(&away, &pin).unwrap();
    assert_eq!(series(&agent.metrics().unwrap(), &translated), Some(0.0), "{}", agent.log());
}

/// As long a name as a service may have.
fn long_name(number: usize) -> String {
    format!("{number:06}-{}", "n".repeat(56))
}

/// An address of its own for each of many services, that the client's route says is nowhere.
fn far_address(number: usize) -> String {
    format!("10.98.{}.{}", number / 250, number % 250 + 1)
}

/// Services without endpoints, with the longest names.
fn put_many(stage: &Stage, count: usize) {
    let services: Vec<_> = (0..count)
        .map(|number| objects::web_service(&long_name(number), &far_address(number)))
        .collect();
    put_json(stage, &services);
}

/// JSON is read in a fraction of the time.
fn put_json(stage: &Stage, objects: &[Value]) {
    let objects: Vec<String> = objects.iter().map(ToString::to_string).collect();
    stage.put_text("many.json", &objects.join("\n"));
}

#[test]
fn the_names_of_many_services_outgrow_their_map_and_survive_a_restart() {
    let stage = Stage::new(1);
    let mut agent = stage.agent();
    assert_eq!(map(&agent, "allocated_entries", "service-names"), 4096.0);
    // Each name takes two entries.
    put_many(&stage, 2200);
    eventually("the map to have grown", || {
        // An agent that is busy may not answer in time.
        agent.metrics().map_err(|error| format!("{error:#}"))?;
        let (entries, capacity) = (
            map(&agent, "entries", "service-names"),
            map(&agent, "allocated_entries", "service-names"),
        );
        holds((entries, capacity) == (4400.0, 8192.0), format!("{entries} of {capacity}"))
    });
    // Refused calls of a service whose name came last are counted under its name, by the same agent.
    stage.eventually_refused(&far_address(2199));
    let refused = format!(
        "sockline_connections_refused_total{{namespace=\"shop\",service=\"{}\",protocol=\"TCP\",\
         reason=\"no-endpoints\"}}",
        long_name(2199)
    );
    let count = series(&agent.metrics().unwrap(), &refused);
    assert!(count >= Some(1.0), "{count:?}");
    agent.stop().unwrap();
    let next = stage.agent();
    assert_eq!(map(&next, "entries", "service-names"), 4400.0, "{}", next.log());
    let after = series(&next.metrics().unwrap(), &refused);
    assert!(after >= count, "the service has another id: {after:?}, it was {count:?}");
    assert!(stage.services().contains(&format!("shop/{}", long_name(2199))));
}

#[test]
fn names_that_were_taken_away_leave_room_for_others() {
    let stage = Stage::new(1);
    let agent = stage.agent();
    put_many(&stage, 1000);
    eventually("the names", || {
        let entries = map(&agent, "entries", "service-names");
        holds(entries == 2000.0, entries)
    });
    stage.remove("many.json");
    eventually("no names", || {
        let entries = map(&agent, "entries", "service-names");
        holds(entries == 0.0, entries)
    });
    assert_eq!(map(&agent, "allocated_entries", "service-names"), 4096.0);
}

#[test]
fn a_larger_map_that_did_not_take_its_place_is_removed() {
    let stage = Stage::new(1);
    put_services(&stage, 0..1);
    let mut agent = stage.agent();
    agent.stop().unwrap();
    let pins = Pins::in_bpffs(stage.node.bpffs());
    // As an agent leaves it that is killed after it made the larger map.
    let beside = pins.maps().join("NAMES_new");
    let unfinished = MapData::from_pin(pins.map("FAULTS")).unwrap();
    unfinished.pin(&beside).unwrap();
    let _next = stage.agent();
    assert!(!beside.exists(), "{} is still there", beside.display());
    assert_eq!(stage.services(), ["shop/s00"]);
}

#[test]
fn connections_of_many_former_endpoints_outgrow_their_map_and_stay_counted() {
    let stage = Stage::new(1);
    let count = 800;
    let put = |endpoint: &str| {
        let objects: Vec<_> = (0..count)
            .flat_map(|number| {
                let name = format!("old-{number:03}");
                let service = objects::service(&name, &far_address(number));
                [service, objects::slice(&name, &[ip(endpoint)])]
            })
            .collect();
        put_json(&stage, &objects);
    };
    put("10.244.1.1");
    let agent = stage.agent();
    assert_eq!(map(&agent, "allocated_entries", "removed-backends"), 1024.0);
    stage.client.run(|| {
        for number in 0..count {
            let socket = Socket::udp(libc::AF_INET).unwrap();
            socket.connect(SocketAddr::new(ip(&far_address(number)), 53)).unwrap();
        }
    });
    put("10.244.1.2");
    eventually("the connections to be those of former endpoints", || {
        let entries = map(&agent, "entries", "removed-backends");
        holds(entries == f64::from(count as u32), format!("{entries}: {}", agent.log()))
    });
    assert_eq!(map(&agent, "allocated_entries", "removed-backends"), 2048.0);
    let metrics = agent.metrics().unwrap();
    for number in [0, count - 1] {
        let name = format!("old-{number:03}");
        assert_eq!(series(&metrics, &translated(&name, "UDP")), Some(1.0), "{name}");
    }
}
