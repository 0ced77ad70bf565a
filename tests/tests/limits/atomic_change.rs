//! A service changes in full, or not at all.

use sockline_ebpf::{frontend::Frontend, id::ServiceId};

use super::{
    address,
    common::{WebNode, damage::Damage, ip},
    eventually_out_of_sync_count, map, put_broad, put_services, put_spread,
};

const WEB_0: &str = "10.244.1.1";
const WEB_1: &str = "10.244.1.2";
const MORE: [&str; 2] = ["10.97.0.1", "10.97.0.2"];

/// The only pod that connects to a service reach.
#[track_caller]
fn assert_only(node: &WebNode, cluster_ip: &str, pod: &str) {
    let seen: Vec<String> = node.spread(cluster_ip, 5).into_keys().collect();
    assert_eq!(seen, [pod], "{cluster_ip}");
}

#[test]
fn a_service_one_of_whose_addresses_does_not_fit_keeps_its_old_state_in_full() {
    let node = WebNode::new(2);
    put_spread(&node, "cart", &address(0), &[WEB_0]);
    put_services(&node, 1..2);
    let agent = node.start_agent_with(&["--max-frontends", "3"]);
    put_broad(&node, "cart", [&address(0), MORE[0], MORE[1]], &[WEB_1]);
    eventually_out_of_sync_count(&agent, 1.0);
    assert_only(&node, &address(0), "web-0");
    node.assert_untouched(MORE[0]);
    node.assert_untouched(MORE[1]);
    assert_eq!(node.backends("cart", "web"), [WEB_0], "the new endpoint leads nowhere");
    node.remove("s01.yaml");
    eventually_out_of_sync_count(&agent, 0.0);
    for address in [&*address(0), MORE[0], MORE[1]] {
        assert_only(&node, address, "web-1");
    }
}

#[test]
fn a_service_whose_endpoints_do_not_fit_changes_none_of_its_addresses() {
    let node = WebNode::new(2);
    put_spread(&node, "cart", &address(0), &[WEB_0]);
    let agent = node.start_agent_with(&["--max-backends", "2"]);
    put_broad(&node, "cart", [&address(0), MORE[0], MORE[1]], &[WEB_1, "10.244.7.1", "10.244.7.2"]);
    eventually_out_of_sync_count(&agent, 1.0);
    assert_only(&node, &address(0), "web-0");
    node.assert_untouched(MORE[0]);
}

/// A frontend that the agent does not know, copied from one that it knows.
fn foreign(known: Frontend, last: u8) -> Frontend {
    let mut key = known.key;
    key.address = ip(&format!("10.99.0.{last}")).into();
    Frontend { key, service: ServiceId::NONE, ..known }
}

#[test]
fn frontends_already_written_are_reverted_if_the_kernel_refuses_the_next() {
    let node = WebNode::new(2);
    put_spread(&node, "cart", &address(0), &[WEB_0]);
    let agent = node.start_agent_with(&["--max-frontends", "8", "--reconcile-interval", "86400s"]);
    // The agent does not know them: it assumes that there is room for seven.
    let damage = Damage::of(&node);
    let known = damage.frontend(80);
    let foreign = |last| foreign(known, last);
    (1..=6).for_each(|last| damage.set_frontend(foreign(last)));
    put_broad(&node, "cart", [&address(0), MORE[0], MORE[1]], &[WEB_1]);
    eventually_out_of_sync_count(&agent, 1.0);
    assert_only(&node, &address(0), "web-0");
    node.assert_untouched(MORE[0]);
    node.assert_untouched(MORE[1]);
    assert_eq!(damage.frontends().keys().count(), 7, "one of the new ones is still there");
    (1..=6).for_each(|last| damage.remove_frontend(&foreign(last).key));
    eventually_out_of_sync_count(&agent, 0.0);
    assert_only(&node, MORE[1], "web-1");
}

#[test]
fn a_new_service_that_the_kernel_refuses_takes_no_room() {
    let node = WebNode::new(1);
    put_spread(&node, "cart", &address(0), &[WEB_0]);
    let agent = node.start_agent_with(&["--max-frontends", "8", "--reconcile-interval", "86400s"]);
    let damage = Damage::of(&node);
    let known = damage.frontend(80);
    let foreign = |last| foreign(known, last);
    (1..=6).for_each(|last| damage.set_frontend(foreign(last)));
    put_broad(&node, "new", [&address(1), MORE[0], MORE[1]], &[WEB_0]);
    eventually_out_of_sync_count(&agent, 1.0);
    assert_eq!(damage.frontends().keys().count(), 7, "one of the new ones is still there");
    assert_eq!(map(&agent, "entries", "service-names"), 1.0, "its name is still there");
    (1..=6).for_each(|last| damage.remove_frontend(&foreign(last).key));
    eventually_out_of_sync_count(&agent, 0.0);
    assert_only(&node, MORE[1], "web-0");
}
