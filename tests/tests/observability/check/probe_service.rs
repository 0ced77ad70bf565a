//! The service that a check makes for itself: in no listing, limited in number, and gone when the check is.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use sockline_testbed::{DEADLINE, patience, sockline_binary};

use super::{Report, SHIP, assert_live_works, check, serving};
use crate::common::{CART, REPAIRS, WebNode, damage::Damage, eventually, holds, series};

#[test]
fn checks_may_run_in_parallel() {
    let (node, _agent) = serving();
    let running: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = Command::new(sockline_binary().unwrap());
            command
                .args(["check", "-o", "json", "--cgroup-root"])
                .arg(node.cgroup())
                .arg("--bpf-root")
                .arg(node.bpffs())
                .arg("--admin-socket")
                .arg(node.temp().join("admin.sock"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            node.outside().child(&mut command).unwrap()
        })
        .collect();
    let reports = running.into_iter().map(|child| Report::of(&child.wait_with_output().unwrap()));
    for report in reports {
        report.assert_all_ok();
    }
}

/// A client of the admin socket that has a probe service, as a check that hangs would.
struct Lease(BufReader<UnixStream>);

impl Lease {
    fn take(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(patience(DEADLINE))).unwrap();
        let body = r#"{"apiVersion": "sockline.dev/v1", "kind": "ProbeListeners",
            "tcp4": 1, "udp4": 2, "tcp6": 3, "udp6": 4}"#;
        let length = body.len();
        write!(
            stream,
            "POST /probe-service HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut this = Self(BufReader::new(stream));
        while !this.line().starts_with("{\"apiVersion\":") {}
        this
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the agent closed the connection");
        line
    }
}

/// Frontends of `cart` (two), and those of one probe service.
const OWN: usize = 2;
const OF_TEST: usize = 6;

fn frontends(node: &WebNode) -> usize {
    Damage::of(node).frontends().keys().count()
}

#[track_caller]
fn eventually_frontends(node: &WebNode, count: usize) {
    eventually(&format!("{count} frontends"), || {
        let seen = frontends(node);
        holds(seen == count, seen)
    });
}

#[test]
fn a_killed_check_leaves_nothing() {
    let (node, agent) = serving();
    let lease = Lease::take(agent.admin_socket());
    assert_eq!(frontends(&node), OWN + OF_TEST);
    drop(lease);
    eventually_frontends(&node, OWN);
    check(&node).assert_all_ok();
}

#[test]
fn a_check_that_hangs_loses_its_service_after_a_while() {
    let (node, agent) = serving();
    let mut lease = Lease::take(agent.admin_socket());
    while !lease.line().starts_with("over") {}
    eventually_frontends(&node, OWN);
}

#[test]
fn a_probe_service_that_does_not_fit_is_not_left_half() {
    let (node, _agent) = WebNode::serving(1, &["--max-frontends", "6"]);
    let report = check(&node);
    assert_eq!(report.all("failed"), ["live.service"], "{:#?}", report.results);
    assert_eq!(frontends(&node), OWN);
}

#[test]
fn the_probe_service_stays_over_syncs_and_repairs() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let _lease = Lease::take(agent.admin_socket());
    // A service at one of the node's addresses needs a sync of the whole plan.
    node.put_service("ship", "192.0.2.10");
    node.eventually_served("192.0.2.10");
    assert_eq!(frontends(&node), OWN + 2 + OF_TEST);
    let damage = Damage::of(&node);
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_frontends(&node, OWN + 2 + OF_TEST);
    check(&node).assert("maps.drift", "ok", "");
}

#[test]
fn the_probe_service_is_in_no_listing_and_no_metric() {
    let (node, agent) = serving();
    let _lease = Lease::take(agent.admin_socket());
    assert_eq!(node.services(), ["shop/cart"]);
    let listing = node.look(&["backends"]);
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(!listing.contains("check"), "{listing}");
    // A sync sets the gauges.
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let gauges = ["sockline_service_ports", "sockline_frontends", "sockline_backends"];
    eventually("the gauges to count two services of two ports each, and nothing else", || {
        let metrics = agent.metrics().unwrap();
        let seen = gauges.map(|name| series(&metrics, name));
        holds(seen == [Some(4.0); 3], format!("{seen:?}"))
    });
    assert_eq!(frontends(&node), OWN + 2 + OF_TEST, "the probe service is still there");
    let metrics = agent.metrics().unwrap();
    assert_eq!(crate::common::lines_with(&metrics, "check/"), [""; 0]);
}

#[test]
fn at_most_eight_checks_have_a_service() {
    let (node, agent) = serving();
    let leases: Vec<Lease> = (0..8).map(|_| Lease::take(agent.admin_socket())).collect();
    check(&node).assert("live.service", "failed", "8 checks run already");
    drop(leases);
    eventually_frontends(&node, OWN);
}

#[test]
fn the_next_agent_removes_what_a_killed_agent_left_of_a_check() {
    let (node, mut agent) = serving();
    let lease = Lease::take(agent.admin_socket());
    agent.kill().unwrap();
    drop(lease);
    assert_eq!(frontends(&node), OWN + OF_TEST);
    let _next = node.start_agent();
    eventually_frontends(&node, OWN);
    node.assert_served(CART);
}

#[test]
fn the_next_check_removes_what_a_killed_agent_left_of_a_check() {
    let (node, mut agent) = serving();
    let _lease = Lease::take(agent.admin_socket());
    agent.kill().unwrap();
    let report = check(&node);
    report.assert("live.service", "ok", "added by this command");
    assert_live_works(&report);
    assert_eq!(frontends(&node), OWN);
    node.assert_served(CART);
}
