//! An invalid object costs only itself and is reported once, by name; everything else stays served.

mod claims;
mod fields;
mod files;
mod folder;

use serde_json::Value;
use sockline_testbed::{Agent, objects};

use crate::common::{CART, WebNode, assert_logged_once, ip};

const SHIP: &str = "10.96.0.2";

/// `ship` is the service that must not be affected.
fn node(webs: usize) -> WebNode {
    let node = WebNode::new(webs);
    node.put_service("ship", SHIP);
    node
}

/// Waits for these problems, then checks that each is in the log once and that `ship` is served.
#[track_caller]
fn assert_told(node: &WebNode, agent: &Agent, problems: &[&str]) {
    node.eventually_problems(problems);
    for problem in problems {
        assert_logged_once(agent, problem);
    }
    node.assert_served(SHIP);
}

/// Starts an agent with these objects in `cart.yaml` and expects these problems.
#[track_caller]
fn with_cart(cart: &[Value], problems: &[&str]) -> (WebNode, Agent) {
    let node = node(1);
    node.put("cart.yaml", cart);
    let agent = node.start_agent();
    assert_told(&node, &agent, problems);
    (node, agent)
}

fn cart() -> Value {
    objects::web_service("cart", CART)
}

fn cart_slice() -> Value {
    objects::slice("cart", &[ip("10.244.1.1")])
}
