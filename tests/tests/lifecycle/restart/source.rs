//! What the next agent does with services that its source has, lacks, or has in part.

use std::fs;

use serde_json::json;
use sockline::dataplane::Pins;
use sockline_testbed::{bpf::RawMap, objects};

use super::{SHIP, cart_at_80};
use crate::common::{CART, WebNode, eventually, hammer::Hammer, holds, ip, options};

#[test]
fn the_next_agent_applies_what_changed_without_an_agent() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.stop().unwrap();
    node.remove("cart.yaml");
    node.put_service("ship", SHIP);
    node.assert_served(CART);
    let _next = node.start_agent();
    node.assert_served(SHIP);
    node.assert_untouched(CART);
}

#[test]
fn an_agent_without_its_manifests_folder_keeps_serving_what_it_found() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.stop().unwrap();
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    let next = node.agent(&waiting).unwrap();
    node.eventually_input_errors(&[&format!(
        "folder {}: cannot be read (No such file or directory (os error 2)); waiting for it",
        folder.display()
    )]);
    node.assert_served(CART);
    assert_eq!(next.get("/readyz").unwrap().status, 503);
    fs::rename(node.manifests(), &folder).unwrap();
    eventually("the agent to be ready", || {
        let reply = next.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
    node.assert_served(CART);
}

#[test]
fn services_whose_names_are_lost_are_served_until_the_source_identifies_them() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    agent.stop().unwrap();
    let names = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("SERVICE_NAMES")).unwrap();
    for key in names.keys().unwrap() {
        names.remove(&key).unwrap();
    }
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    agent = node.agent(&waiting).unwrap();
    node.assert_served(CART);
    node.assert_served(SHIP);
    node.remove("ship.yaml");
    fs::rename(node.manifests(), &folder).unwrap();
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    node.assert_served(CART);
    node.assert_untouched(SHIP);
    assert_eq!(node.services(), ["shop/cart"]);
}

#[test]
fn two_services_with_one_name_are_served_until_the_source_identifies_them() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    agent.kill().unwrap();
    let names = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("SERVICE_NAMES")).unwrap();
    let keys = names.keys().unwrap();
    let one = names.get(&keys[0]).unwrap().unwrap();
    for key in &keys {
        names.set(key, &one).unwrap();
    }
    let hammer = Hammer::start(&node.client, vec![cart_at_80(), (ip(SHIP), 80).into()]);
    agent = node.start_agent();
    hammer.wait_for(20);
    hammer.assert_nothing_failed();
    agent.stop().unwrap();
    assert_eq!(node.services(), ["shop/cart", "shop/ship"]);
}

/// A file that parses up to its last document.
fn broken(objects: &[serde_json::Value]) -> String {
    objects::file::yaml(objects) + "---\nkind: Service\nmetadata: {name: [\n"
}

#[test]
fn a_service_in_a_file_that_is_broken_at_the_start_stays_served() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.stop().unwrap();
    node.put_text("cart.yaml", &broken(&[]));
    node.put_service("ship", SHIP);
    let _next = node.start_agent();
    node.assert_served(SHIP);
    node.assert_served(CART);
}

#[test]
fn a_service_whose_endpoints_are_in_a_broken_file_is_not_refused() {
    let node = WebNode::new(1);
    node.put("cart.yaml", &[objects::service("cart", CART)]);
    node.put("slices.yaml", &[objects::slice("cart", &node.web_addresses())]);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    node.put_text("slices.yaml", &broken(&[]));
    let _next = node.start_agent();
    node.assert_served(CART);
}

#[test]
fn retained_services_are_removed_when_the_repaired_file_does_not_have_them() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("ship", SHIP);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    node.put_text("cart.yaml", &broken(&[]));
    node.put("ship.yaml", &[objects::service("ship", SHIP)]);
    let _next = node.start_agent();
    node.assert_served(CART);
    node.assert_served(SHIP);
    node.put("cart.yaml", &[]);
    node.eventually_untouched(CART);
    node.eventually_refused(SHIP);
}

/// Only these names are retained: services that are gone from another file are removed.
#[test]
fn an_unusable_service_stays_served_over_a_restart() {
    let mut service = objects::service("cart", CART);
    service["spec"]["ports"] = json!([{"name": "web", "port": 0}]);
    let mut wrong_type = objects::service("cart", CART);
    wrong_type["spec"]["ports"] = json!("web");
    for bad in [service, wrong_type] {
        let node = WebNode::new(1);
        node.put_service("cart", CART);
        node.put_service("ship", SHIP);
        let mut agent = node.start_agent();
        node.put("cart.yaml", &[bad, objects::slice("cart", &node.web_addresses())]);
        agent.stop().unwrap();
        node.remove("ship.yaml");
        let _next = node.start_agent();
        node.eventually_untouched(SHIP);
        node.assert_served(CART);
        node.remove("cart.yaml");
        node.eventually_untouched(CART);
    }
}

#[test]
fn a_service_with_an_unusable_slice_is_not_refused_after_a_restart() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent();
    let mut bad = objects::slice("cart", &node.web_addresses());
    bad["addressType"] = json!("IPv5");
    let cart = objects::service("cart", CART);
    node.put("cart.yaml", &[cart.clone(), bad]);
    agent.stop().unwrap();
    let _next = node.start_agent();
    node.assert_served(CART);
    // The log has a new line, without it.
    node.put("cart.yaml", &[cart]);
    node.eventually_refused(CART);
}

#[test]
fn a_broken_file_does_not_retain_services_whose_deletion_this_agent_saw() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("ship", SHIP);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    let _next = node.start_agent();
    node.put_text("broken.yaml", &broken(&[]));
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    node.put("ship.yaml", &[objects::service("ship", SHIP)]);
    node.eventually_refused(SHIP);
}

#[test]
fn a_manifest_of_another_kind_retains_nothing() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    agent.stop().unwrap();
    node.remove("cart.yaml");
    node.put("other.yaml", &[json!({"apiVersion": "apps/v1", "kind": "Deployment"})]);
    let _next = node.start_agent();
    node.assert_untouched(CART);
}
