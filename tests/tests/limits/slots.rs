//! Slots that do not fit.

use super::{
    address,
    common::{WebNode, eventually, holds},
    eventually_out_of_sync, eventually_out_of_sync_count, put_spread,
};

const LIMITS: [&str; 4] = ["--max-backends", "6", "--max-slots", "6"];

/// Addresses that no pod has.
const NOWHERE: [&str; 6] =
    ["10.244.7.1", "10.244.7.2", "10.244.7.3", "10.244.7.4", "10.244.7.5", "10.244.7.6"];

#[test]
fn a_service_whose_new_slots_do_not_fit_beside_its_old_ones_keeps_those() {
    let node = WebNode::new(3);
    let pods = ["10.244.1.1", "10.244.1.2", "10.244.1.3"];
    put_spread(&node, "cart", &address(0), &pods[..2]);
    put_spread(&node, "other", &address(1), &NOWHERE[..2]);
    let agent = node.start_agent_with(&LIMITS);
    put_spread(&node, "cart", &address(0), &pods);
    eventually_out_of_sync_count(&agent, 1.0);
    eventually_out_of_sync(
        &node,
        &["shop/cart:web/TCP: map `SLOTS` is full: its limit is 6 entries (--max-slots)"],
    );
    let seen: Vec<String> = node.spread(&address(0), 20).into_keys().collect();
    assert_eq!(seen, ["web-0", "web-1"]);
    assert_eq!(node.backends("cart", "web"), pods[..2], "the third endpoint leads nowhere");
    // Other two do fit.
    put_spread(&node, "cart", &address(0), &pods[1..]);
    eventually_out_of_sync_count(&agent, 0.0);
    assert_eq!(node.backends("cart", "web"), pods[1..]);
}

#[test]
fn fragmented_free_slots_are_reported_and_merge_when_the_slots_between_are_freed() {
    let node = WebNode::new(1);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        put_spread(&node, name, &address(number), &NOWHERE[2 * number..2 * number + 2]);
    }
    let agent = node.start_agent_with(&LIMITS);
    node.remove("a.yaml");
    node.remove("c.yaml");
    eventually("two services to go", || {
        let left = node.services();
        holds(left == ["shop/b"], format!("{left:?}"))
    });
    put_spread(&node, "d", &address(3), &["10.244.1.1", NOWHERE[0], NOWHERE[1]]);
    eventually_out_of_sync_count(&agent, 1.0);
    eventually_out_of_sync(
        &node,
        &[
            "shop/d:web/TCP: map `SLOTS` has no 3 free entries in a row: its limit is 6 (--max-slots)",
        ],
    );
    node.assert_untouched(&address(3));
    node.remove("b.yaml");
    eventually_out_of_sync_count(&agent, 0.0);
    assert_eq!(node.backends("d", "web"), ["10.244.1.1", NOWHERE[0], NOWHERE[1]]);
}
