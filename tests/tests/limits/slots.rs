//! Slots that do not fit.

use super::{
    address,
    common::{Stage, eventually, holds},
    eventually_failures, eventually_not_in_sync, put_spread,
};

const LIMITS: [&str; 4] = ["--max-backends", "6", "--max-slots", "6"];

/// Addresses where nobody is.
const NOWHERE: [&str; 6] =
    ["10.244.7.1", "10.244.7.2", "10.244.7.3", "10.244.7.4", "10.244.7.5", "10.244.7.6"];

#[test]
fn a_service_whose_new_slots_do_not_fit_beside_its_old_ones_keeps_those() {
    let stage = Stage::new(3);
    let pods = ["10.244.1.1", "10.244.1.2", "10.244.1.3"];
    put_spread(&stage, "cart", &address(0), &pods[..2]);
    put_spread(&stage, "other", &address(1), &NOWHERE[..2]);
    let agent = stage.agent_with(&LIMITS);
    put_spread(&stage, "cart", &address(0), &pods);
    eventually_not_in_sync(&agent, 1.0);
    eventually_failures(
        &stage,
        &["shop/cart:web/TCP: map `SLOTS` is full: its limit is 6 entries"],
    );
    let seen: Vec<String> = stage.spread(&address(0), 20).into_keys().collect();
    assert_eq!(seen, ["web-0", "web-1"]);
    assert_eq!(stage.backends("cart", "web"), pods[..2], "the third endpoint leads nowhere");
    // Other two do fit.
    put_spread(&stage, "cart", &address(0), &pods[1..]);
    eventually_not_in_sync(&agent, 0.0);
    assert_eq!(stage.backends("cart", "web"), pods[1..]);
}

#[test]
fn free_slots_in_pieces_are_told_and_are_one_again_when_what_lies_between_is_gone() {
    let stage = Stage::new(1);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        put_spread(&stage, name, &address(number), &NOWHERE[2 * number..2 * number + 2]);
    }
    let agent = stage.agent_with(&LIMITS);
    stage.remove("a.yaml");
    stage.remove("c.yaml");
    eventually("two services to go", || {
        let left = stage.services();
        holds(left == ["shop/b"], format!("{left:?}"))
    });
    put_spread(&stage, "d", &address(3), &["10.244.1.1", NOWHERE[0], NOWHERE[1]]);
    eventually_not_in_sync(&agent, 1.0);
    eventually_failures(
        &stage,
        &["shop/d:web/TCP: map `SLOTS` has no 3 free entries in a row: its limit is 6"],
    );
    stage.assert_untouched(&address(3));
    stage.remove("b.yaml");
    eventually_not_in_sync(&agent, 0.0);
    assert_eq!(stage.backends("d", "web"), ["10.244.1.1", NOWHERE[0], NOWHERE[1]]);
}
