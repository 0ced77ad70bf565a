//! Maps that are full or that differ from the plan.

use super::{SHIP, assert_live_works, check, serving};
use crate::common::{CART, WebNode, damage::Damage};

#[test]
fn drift_is_reported_by_kind_and_not_repaired_by_the_check() {
    let (node, _agent) = serving();
    let damage = Damage::of(&node);
    damage.remove_frontend(&damage.frontend(80).key);
    damage.change_backends(|backend| backend.port = 1u16.to_be());
    let slot = damage.frontend(53).slot_start;
    damage.clear_slot(slot);
    for _ in 0..2 {
        let report = check(&node);
        assert_eq!(report.exit, 1);
        let words = "1 frontends missing, 2 backends changed, 1 slots changed";
        report.assert("maps.drift", "failed", words);
        assert_live_works(&report);
    }
}

#[test]
fn an_unplanned_frontend_is_reported() {
    let (node, _agent) = serving();
    let damage = Damage::of(&node);
    let mut foreign = damage.frontend(80);
    foreign.key.port = 81u16.to_be();
    damage.set_frontend(foreign);
    check(&node).assert("maps.drift", "failed", "1 frontends that are not planned");
}

#[test]
fn a_full_map_fails() {
    let node = WebNode::new(1);
    for name in ["cart", "ship"] {
        node.put_service(name, if name == "cart" { CART } else { SHIP });
    }
    let _agent = node.start_agent_with(&["--max-frontends", "3"]);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("maps.frontends", "failed", "full: 3 of 3 (100 %) → raise --max-frontends");
    report.assert("state.complete", "failed", "not in the kernel: shop/ship");
    report.assert("live.service", "failed", "map `FRONTENDS` is full: its limit is 3 entries");
    assert_eq!(Damage::of(&node).frontends().keys().count(), 3, "nothing was left behind");
}
