//! Sockets whose records are beyond the socket table are closed as the others are, and leave nothing behind.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::json;
use sockline_ebpf::socket::{OverflowEntry, SocketRecord, WAYS};
use sockline_testbed::{
    AgentOptions, DnsPods, Metrics, Service, UdpClient, at, mapped, objects, sockline_binary,
};

use super::{
    CLOSE_ON_REMOVAL, Closing as _, V4, V6, ask, assert_tcp_is_closed, closes_tcp, connected,
    eventually_closed, overflow, searches_tcp, stream, with_service, without_service,
};
use crate::common::{CART, REPAIRS, WebNode, eventually, holds, ip, options};

#[test]
fn sockets_with_records_beyond_the_table_are_closed() {
    let mut setup = with_service(2, &["--without-features", "compare-and-swap"]);
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let (client, first) = connected(&setup.client, to);
        setup.remove(&first);
        eventually_closed(&client);
        setup.cluster.apply([DnsPods::service().endpoints(&setup.pods)]).unwrap();
    }
    setup.eventually_counted("UDP", 3.0);
}

#[test]
fn tcp_connections_with_records_beyond_the_table_are_closed() {
    let mut setup = with_service(1, &["--without-features", "compare-and-swap"]);
    if !closes_tcp(&setup.cluster) {
        return;
    }
    let service = || DnsPods::service().annotate(CLOSE_ON_REMOVAL, "0s");
    for to in [at(V4), at(V6), mapped(at(V4))] {
        assert_tcp_is_closed(&mut setup, &service, to);
    }
    setup.eventually_counted("TCP", 3.0);
    assert_eq!(setup.closed("UDP"), 0.0);
}

#[test]
fn a_record_beyond_the_table_ends_with_its_socket() {
    let setup = with_service(2, &["--without-features", "compare-and-swap"]);
    let overflow = overflow(setup.cluster.node().bpffs());
    let udp = [at(V4), at(V6), mapped(at(V4))].map(|to| connected(&setup.client, to).0);
    let tcp = [at(V4), at(V6), mapped(at(V4))].map(|to| stream(&setup.client, to).0);
    let unconnected = setup.client.run(|| UdpClient::unconnected(at(V4).ip()).unwrap());
    setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    // Those of TCP sockets are in socket storage where the kernel's own sockets are not known.
    let records = if closes_tcp(&setup.cluster) { 7 } else { 4 };
    assert_eq!(overflow.keys().count(), records);
    // A socket has one entry, however often it connects.
    setup.client.run(|| udp[0].socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), records);
    drop((udp, tcp, unconnected));
    eventually("all entries to be gone", || {
        let left = overflow.keys().count();
        holds(left == 0, format!("{left} are left"))
    });
}

#[test]
fn a_record_beyond_the_table_without_a_socket_is_removed() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let args = [&["--without-features", "compare-and-swap"], &REPAIRS[..]].concat();
    let all_seeing = AgentOptions { binary: all_seeing(&node), ..options(&args) };
    let mut agent = node.agent(&all_seeing).unwrap();
    let mut overflow = overflow(node.bpffs());
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    // As if its socket had been closed while other programs were attached. Its backend never existed.
    let record = SocketRecord { generation: u32::MAX, ..SocketRecord::default() };
    let stale = OverflowEntry { owner: 1 << 60, record, ..OverflowEntry::default() };
    overflow.insert(stale.owner, stale, 0).unwrap();
    eventually("the stale entry to be gone", || {
        let left = overflow.keys().count();
        holds(left == 1, format!("{left} are left"))
    });
    assert_eq!(ask(&client), "web-0");
    // `unshare` does not forward signals.
    agent.kill().unwrap();
}

