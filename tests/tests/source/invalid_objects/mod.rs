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

/// Waits for these input errors, then checks that each is in the log once and that `ship` is served.
#[track_caller]
fn assert_told(node: &WebNode, agent: &Agent, input_errors: &[&str]) {
    node.eventually_input_errors(input_errors);
    for input_error in input_errors {
        assert_logged_once(agent, input_error);
    }
    node.assert_served(SHIP);
}

/// Starts an agent with these objects in `cart.yaml` and expects these input errors.
#[track_caller]
fn with_cart(cart: &[Value], input_errors: &[&str]) -> (WebNode, Agent) {
    let node = node(1);
    node.put("cart.yaml", cart);
    let agent = node.start_agent();
    assert_told(&node, &agent, input_errors);
    (node, agent)
}

fn cart() -> Value {
    objects::web_service("cart", CART)
}

fn cart_slice() -> Value {
    objects::slice("cart", &[ip("10.244.1.1")])
}
