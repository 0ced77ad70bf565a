//! Links and pins: they are made again, and nothing is served any less meanwhile.

use std::{collections::BTreeSet, fs};

use sockline::dataplane;

use super::{eventually_repaired, link_ids, repairs, serving, until_untouched, without_a_gap};
use crate::common::{CART, eventually, holds};

#[test]
fn links_that_lost_their_pins_stay_attached_and_are_pinned_again() {
    let (node, agent, damage) = serving();
    let before = link_ids(&damage);
    without_a_gap(&node, || {
        for entry in fs::read_dir(damage.pins().links()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        eventually_repaired(&agent, "pin", before.len());
    });
    assert_eq!(link_ids(&damage), before);
    assert_eq!(repairs(&agent, "link"), 0);
    assert_eq!(node.condition("HooksAttached"), "True");
}

#[test]
fn a_detached_link_is_recreated() {
    let (node, agent, damage) = serving();
    let times = until_untouched(&node, || damage.detach("connect4"));
    eventually_repaired(&agent, "link", times);
    node.assert_served(CART);
}

#[test]
fn another_object_in_place_of_a_links_pin_is_replaced() {
    let (node, agent, damage) = serving();
    let before = link_ids(&damage);
    damage.pin_a_map_at(&damage.pins().link("connect4"));
    eventually_repaired(&agent, "pin", 1);
    assert_eq!(link_ids(&damage), before);
    node.assert_served(CART);
}

#[test]
fn maps_that_lost_their_pins_are_pinned_again() {
    let (node, agent, damage) = serving();
    let names = dataplane::map_names();
    let before: Vec<u32> = names.iter().map(|name| damage.map_id(name)).collect();
    for name in &names {
        fs::remove_file(damage.pins().map(name)).unwrap();
    }
    eventually_repaired(&agent, "pin", names.len());
    let after: Vec<u32> = names.iter().map(|name| damage.map_id(name)).collect();
    assert_eq!(after, before);
    node.assert_served(CART);
}

#[test]
fn a_foreign_map_in_place_of_a_pin_is_replaced() {
    let (_node, agent, damage) = serving();
    let before = damage.map_id("SOCKETS");
    damage.pin_a_map_at(&damage.pins().map("SOCKETS"));
    assert_ne!(damage.map_id("SOCKETS"), before);
    eventually_repaired(&agent, "pin", 1);
    assert_eq!(damage.map_id("SOCKETS"), before);
}

#[test]
fn removed_pins_of_segments_are_recreated() {
    let (node, agent, damage) = serving();
    let inner = damage.pins().inner_maps();
    let pins = || {
        let names = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<BTreeSet<_>>()
    };
    let before = pins();
    for pin in &before {
        fs::remove_file(inner.join(pin)).unwrap();
    }
    eventually_repaired(&agent, "pin", before.len());
    assert_eq!(pins(), before);
    node.assert_served(CART);
}

#[test]
fn a_recreated_link_counts_even_if_it_cannot_be_pinned() {
    let (node, agent, damage) = serving();
    let (links, away) = (damage.pins().links(), damage.pins().directory().join("away"));
    fs::rename(&links, &away).unwrap();
    damage.pin_a_map_at(&links);
    let link = crate::common::bpf::open_pinned(&away.join("connect4")).unwrap();
    crate::common::bpf::detach(std::os::fd::AsFd::as_fd(&link)).unwrap();
    eventually("the hook to be served again", || node.ask(CART));
    eventually_repaired(&agent, "link", 1);
    eventually("the error", || {
        let failure = node.wrong("reconcileErrors");
        let is_reported = failure.iter().any(|failure| failure.contains("cannot make the folder"));
        holds(is_reported, format!("{failure:?}"))
    });
    fs::remove_file(&links).unwrap();
    fs::rename(&away, &links).unwrap();
}

#[test]
fn a_stale_link_of_a_killed_agent_is_detached_by_the_next() {
    let (node, mut agent, damage) = serving();
    agent.kill().unwrap();
    let stale = damage.pins().links().join("connect4_new");
    fs::rename(damage.pins().link("connect4"), &stale).unwrap();
    let mut next = node.start_agent();
    assert!(!stale.exists(), "the stale pin is still there");
    assert_eq!(node.condition("HooksAttached"), "True");
    node.assert_served(CART);
    next.stop().unwrap();
    fs::remove_file(damage.pins().link("connect4")).unwrap();
    // If the stale link were still attached, this would be served.
    node.eventually_untouched(CART);
}
