//! Entries of maps, and the maps in arrays of maps.

use std::{cell::Cell, net::SocketAddr};

use serde_json::json;
use sockline_ebpf::{
    address::Address,
    backend::{Backend, Scopes},
    frontend::{Action, Frontend, FrontendKey},
    id::ServiceId,
    telemetry::ConnectionCounts,
};
use sockline_testbed::{Socket, objects};

use super::{eventually_repaired, repairs, serving, until_untouched};
use crate::common::{
    CART, REPAIRS, WebNode, damage::Damage, eventually, holds, ip, options, series, translated,
};

#[test]
fn a_deleted_frontend_is_restored() {
    let (node, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.remove_frontend(&entry.key);
    eventually_repaired(&agent, "frontend", 1);
    assert_eq!(damage.frontend(80), entry);
    node.assert_served(CART);
}

#[test]
fn a_changed_frontend_is_corrected() {
    let (node, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.set_frontend(Frontend { action: Action::Refuse.byte(), ..entry });
    eventually_repaired(&agent, "frontend", 1);
    assert_eq!(damage.frontend(80), entry);
    node.assert_served(CART);
}

#[test]
fn an_unplanned_frontend_is_removed() {
    let (_node, agent, damage) = serving();
    let mut foreign = damage.frontend(80);
    foreign.key.port = 81u16.to_be();
    damage.set_frontend(foreign);
    eventually_repaired(&agent, "frontend", 1);
    let left = damage.frontends().keys().map(Result::unwrap).find(|key| *key == foreign.key);
    assert_eq!(left, None);
}

#[test]
fn backends_with_another_address_are_corrected() {
    let (node, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.port = 1u16.to_be());
    assert_eq!(changed, 4, "two pods behind two service ports");
    eventually_repaired(&agent, "backend", 4);
    node.assert_served(CART);
}

/// The addresses of other nodes are entries among the frontends.
#[test]
fn addresses_of_other_nodes_are_restored_and_unplanned_ones_removed() {
    let node = WebNode::new(1);
    let mut service = objects::service("cart", CART);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(30080);
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    let others = ["198.51.100.1", "198.51.100.2"];
    let other = |address: &str| objects::node_at(&format!("node-{address}"), &[ip(address)]);
    node.put("nodes.yaml", &others.map(other));
    let agent = node.start_agent_with(&[&REPAIRS[..], &["--nodeports-of-all-nodes"]].concat());
    let damage = Damage::of(&node);
    let is_served = |address: &str| {
        let to = SocketAddr::new(ip(address), 30080);
        node.client.tcp_ask(to).is_ok()
    };
    assert!(others.iter().all(|address| is_served(address)));
    let mark = FrontendKey::node_mark(ip(others[0]).into());
    let entry = damage.frontends().get(&mark, 0).unwrap();
    let mut repaired = 0;
    // The agent may repair it before the connect.
    eventually("the address not to be served", || {
        damage.remove_frontend(&mark);
        repaired += 1;
        holds(!is_served(others[0]), "it is served")
    });
    assert!(is_served(others[1]));
    eventually_repaired(&agent, "frontend", repaired);
    assert!(is_served(others[0]));
    let foreign = "198.51.100.3";
    let key = FrontendKey::node_mark(ip(foreign).into());
    damage.set_frontend(Frontend { key, ..entry });
    eventually_repaired(&agent, "frontend", repaired + 1);
    assert!(!is_served(foreign));
    assert!(others.iter().all(|address| is_served(address)));
}

#[test]
fn a_lost_slot_is_restored() {
    let (node, agent, damage) = serving();
    damage.clear_slot(damage.frontend(80).slot_start);
    eventually_repaired(&agent, "slot", 1);
    assert_eq!(node.spread(CART, 30).len(), 2, "both pods get connects again");
}

#[test]
fn a_cleared_filter_is_restored() {
    let (node, agent, damage) = serving();
    damage.clear_filter();
    eventually_repaired(&agent, "filter", 2);
    node.assert_served(CART);
}

#[test]
fn a_filter_that_was_cleared_while_the_agent_was_down_is_restored_at_the_start() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.clear_filter();
    node.assert_untouched(CART);
    let _next = node.start_agent();
    node.assert_served(CART);
}

#[test]
fn backends_that_were_changed_while_the_agent_was_down_are_corrected_by_the_first_sync() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.change_backends(|backend| backend.service.0 += 1000);
    let next = node.start_agent();
    node.assert_served(CART);
    assert_eq!(node.wrong("outOfSync"), [""; 0], "{}", next.log());
}

/// A slot may refer to it for a moment after its removal.
#[test]
fn a_backend_that_no_frontend_may_use_is_never_selected() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    let leaving = Address::from(node.webs[0].pod.addresses()[0]);
    damage.change_backends(|backend| {
        if backend.address == leaving {
            backend.scopes = Scopes::empty();
        }
    });
    node.client.run(|| {
        for _ in 0..60 {
            let socket = Socket::udp(libc::AF_INET).unwrap();
            // One in four selects it twice in a row, and is not translated.
            let _ = socket.connect(SocketAddr::new(ip(CART), 53));
        }
    });
    let chosen = Cell::new(0);
    damage.change_backends(|backend| {
        let is_leaving = backend.address == leaving;
        assert!(!is_leaving || backend.counts.opened == 0, "{backend:?}");
        chosen.set(chosen.get() + backend.counts.opened);
    });
    assert!(chosen.get() > 0, "nothing was chosen");
}

#[test]
fn a_changed_weight_of_a_backend_is_corrected() {
    let (_node, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.weight += 1);
    eventually_repaired(&agent, "backend", changed);
}

#[test]
fn a_changed_class_of_a_backends_traffic_is_corrected() {
    let (_node, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.class ^= 3);
    eventually_repaired(&agent, "backend", changed);
}

