//! TCP connections stay open, unless their service limits how long.

use std::process::Command;

use serde_json::json;
use sockline_testbed::{DnsPods, Endpoint, Service, Socket, at, mapped, objects};

use super::{
    CLOSE_ON_REMOVAL, Closing as _, V4, V6, assert_tcp_is_closed, closes_tcp, connected, echo,
    eventually_aborted, eventually_closed, searches_tcp, stream, with_service, without_service,
};
use crate::common::{REPAIRS, WebNode, assert_logged_once, eventually, holds, series};

#[test]
fn tcp_connections_to_a_removed_endpoint_are_not_closed_by_default() {
    let mut setup = with_service(1, &[]);
    assert_stays_open(&mut setup);
    assert_eq!(setup.closed("TCP"), 0.0);
}

/// A TCP connection stays open though its endpoint is removed, for which a UDP socket is closed.
#[track_caller]
fn assert_stays_open(setup: &mut DnsPods) {
    let (mut open, first) = stream(&setup.client, at(V4));
    let (sign, _) = connected(&setup.client, at(V4));
    setup.remove(&first);
    eventually_closed(&sign);
    setup.wait_for_passes();
    echo(&mut open).unwrap();
}

#[test]
fn tcp_connections_are_closed_after_the_time_that_their_service_sets() {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let mut setup = with_service(1, &[]);
        if !closes_tcp(&setup.cluster) {
            return;
        }
        let service = || DnsPods::service().annotate(CLOSE_ON_REMOVAL, "300ms");
        assert_tcp_is_closed(&mut setup, &service, to);
        setup.eventually_counted("TCP", 1.0);
        assert_eq!(setup.closed("UDP"), 0.0);
    }
}

#[test]
fn where_records_of_tcp_sockets_cannot_be_searched_connections_stay_open() {
    let mut setup = with_service(1, &["--without-features", "kernel-sockets"]);
    let service = DnsPods::service().annotate(CLOSE_ON_REMOVAL, "0s").endpoints(&setup.pods);
    setup.cluster.apply([service]).unwrap();
    assert!(!closes_tcp(&setup.cluster));
    assert_stays_open(&mut setup);
}

#[test]
fn a_connect_that_hangs_on_a_removed_endpoint_is_closed() {
    let mut setup = without_service(1, &[]);
    let service = || DnsPods::service().annotate(CLOSE_ON_REMOVAL, "0s");
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    if !closes_tcp(&setup.cluster) {
        return;
    }
    // The pod has lost its address: packets for it are dropped.
    let pod = &setup.pods[0];
    let address = format!("{}/32", pod.addresses()[0]);
    let lost =
        pod.output(Command::new("ip").args(["addr", "del", &address, "dev", "eth0"])).unwrap();
    assert!(lost.status.success(), "{lost:?}");
    let connecting = setup
        .client
        .spawn(|| Socket::tcp(libc::AF_INET).unwrap().connect(at(V4)).unwrap_err())
        .unwrap();
    eventually("the connect to be on its way", || {
        let translated = setup.cluster.counts("dns", sockline_testbed::Protocol::Tcp).unwrap();
        holds(translated.translated == 1, format!("{translated:?}"))
    });
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    let error = connecting.join();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
}

#[test]
fn an_endpoint_that_comes_back_in_time_keeps_its_connections() {
    let mut setup = with_service(2, &[]);
    if !closes_tcp(&setup.cluster) {
        return;
    }
    // Longer than two changes take on a slow machine.
    let service = || DnsPods::service().annotate(CLOSE_ON_REMOVAL, "10s");
    setup.cluster.apply([service().endpoints(&setup.pods)]).unwrap();
    let to = |wanted: &str| loop {
        let (open, who) = stream(&setup.client, at(V4));
        if who == wanted {
            return open;
        }
    };
    let (mut comes_back, mut stays_away) = (to("dns-0"), to("dns-1"));
    setup.cluster.apply([service().endpoints(Vec::<Endpoint>::new())]).unwrap();
    setup.cluster.apply([service().endpoints([&setup.pods[0]])]).unwrap();
    // Both were removed at the same time.
    eventually_aborted(&mut stays_away);
    echo(&mut comes_back).unwrap();
}

#[test]
fn a_broken_annotation_is_one_input_error_and_costs_only_itself() {
    let mut setup = with_service(1, &[]);
    let service = DnsPods::service().annotate(CLOSE_ON_REMOVAL, "soon").endpoints(&setup.pods);
    setup.cluster.apply([service]).unwrap();
    let (mut open, _) = stream(&setup.client, at(V4));
    let input_error = "Service default/dns: metadata.annotations[sockline.dev/close-on-removal]: \
                   \"soon\" is not a duration of 0s to 24h like 30s or 1m30s; it is ignored";
    eventually("the input error to be shown", || {
        let status = setup.cluster.status().unwrap();
        let input_errors = crate::common::texts(&status["agent"]["invalidObjects"]);
        let of_service: Vec<&String> =
            input_errors.iter().filter(|input_error| input_error.contains("default/dns")).collect();
        holds(of_service == [input_error], format!("{input_errors:?}"))
    });
    assert_logged_once(setup.cluster.agent(), "close-on-removal");
    let (sign, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&sign);
    echo(&mut open).unwrap();
}

#[test]
fn the_sockets_of_a_deleted_service_are_closed_as_it_set() {
    let mut setup = with_service(1, &[]);
    if !closes_tcp(&setup.cluster) {
        return;
    }
    let other = Service::new("other").ip("10.96.0.11").tcp(53).to(5353).endpoints(&setup.pods);
    let said = DnsPods::service().annotate(CLOSE_ON_REMOVAL, "200ms").endpoints(&setup.pods);
    setup.cluster.apply([said, other]).unwrap();
    let (client, _) = connected(&setup.client, at(V4));
    let (mut open, _) = stream(&setup.client, at(V4));
    let (mut of_other, _) = stream(&setup.client, at("10.96.0.11:53"));
    setup.cluster.forget("other");
    setup.cluster.remove("dns").unwrap();
    eventually_closed(&client);
    eventually_aborted(&mut open);
    setup.wait_for_passes();
    echo(&mut of_other).unwrap();
}

#[test]
fn connections_of_a_deleted_service_are_closed_even_if_the_sync_fails_afterwards() {
    let node = WebNode::new(1);
    let mut service = objects::service("cart", "10.96.0.1");
    service["metadata"]["annotations"] = json!({ CLOSE_ON_REMOVAL: "0s" });
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    let agent = node.start_agent_with(&REPAIRS);
    if !searches_tcp(&node.status()) {
        return;
    }
    let (mut open, _) = stream(&node.client, at("10.96.0.1:80"));
    // A complete sync records its time in this map.
    crate::common::damage::Damage::of(&node).freeze("AGENT_RECORD");
    node.remove("cart.yaml");
    eventually_aborted(&mut open);
    // The status is published later than the maps are written.
    eventually("the failed write in the status", || {
        let failures = node.wrong("outOfSync");
        let is_there = failures.iter().any(|failure| failure.contains("AGENT_RECORD"));
        holds(is_there, format!("{failures:?}"))
    });
    assert!(series(&agent.metrics().unwrap(), "sockline_sync_errors_total") > Some(0.0));
}