/// Its application may still have the socket: one that was closed by the agent, or reset, is in no list of the kernel.
#[test]
fn a_connection_whose_record_is_removed_counts_as_untracked() {
    let node = WebNode::new(1);
    let mut service = objects::service("cart", CART);
    service["metadata"]["annotations"] = json!({CLOSE_ON_REMOVAL: "0s"});
    let with = |addresses: &[_]| [service.clone(), objects::slice("cart", addresses)];
    node.put("cart.yaml", &with(&node.web_addresses()));
    let args = [&["--without-features", "compare-and-swap"], &REPAIRS[..]].concat();
    // It does not see the client's network namespace, and does not know that: it finds the socket nowhere.
    let alone = AgentOptions { binary: Some(alone(&node)), ..options(&args) };
    let mut agent = node.agent(&alone).unwrap();
    if !searches_tcp(&node.status()) {
        return;
    }
    let overflow = overflow(node.bpffs());
    let (client, _) = stream(&node.client, SocketAddr::new(ip(CART), 80));
    assert_eq!(overflow.keys().count(), 1);
    node.put("cart.yaml", &with(&[]));
    eventually("the record to be removed", || {
        let left = overflow.keys().count();
        holds(left == 0, format!("{left} are left: {}", agent.log()))
    });
    let counted = || {
        let metrics = Metrics::parse(&agent.metrics().unwrap());
        let of = |name: &str| {
            let of_service = [("service", "cart"), ("protocol", "TCP")];
            metrics.sum(&format!("sockline_connections_{name}"), &of_service)
        };
        let counts = ["opened_total", "active", "closed_total", "untracked_total"].map(of);
        holds(counts == [1.0, 0.0, 0.0, 1.0], format!("{counts:?}"))
    };
    eventually("the connection to be untracked", counted);
    drop(client);
    counted().unwrap();
    // `unshare` does not forward signals.
    agent.kill().unwrap();
}

/// An agent that can look into every network namespace that it knows of. Where the machine hides some of its
/// processes, it has its own process namespace.
fn all_seeing(node: &WebNode) -> Option<PathBuf> {
    fs::metadata("/proc/1/ns/net").is_err().then(|| alone(node))
}

/// Runs the agent in a process namespace of its own.
fn alone(node: &WebNode) -> PathBuf {
    let wrapper = node.temp().join("sockline-alone");
    let script = format!(
        "#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc {} \"$@\"\n",
        sockline_binary().unwrap().display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    wrapper
}

/// An unconnected socket with as many conversations as fill the set of the table that its cookie leads
/// to: each with another service and another port of the pods, from [`CROWD`] on, where no pod answers.
fn crowded(setup: &mut DnsPods) -> UdpClient {
    let address = |n: u16| format!("10.96.1.{n}");
    let ways = u16::try_from(WAYS).unwrap();
    let services = (0..ways).map(|n| {
        let service = Service::new(&format!("svc-{n}")).ip(&address(n)).udp(53);
        service.to(CROWD + n).endpoints(&setup.pods)
    });
    let services: Vec<Service> =
        services.chain([DnsPods::service().endpoints(&setup.pods)]).collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        for n in 0..ways {
            client.socket().send_to(b"?", at(&format!("{}:53", address(n)))).unwrap();
        }
        client
    })
}

const CROWD: u16 = 6000;

#[test]
fn a_socket_whose_set_of_the_table_was_full_is_closed() {
    let mut setup = without_service(2, &[]);
    let client = crowded(&mut setup);
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow(setup.cluster.node().bpffs()).keys().count(), 1);
    let first = ask(&client);
    setup.remove(&first);
    eventually_closed(&client);
}

#[test]
fn a_socket_that_moves_into_the_table_has_no_other_record() {
    let mut setup = without_service(1, &[]);
    let client = crowded(&mut setup);
    if !setup.cluster.features().unwrap().compare_and_swap {
        return;
    }
    let overflow = overflow(setup.cluster.node().bpffs());
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), 1);
    // A datagram straight to the pod ends the conversation with it.
    let direct = SocketAddr::new(setup.pods[0].addresses()[0], CROWD);
    setup.client.run(|| client.socket().send_to(b"?", direct).unwrap());
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(overflow.keys().count(), 0);
    let first = ask(&client);
    setup.remove(&first);
    eventually_closed(&client);
    setup.eventually_counted("UDP", 1.0);
}
