//! Files and kinds that cannot be read.

use serde_json::json;
use sockline_testbed::objects;

use super::{assert_told, cart, cart_slice, node, with_cart};
use crate::common::{CART, assert_logged_once, eventually, holds};

#[test]
fn a_file_that_is_not_yaml_costs_only_itself() {
    let node = node(1);
    node.put_text("bad.yaml", "kind: Service\nmetadata: {name: [\n");
    let agent = node.start_agent();
    let input_error =
        eventually("an input error", || node.wrong("invalidObjects").pop().ok_or("none yet"));
    assert!(
        input_error.starts_with("file bad.yaml, document 1: does not parse: "),
        "{input_error}"
    );
    assert!(!input_error.contains('\n'), "more than one line: {input_error}");
    assert_told(&node, &agent, &[&input_error]);
}

#[test]
fn a_document_that_does_not_parse_does_not_affect_the_others_of_its_file() {
    let node = node(1);
    let broken = objects::file::yaml(&[cart()])
        + "---\nkind: Service\nmetadata: {name: [\n"
        + &objects::file::yaml(&[cart_slice()]);
    node.put_text("cart.yaml", &broken);
    let _agent = node.start_agent();
    node.eventually_served(CART);
}

#[test]
fn a_file_that_becomes_broken_keeps_its_services() {
    let node = node(1);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    let agent = node.start_agent();
    node.put_text("cart.yaml", "kind: [\n");
    let kept = "file cart.yaml: is not whole; 2 of its objects are kept as they were";
    eventually("the input error", || {
        let input_errors = node.wrong("invalidObjects");
        holds(
            input_errors.iter().any(|input_error| input_error == kept),
            format!("{input_errors:#?}"),
        )
    });
    assert_logged_once(&agent, kept);
    node.assert_served(CART);
    node.put("cart.yaml", &[cart(), cart_slice()]);
    node.eventually_no_input_errors();
    node.assert_served(CART);
}

#[test]
fn an_unused_kind_is_reported() {
    with_cart(
        &[json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}})],
        &["file cart.yaml, document 1: kind: Deployment (apps/v1) is not used here; ignored"],
    );
}