/// What a socket or a client's session affinity remembers of a backend is found by its generation.
#[test]
fn a_changed_generation_of_a_backend_is_corrected() {
    let (node, agent, damage) = serving();
    let generations = || {
        let all = std::cell::RefCell::new(Vec::new());
        damage.change_backends(|backend| all.borrow_mut().push(backend.generation));
        all.into_inner()
    };
    let before = generations();
    let changed = damage.change_backends(|backend| backend.generation += 1);
    eventually_repaired(&agent, "backend", changed);
    assert_eq!(generations(), before);
    // Also where more of the entry is wrong.
    damage.change_backends(|backend| {
        backend.generation += 7;
        backend.port = 1u16.to_be();
    });
    eventually_repaired(&agent, "backend", 2 * changed);
    assert_eq!(generations(), before);
    node.assert_served(CART);
}

/// A generation that was removed must not come back: sockets remember it.
#[test]
fn a_removed_backend_never_has_its_generation_again() {
    let (node, mut agent, damage) = serving();
    // No repair before the removal.
    agent.stop().unwrap();
    let agent = node.start_agent();
    let leaving = Address::from(node.webs[0].pod.addresses()[0]);
    let before = Cell::new(0);
    damage.change_backends(|backend| {
        if backend.address == leaving {
            before.set(before.get().max(backend.generation));
            backend.generation -= 1;
        }
    });
    node.put(
        "cart.yaml",
        &[objects::service("cart", CART), objects::slice("cart", &node.web_addresses()[1..])],
    );
    let free = eventually("the entries to be freed", || {
        let entries: Vec<Backend> = (1..=4).map(|id| damage.backend(id)).collect();
        let free = entries.iter().filter(|entry| entry.service == ServiceId::NONE);
        let free: Vec<u32> = free.map(|entry| entry.generation).collect();
        if free.len() == 2 { Ok(free) } else { Err(agent.log()) }
    });
    assert!(free.iter().all(|&now| now > before.get()), "{free:?}, {} before", before.get());
}

/// For Prometheus, a counter that falls was reset.
#[test]
fn no_counter_falls_while_backends_are_corrected() {
    let (node, agent, damage) = serving();
    node.spread(CART, 20);
    let series_name = translated("cart", "TCP");
    for round in 1..=3 {
        let changed = damage.change_backends(|backend| backend.port = 1u16.to_be());
        eventually("the repair", || {
            let count = series(&agent.metrics().unwrap(), &series_name);
            assert_eq!(count, Some(20.0), "round {round}");
            let seen = repairs(&agent, "backend");
            holds(seen == round * changed, seen)
        });
    }
}

#[test]
fn an_unplanned_backend_is_freed() {
    let (_node, agent, damage) = serving();
    damage.set_backend(
        900,
        Backend { service: ServiceId(77), scopes: Scopes::INTERNAL, ..Backend::default() },
    );
    eventually_repaired(&agent, "backend", 1);
    assert_eq!(damage.backend(900).service, ServiceId::NONE);
}

/// What was counted there was in the sums already.
#[test]
fn the_counts_of_an_unplanned_backend_stay_with_its_service() {
    let (node, agent, damage) = serving();
    node.spread(CART, 5);
    let service = damage.frontend(80).service;
    let counts = ConnectionCounts { opened: 7, closed: 7, ..ConnectionCounts::NONE };
    let foreign = Backend { service, scopes: Scopes::INTERNAL, counts, ..Backend::default() };
    damage.set_backend(900, foreign);
    eventually_repaired(&agent, "backend", 1);
    assert_eq!(damage.backend(900).service, ServiceId::NONE);
    let seen = series(&agent.metrics().unwrap(), &translated("cart", "TCP"));
    assert_eq!(seen, Some(12.0));
}

#[test]
fn a_lost_name_is_restored() {
    let (node, agent, damage) = serving();
    let services = node.services();
    damage.clear_names();
    eventually_repaired(&agent, "name", 2);
    assert_eq!(node.services(), services);
}

#[test]
fn a_segment_that_was_removed_from_its_map_is_restored() {
    let (node, agent, damage) = serving();
    damage.take_out("BACKENDS");
    eventually_repaired(&agent, "map", 1);
    node.assert_served(CART);
    assert_eq!(repairs(&agent, "pin"), 0);
}

#[test]
fn a_removed_frontends_map_is_restored() {
    let (node, agent, damage) = serving();
    let times = until_untouched(&node, || damage.take_out("FRONTENDS"));
    eventually_repaired(&agent, "map", times);
    node.assert_served(CART);
}

#[test]
fn a_segment_that_is_missing_at_the_start_is_recreated() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.take_out("BACKENDS");
    let next = node.start_agent();
    node.assert_served(CART);
    assert_eq!(node.wrong("outOfSync"), [""; 0], "{}", next.log());
}

#[test]
fn a_slot_that_was_lost_while_the_agent_was_down_is_restored_without_an_outage() {
    let (node, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.clear_slot(damage.frontend(80).slot_start);
    // The next agent has no plan: it serves what it restored.
    node.put_text("cart.yaml", "]");
    let next = node.agent(&options(&[])).unwrap();
    let served = (0..40).filter(|_| node.ask(CART).is_ok()).count();
    // A call selects up to two times; half of the selections have no backend.
    assert!(served >= 15, "{served} of 40 were served: {}", next.log());
    node.put_service("cart", CART);
    eventually("all to be served", || {
        let served = (0..20).filter(|_| node.ask(CART).is_ok()).count();
        holds(served == 20, format!("{served} of 20"))
    });
    assert_eq!(node.spread(CART, 30).len(), 2, "both pods");
}
