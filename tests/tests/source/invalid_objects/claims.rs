//! Addresses that two services claim, and what an object that cannot be used keeps of them.

use std::{fs, net::SocketAddr};

use serde_json::{Value, json};
use sockline_testbed::{Agent, objects};

use super::{SHIP, assert_told, cart, cart_slice, node};
use crate::common::{CART, WebNode, assert_logged_once, eventually, hammer::Hammer, holds, ip};

fn created(mut service: Value, time: &str) -> Value {
    service["metadata"]["creationTimestamp"] = json!(time);
    service
}

/// Two services at one address: the one with the later name is the older one.
fn rivals() -> (WebNode, Agent) {
    let node = node(2);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    let new = created(objects::web_service("a-new", CART), "2026-02-02T00:00:00Z");
    let old = created(objects::web_service("z-old", CART), "2026-02-01T00:00:00Z");
    node.put("new.yaml", &[new, objects::slice("a-new", &[second])]);
    node.put("old.yaml", &[old, objects::slice("z-old", &[first])]);
    let agent = node.start_agent();
    (node, agent)
}

#[test]
fn the_older_of_two_services_at_one_address_has_it_and_the_other_is_reported() {
    let (node, agent) = rivals();
    assert_eq!(node.spread(CART, 10).into_keys().collect::<Vec<_>>(), ["web-0"]);
    let input_error = "Service shop/a-new: spec.clusterIPs (port \"web\"): IPv4 address 10.96.0.1, \
                   port 80/TCP belongs to port \"web\" of Service shop/z-old (it is older); skipped here";
    assert_told(&node, &agent, &[input_error]);
}

#[test]
fn when_the_older_service_is_deleted_the_other_takes_over_without_a_gap() {
    let (node, _agent) = rivals();
    let hammer = Hammer::start(&node.client, vec![SocketAddr::new(ip(CART), 80)]);
    hammer.wait_for(20);
    node.remove("old.yaml");
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    hammer.wait_for(20);
    hammer.assert_nothing_failed();
    node.eventually_no_input_errors();
}

/// An address of z-old, which is unusable, and which a-new claims as well.
#[test]
fn an_unusable_service_keeps_the_addresses_that_others_claim() {
    let (node, mut agent) = rivals();
    let good = fs::read_to_string(node.manifests().join("old.yaml")).unwrap();
    let bad = good.replace("\"port\": 80,", "\"port\": 0,");
    assert_ne!(bad, good);
    let who = || node.spread(CART, 10).into_keys().collect::<Vec<_>>();
    let is_reported = || {
        eventually("the input error of z-old", || {
            let input_errors = node.wrong("invalidObjects");
            let reported = |input_error: &String| {
                input_error.contains("z-old")
                    && input_error.ends_with("what is programmed for it stays")
            };
            holds(input_errors.iter().any(reported), format!("{input_errors:?}"))
        });
    };
    node.put_text("old.yaml", &bad);
    is_reported();
    assert_eq!(who(), ["web-0"]);
    let kept = "the address stays with a service of which an object cannot be used";
    assert_logged_once(&agent, kept);
    // The same holds for the next agent, which never saw a valid z-old.
    agent.stop().unwrap();
    let agent = node.start_agent();
    is_reported();
    assert_eq!(who(), ["web-0"]);
    assert_logged_once(&agent, kept);
    // Once it is valid it has its address; once it is deleted the other one has it.
    node.put_text("old.yaml", &good);
    eventually("z-old to be valid", || {
        let input_errors = node.wrong("invalidObjects");
        holds(
            input_errors.len() == 1 && input_errors[0].contains("a-new"),
            format!("{input_errors:?}"),
        )
    });
    assert_eq!(who(), ["web-0"]);
    node.put_text("old.yaml", &bad);
    is_reported();
    node.remove("old.yaml");
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    node.eventually_no_input_errors();
}

