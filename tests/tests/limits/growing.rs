//! Maps that outgrow their first size.

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
    common::{WebNode, error_of, eventually, hammer::Hammer, holds, ip, series, translated},
    map, name, out_of_sync_count, put_services,
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
    let node = WebNode::new(2);
    put_services(&node, 0..2);
    let agent = node.start_agent();
    let addresses = [0, 1].map(|number| SocketAddr::new(ip(&address(number)), 80)).to_vec();
    let hammer = Hammer::start(&node.client, addresses);
    hammer.wait_for(100);
    // The addresses of 250 services fit into the third octet.
    let mut services = broad(250);
    for service in &mut services {
        let ports = service["spec"]["ports"].as_array_mut().unwrap();
        ports.push(json!({"name": "more", "port": 81}));
    }
    services.truncate(150);
    node.put("broad.yaml", &services);
    eventually("6,000 more frontends", || {
        let frontends = series(&agent.metrics().unwrap(), "sockline_frontends");
        holds(frontends == Some(6002.0), format!("{frontends:?}"))
    });
    hammer.wait_for(100);
    hammer.assert_nothing_failed();
    eventually("the map to have grown", || {
        let capacity = map(&agent, "allocated_entries", "frontends");
        holds(capacity > 4096.0, capacity)
    });
    node.eventually_refused("10.97.149.20");
    let listing = node.look(&["services"]);
    assert!(listing.status.success(), "{}", error_of(&listing));
}

#[test]
fn a_segment_that_could_not_be_created_is_created_later() {
    let node = WebNode::new(1);
    // As many backends as a segment has, with id 0, which is unused.
    let filling: Vec<IpAddr> =
        (1..BACKEND_SEGMENT).map(|n| Ipv4Addr::from_bits(0x0a01_0000 + n).into()).collect();
    let service = objects::web_service("filling", "10.96.0.1");
    let objects = [vec![service], objects::slices("filling", &filling)].concat();
    node.put("filling.yaml", &objects);
    // The agent does not check links and pins meanwhile.
    let agent = node.start_agent_with(&["--reconcile-interval", "3600s"]);
    let inner = Pins::in_bpffs(node.bpffs()).inner_maps();
    let away = inner.with_file_name("away");
    fs::rename(&inner, &away).unwrap();
    put_services(&node, 1..2);
    eventually("the failure", || holds(out_of_sync_count(&agent) == Some(1.0), agent.log()));
    // A scrape reads the segments that the agent has, and opens no pin of theirs.
    let filling = translated("filling", "TCP");
    assert_eq!(series(&agent.metrics().unwrap(), &filling), Some(0.0), "{}", agent.log());
    node.assert_untouched(&address(1));
    fs::rename(&away, &inner).unwrap();
    node.eventually_served(&address(1));
}

#[test]
fn counters_that_cannot_be_read_are_reported_once() {
    let node = WebNode::new(1);
    put_services(&node, 0..1);
    // The agent does not check pins meanwhile.
    let agent = node.start_agent_with(&["--reconcile-interval", "3600s"]);
    let pin = Pins::in_bpffs(node.bpffs()).map("REMOVED_BACKENDS");
    let away = pin.with_file_name("away");
    fs::rename(&pin, &away).unwrap();
    let translated = translated(&name(0), "TCP");
    for _ in 0..2 {
        assert_eq!(series(&agent.metrics().unwrap(), &translated), None, "{}", agent.log());
    }
    let reported = agent.log().matches("cannot read the services' counters").count();
    assert_eq!(reported, 1, "{}", agent.log());
    fs::rename(&away, &pin).unwrap();
    assert_eq!(series(&agent.metrics().unwrap(), &translated), Some(0.0), "{}", agent.log());
}

/// The longest name that a service may have.
fn long_name(number: usize) -> String {
    format!("{number:06}-{}", "n".repeat(56))
}

