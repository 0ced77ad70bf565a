//! Hooks that are detached, on another cgroup, or beside programs of others.

use std::fs;

use super::{assert_live_works, check, live, make_threaded, on_an_inner_cgroup, serving};
use crate::common::{CART, damage::Damage, eventually, foreign, holds};

#[test]
fn a_detached_hook_fails_and_its_connects_with_it() {
    let (node, _agent) = serving();
    // Repeatedly, because the agent repairs links once after its first sync.
    eventually("the hook to be gone", || {
        Damage::of(&node).detach("connect4");
        node.untouched(CART)
    });
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("links.attached", "failed", "connect4 detached");
    report.assert("links.attached", "failed", "attaches them again");
    for connect in live(&["tcp-ipv4", "udp-ipv4", "refusal-ipv4"]) {
        report.assert(&connect, "failed", "198.51.100.");
    }
    for connect in live(&["tcp-ipv6", "udp-ipv6", "untouched-ipv4"]) {
        report.assert(&connect, "ok", "");
    }
}

#[test]
fn a_hook_that_hides_the_service_behind_its_backend_fails() {
    let (node, _agent) = serving();
    // Repeatedly, because the agent repairs links once after its first sync.
    eventually("the hooks to be gone", || {
        for link in ["getpeername4", "recvmsg6"] {
            Damage::of(&node).detach(link);
        }
        let report = check(&node);
        holds(report.all("failed").len() >= 7, format!("{:#?}", report.results))
    });
    let report = check(&node);
    report.assert("links.attached", "failed", "getpeername4, recvmsg6 detached");
    for connect in live(&["tcp-ipv4", "udp-ipv4"]) {
        report.assert(&connect, "failed", "returns 127.0.0.1:");
    }
    for connect in live(&["udp-ipv6"]) {
        report.assert(&connect, "failed", "recvfrom() returns [::1]:");
    }
}

#[test]
fn links_on_a_recreated_cgroup_fail() {
    let (node, agent, inner) = on_an_inner_cgroup();
    fs::remove_dir(&inner).unwrap();
    make_threaded(&inner);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    // A worker of the kernel releases the old cgroup.
    report.assert("links.attached", "failed", "all hooks ");
    report.assert("links.attached", "failed", " cgroup");
    report.assert("live.fresh-cgroup.tcp-ipv4", "failed", "connect() to");
    // The result of checking the links is cached for two seconds.
    eventually("503", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 503, reply.body)
    });
    drop(agent);
    fs::remove_dir(&inner).unwrap();
}

#[test]
fn a_program_of_another_owner_that_refuses_is_detected_and_named() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "cil_sock4_conne", foreign::REFUSE);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    let words = "cil_sock4_conne (Cilium's socket load balancer) on connect4";
    report.assert("links.foreign", "warning", words);
    for connect in live(&["tcp-ipv4", "udp-ipv4", "untouched-ipv4"]) {
        report.assert(&connect, "failed", "a program on the hook refuses it");
    }
    for connect in live(&["tcp-ipv6", "udp-ipv6"]) {
        report.assert(&connect, "ok", "");
    }
}

#[test]
fn a_program_of_another_owner_that_redirects_is_detected() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "calico_connect_", foreign::REDIRECT);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("links.foreign", "warning", "calico_connect_ (Calico's connect-time");
    for connect in live(&["tcp-ipv4", "udp-ipv4", "untouched-ipv4"]) {
        report.assert(&connect, "failed", "Connection refused");
    }
}

#[test]
fn a_harmless_program_of_another_owner_is_a_warning() {
    let (node, _agent) = serving();
    foreign::attach_connect4(node.cgroup(), "monitor", foreign::ALLOW);
    let report = check(&node);
    assert_eq!(report.exit, 0, "{:#?}", report.results);
    report.assert("links.foreign", "warning", "monitor on connect4");
    assert_eq!(report.all("warning"), ["links.foreign"]);
    assert_live_works(&report);
}
