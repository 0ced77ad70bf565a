//! `/readyz` follows the links.

use std::fs;

use super::check;
use crate::common::{REPAIRS, WebNode, damage::Damage, eventually, holds};

#[test]
fn readiness_is_lost_with_the_links_and_returns_with_them() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let links = Damage::of(&node).pins().links();
    assert_eq!(agent.get("/readyz").unwrap().body, "ok\n");
    // Repeatedly, because the agent repairs it every second.
    eventually("503", || {
        let _ = fs::remove_file(links.join("connect4"));
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, &reply.body).map(|()| {
            assert_eq!(reply.body, "connect4 not attached\n");
        })
    });
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    eventually("200", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, &reply.body)
    });
    check(&node).assert("links.attached", "ok", "");
}

#[test]
fn readiness_is_lost_when_the_program_of_a_link_is_replaced() {
    let (node, agent) = WebNode::serving(1, &["--reconcile-interval", "3600s"]);
    let pins = Damage::of(&node);
    let links = pins.pins().links();
    // The link of the other hook under the name of this one.
    fs::remove_file(links.join("connect4")).unwrap();
    fs::rename(links.join("sendmsg4"), links.join("connect4")).unwrap();
    eventually("503", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, &reply.body).map(|()| {
            assert_eq!(
                reply.body,
                "connect4 attached with a program that is not the agent's; sendmsg4 not attached\n"
            );
        })
    });
    let words = "connect4 attached with a program that is not the agent's";
    check(&node).assert("links.attached", "failed", words);
}