/// A separate address for each of many services, which the client has no route to.
fn far_address(number: usize) -> String {
    format!("10.98.{}.{}", number / 250, number % 250 + 1)
}

/// Services without endpoints, with the longest names.
fn put_many(node: &WebNode, count: usize) {
    let services: Vec<_> = (0..count)
        .map(|number| objects::web_service(&long_name(number), &far_address(number)))
        .collect();
    put_json(node, &services);
}

/// JSON is parsed in a fraction of the time.
fn put_json(node: &WebNode, objects: &[Value]) {
    let objects: Vec<String> = objects.iter().map(ToString::to_string).collect();
    node.put_text("many.json", &objects.join("\n"));
}

#[test]
fn the_names_of_many_services_outgrow_their_map_and_survive_a_restart() {
    let node = WebNode::new(1);
    let mut agent = node.start_agent();
    assert_eq!(map(&agent, "allocated_entries", "service-names"), 4096.0);
    // Each name takes two entries.
    put_many(&node, 2200);
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
    node.eventually_refused(&far_address(2199));
    let refused = format!(
        "sockline_connections_refused_total{{namespace=\"shop\",service=\"{}\",port=\"web\",\
         protocol=\"TCP\",reason=\"no-endpoints\"}}",
        long_name(2199)
    );
    let count = series(&agent.metrics().unwrap(), &refused);
    assert!(count >= Some(1.0), "{count:?}");
    agent.stop().unwrap();
    let next = node.start_agent();
    assert_eq!(map(&next, "entries", "service-names"), 4400.0, "{}", next.log());
    let after = series(&next.metrics().unwrap(), &refused);
    assert!(after >= count, "the service has another id: {after:?}, it was {count:?}");
    assert!(node.services().contains(&format!("shop/{}", long_name(2199))));
}

#[test]
fn removed_names_make_room_for_others() {
    let node = WebNode::new(1);
    let agent = node.start_agent();
    put_many(&node, 1000);
    eventually("the names", || {
        let entries = map(&agent, "entries", "service-names");
        holds(entries == 2000.0, entries)
    });
    node.remove("many.json");
    eventually("no names", || {
        let entries = map(&agent, "entries", "service-names");
        holds(entries == 0.0, entries)
    });
    assert_eq!(map(&agent, "allocated_entries", "service-names"), 4096.0);
}

#[test]
fn a_larger_map_that_was_not_installed_is_removed() {
    let node = WebNode::new(1);
    put_services(&node, 0..1);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    let pins = Pins::in_bpffs(node.bpffs());
    // As after an agent was killed when it had created the larger map.
    let beside = pins.maps().join("NAMES_new");
    let unfinished = MapData::from_pin(pins.map("FAULTS")).unwrap();
    unfinished.pin(&beside).unwrap();
    let _next = node.start_agent();
    assert!(!beside.exists(), "{} is still there", beside.display());
    assert_eq!(node.services(), ["shop/s00"]);
}

#[test]
fn counts_of_many_former_endpoints_outgrow_their_map_and_stay_complete() {
    let node = WebNode::new(1);
    let count = 800;
    let put = |endpoint: &str| {
        let objects: Vec<_> = (0..count)
            .flat_map(|number| {
                let name = format!("old-{number:03}");
                let service = objects::service(&name, &far_address(number));
                [service, objects::slice(&name, &[ip(endpoint)])]
            })
            .collect();
        put_json(&node, &objects);
    };
    put("10.244.1.1");
    let agent = node.start_agent();
    assert_eq!(map(&agent, "allocated_entries", "removed-backends"), 1024.0);
    node.client.run(|| {
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
    eventually("the map to have grown", || {
        let capacity = map(&agent, "allocated_entries", "removed-backends");
        holds(capacity == 2048.0, capacity)
    });
    let metrics = agent.metrics().unwrap();
    for number in [0, count - 1] {
        let name = format!("old-{number:03}");
        assert_eq!(series(&metrics, &translated(&name, "UDP")), Some(1.0), "{name}");
    }
}
