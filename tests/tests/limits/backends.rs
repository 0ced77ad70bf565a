//! Backends that do not fit.

use sockline_testbed::objects;

use super::{
    address,
    common::{WebNode, eventually, holds},
    eventually_out_of_sync_count, out_of_sync_count, put_services,
};

#[test]
fn backends_that_do_not_fit_are_reported_and_the_others_are_used() {
    let node = WebNode::new(2);
    put_services(&node, 0..3);
    let agent = node.start_agent_with(&["--max-backends", "4"]);
    node.assert_served(&address(0));
    node.assert_served(&address(1));
    node.assert_untouched(&address(2));
    assert_eq!(
        node.wrong("outOfSync"),
        ["shop/s02:web/TCP: map `BACKENDS` is full: its limit is 4 entries (--max-backends)"]
    );
    assert_eq!(out_of_sync_count(&agent), Some(1.0));
}

#[test]
fn a_service_whose_new_endpoints_do_not_fit_keeps_its_old_ones() {
    let node = WebNode::new(3);
    let put = |webs: &[usize]| {
        let addresses: Vec<_> = webs.iter().map(|web| node.web_addresses()[*web]).collect();
        node.put("slice.yaml", &[objects::slice("cart", &addresses)]);
    };
    node.put("cart.yaml", &[objects::web_service("cart", &address(0))]);
    put(&[0]);
    let agent = node.start_agent_with(&["--max-backends", "2"]);
    put(&[0, 1, 2]);
    eventually("the failure", || holds(out_of_sync_count(&agent) == Some(1.0), agent.log()));
    assert_eq!(node.backends("cart", "web"), ["10.244.1.1"]);
    assert_eq!(node.spread(&address(0), 5).into_keys().collect::<Vec<_>>(), ["web-0"]);
    put(&[0, 1]);
    eventually("both endpoints", || {
        let backends = node.backends("cart", "web");
        holds(backends == ["10.244.1.1", "10.244.1.2"], format!("{backends:?}"))
    });
    eventually_out_of_sync_count(&agent, 0.0);
}

#[test]
fn a_higher_limit_of_backends_after_a_restart_admits_the_others() {
    let node = WebNode::new(2);
    put_services(&node, 0..3);
    let mut agent = node.start_agent_with(&["--max-backends", "4"]);
    agent.stop().unwrap();
    let next = node.start_agent_with(&["--max-backends", "6"]);
    node.assert_served(&address(2));
    assert_eq!(out_of_sync_count(&next), Some(0.0));
}

#[test]
fn a_deleted_service_makes_room_for_the_backends_of_another() {
    let node = WebNode::new(2);
    put_services(&node, 0..3);
    let _agent = node.start_agent_with(&["--max-backends", "4"]);
    node.remove("s00.yaml");
    node.eventually_served(&address(2));
}