/// The file is read once after the service was deleted and another one was made.
#[test]
fn a_partly_unreadable_recreated_service_has_nothing_of_the_deleted_one() {
    const AGAIN: &str = "10.96.0.3";
    let of = |uid: &str, address: &str| {
        let mut service = objects::web_service("cart", address);
        service["metadata"]["uid"] = json!(uid);
        service
    };
    let mut bad = cart_slice();
    bad["addressType"] = json!("IPv5");
    let node = node(1);
    let stays = "what is programmed for Service shop/cart stays";
    for is_retained_before in [true, false] {
        node.put("cart.yaml", &[of("1", CART), cart_slice()]);
        let mut agent = node.start_agent();
        node.assert_served(CART);
        if is_retained_before {
            node.put("cart.yaml", &[of("1", CART), bad.clone()]);
            eventually("the input error", || {
                let input_errors = node.wrong("invalidObjects");
                let reported = input_errors.iter().any(|input_error| input_error.ends_with(stays));
                holds(reported, format!("{input_errors:?}"))
            });
            node.assert_served(CART);
        }
        node.put("cart.yaml", &[of("2", AGAIN), bad.clone()]);
        node.eventually_untouched(CART);
        // None of its endpoints can be read.
        node.eventually_refused(AGAIN);
        node.put("cart.yaml", &[of("2", AGAIN), cart_slice()]);
        node.eventually_served(AGAIN);
        node.assert_untouched(CART);
        agent.stop().unwrap();
    }
}

/// How many service ports lack an address that a retained port has.
fn waiting_for_address(node: &WebNode) -> u64 {
    node.status()["agent"]["unconfirmedServicePorts"]["waitingForAddress"].as_u64().unwrap()
}

/// A tenant's external IP, before the API server allocates that address to another service.
#[test]
fn a_cluster_ip_belongs_to_its_service_although_an_unreadable_service_has_it_as_external_ip() {
    const TAKEN: &str = "10.96.0.50";
    let node = node(2);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    let mut squatter = cart();
    squatter["spec"]["externalIPs"] = json!([TAKEN]);
    let slice = objects::slice("cart", &[first]);
    let mut bad = squatter.clone();
    bad["spec"]["ports"] = json!([{"port": 0}]);
    node.put("cart.yaml", &[squatter.clone(), slice.clone()]);
    let mut agent = node.start_agent();
    assert_eq!(node.ask(TAKEN).unwrap(), "web-0");
    node.put("cart.yaml", &[bad, slice.clone()]);
    eventually("the input error", || {
        let input_errors = node.wrong("invalidObjects");
        let stays = "what is programmed for it stays";
        let reported = input_errors.iter().any(|input_error| input_error.ends_with(stays));
        holds(reported, format!("{input_errors:?}"))
    });
    let owner = [objects::web_service("owner", TAKEN), objects::slice("owner", &[second])];
    node.put("owner.yaml", &owner);
    let who = |address: &str| node.ask(address).map_err(|error| error.to_string());
    eventually("the owner of the address to have it", || {
        let who = who(TAKEN)?;
        holds(who == "web-1", who)
    });
    assert_eq!(who(CART).unwrap(), "web-0", "its own address stays");
    assert_eq!(waiting_for_address(&node), 0);
    assert!(node.look(&["check"]).status.success());
    // The same holds for the next agent.
    agent.stop().unwrap();
    let _agent = node.start_agent();
    assert_eq!([TAKEN, CART].map(|address| who(address).unwrap()), ["web-1", "web-0"]);
    // An external IP does not replace retained ports.
    let mut other = objects::web_service("other", "10.96.0.51");
    other["spec"]["externalIPs"] = json!([CART]);
    node.put("other.yaml", &[other, objects::slice("other", &[second])]);
    node.eventually_served("10.96.0.51");
    assert_eq!(who(CART).unwrap(), "web-0");
    eventually("status to tell it", || {
        holds(waiting_for_address(&node) == 1, waiting_for_address(&node))
    });
    node.remove("other.yaml");
    eventually("status to tell it", || {
        holds(waiting_for_address(&node) == 0, waiting_for_address(&node))
    });
    // When the owner is deleted and all objects can be read, it gets the address.
    node.remove("owner.yaml");
    node.eventually_untouched(TAKEN);
    node.put("cart.yaml", &[squatter, slice]);
    node.eventually_served(TAKEN);
}

#[test]
fn a_deleted_service_is_removed_although_an_unusable_slice_of_it_stays() {
    let mut slice = cart_slice();
    slice["addressType"] = json!("IPv5");
    let (service, bad) = ([cart(), cart_slice()], slice);
    let node = node(1);
    node.put("cart.yaml", &service);
    let _agent = node.start_agent();
    node.put("cart.yaml", &[cart(), bad.clone()]);
    eventually("the input error", || {
        let input_errors = node.wrong("invalidObjects");
        let stays = "what is programmed for Service shop/cart stays";
        let reported = input_errors.iter().any(|input_error| input_error.ends_with(stays));
        holds(reported, format!("{input_errors:?}"))
    });
    node.assert_served(CART);
    node.put("cart.yaml", &[bad]);
    node.eventually_untouched(CART);
    node.assert_served(SHIP);
}
