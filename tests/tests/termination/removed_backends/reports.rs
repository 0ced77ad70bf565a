//! What is closed, what cannot be closed and what cannot be seen is reported.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use sockline_ebpf::socket::{OverflowEntry, SocketRecord};
use sockline_testbed::{AgentOptions, DnsPods, at, kernel_version, mapped, sockline_binary};

use super::{
    CLOSE_ON_REMOVAL, Closing as _, V4, V6, ask, closes_tcp, connected, echo, eventually_aborted,
    eventually_closed, overflow, stream, with_service,
};
use crate::common::{REPAIRS, WebNode, eventually, eventually_logged, holds, options};

#[test]
fn a_warning_of_namespaces_that_cannot_be_seen_ends_with_its_cause() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    // The helper may not pass folders of others, where a network namespace is mounted twice; only the
    // agent's own mounts have it.
    let folder = node.temp().join("others");
    fs::create_dir(&folder).unwrap();
    let points = ["one", "two"].map(|name| folder.join(name));
    points.iter().for_each(|point| fs::write(point, "").unwrap());
    let nobody = Some(65534);
    std::os::unix::fs::chown(&folder, nobody, nobody).unwrap();
    let close = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    close(0o700);
    let wrapper = node.temp().join("sockline-beside-others");
    let [one, two] = points.each_ref().map(|point| point.display());
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --pid --fork --kill-child --mount-proc sh -c '\
         unshare --net={one} true && mount --bind {one} {two} && exec {} \"$@\"' sh \"$@\"\n",
        sockline_binary().unwrap().display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let args = [&["--without-features", "compare-and-swap"], &REPAIRS[..]].concat();
    let beside = AgentOptions { binary: Some(wrapper), ..options(&args) };
    let mut agent = node.agent(&beside).unwrap();
    let mut overflow = overflow(node.bpffs());
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    // A socket that is in no namespace, so that the helper looks in all of them.
    let record = SocketRecord { generation: u32::MAX, ..SocketRecord::default() };
    let stale = OverflowEntry { owner: 1 << 60, record, ..OverflowEntry::default() };
    overflow.insert(stale.owner, stale, 0).unwrap();
    let unseen = || node.status()["agent"]["termination"]["unsearched"].clone();
    eventually("the warning", || {
        let seen = unseen();
        let text = seen.as_str().unwrap_or_default();
        let holds_both =
            text.contains("Permission denied") && text.contains("those of 2 processes");
        holds(holds_both, seen.clone())
    });
    assert_eq!(overflow.keys().count(), 2, "not forgotten, as it may be there");
    close(0o755);
    eventually("the warning to go", || holds(unseen().is_null(), unseen()));
    eventually_logged(&agent, "can be entered again", 1);
    let log = agent.log();
    assert_eq!(crate::common::lines_with(&log, "cannot enter all network").len(), 1, "{log}");
    assert_eq!(crate::common::lines_with(&log, "can be entered again").len(), 1, "{log}");
    assert_eq!(ask(&client), "web-0");
    // `unshare` does not forward signals.
    agent.kill().unwrap();
}

#[test]
fn status_and_the_log_say_what_was_closed() {
    let mut setup = with_service(1, &[]);
    let (client, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&client);
    let closing = eventually("status to count it", || {
        let closing = setup.cluster.status().unwrap()["agent"]["termination"].clone();
        if closing["udpSocketsClosed"] == 1 { Ok(closing) } else { Err(closing) }
    });
    assert_eq!(closing["method"], "sock-destroy", "{closing:#}");
    assert!(closing["helper"]["pid"].is_u64(), "{closing:#}");
    assert_eq!(closing["unsearched"], Value::Null, "{closing:#}");
    eventually_logged(setup.cluster.agent(), "default/dns (1)", 1);
    let log = setup.cluster.agent().log();
    assert_eq!(crate::common::lines_with(&log, "default/dns (1)").len(), 1, "{log}");
}

#[test]
fn without_sock_destroy_iterators_close_them() {
    let mut setup = with_service(2, &["--without-features", "sock-destroy"]);
    let closing = setup.cluster.status().unwrap()["agent"]["termination"].clone();
    // `bpf_sock_destroy` exists since Linux 6.5.
    let method = if kernel_version().unwrap() >= (6, 5) { "iterator".into() } else { Value::Null };
    assert_eq!(closing["method"], method, "{closing:#}");
    if method.is_null() || !closes_tcp(&setup.cluster) {
        return;
    }
    let other = setup.cluster.pod("other").unwrap();
    let annotated = DnsPods::service().annotate(CLOSE_ON_REMOVAL, "0s");
    for to in [at(V4), at(V6), mapped(at(V4))] {
        setup.cluster.apply([annotated.clone().endpoints(&setup.pods)]).unwrap();
        let (client, first) = connected(&setup.client, to);
        let mut streams = [stream(&other, to), stream(&other, to), stream(&other, to)];
        let pod = setup.pods.iter().find(|pod| pod.name() == first).unwrap();
        let direct = SocketAddr::new(pod.addresses()[0], 5353);
        let (stranger, _) = connected(&setup.client, direct);
        let rest = setup.without(&first);
        setup.cluster.apply([annotated.clone().endpoints(rest)]).unwrap();
        eventually_closed(&client);
        for (open, who) in &mut streams {
            if *who == first {
                eventually_aborted(open);
            } else {
                echo(open).unwrap();
            }
        }
        assert_eq!(ask(&stranger), first);
    }
}

#[test]
fn without_both_ways_to_close_sockets_stay_open_and_that_is_reported() {
    let mut setup = with_service(1, &["--without-features", "sock-destroy,sock-iterator"]);
    let (client, first) = connected(&setup.client, at(V4));
    setup.remove(&first);
    let status = setup.cluster.status().unwrap();
    assert_eq!(status["agent"]["termination"]["method"], Value::Null, "{status:#}");
    let table = setup.cluster.agent().cli(&["status"]).unwrap();
    assert!(table.contains("NOT possible with this kernel"), "{table}");
    let log = setup.cluster.agent().log();
    assert_eq!(crate::common::lines_with(&log, "this kernel closes no sockets").len(), 1, "{log}");
    assert_eq!(ask(&client), first);
}
