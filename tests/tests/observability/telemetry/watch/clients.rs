//! Who connected: a pod, or a process of the node.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockline_testbed::{Service, objects::Pod};

use super::{
    super::{CountedWeb, V4, at},
    Watch,
};
use crate::common::{Lines, eventually, holds};

const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

const OTHER_UID: &str = "7d1f6a52-2f0b-4b7c-9a57-0c1f4d7f2b20";

/// A pod of the Deployment `frontend`.
fn pod(name: &str, uid: &str) -> Pod {
    let pod = Pod::new(&format!("shop/{name}")).uid(uid).label("pod-template-hash", "7d4b9c");
    pod.owner("apps/v1", "ReplicaSet", "frontend-7d4b9c")
}

#[test]
fn a_pod_is_shown_by_its_name_also_at_the_end_of_what_it_opened() {
    let mut web = CountedWeb::new();
    let pods = vec![pod("frontend", UID).object(), pod("other", OTHER_UID).object()];
    web.cluster.apply_objects(pods).unwrap();
    let cgroup = web.cluster.node().pod_cgroup(UID).unwrap();
    let container = cgroup.container(&web.client, "app").unwrap();
    let other_cgroup = web.cluster.node().pod_cgroup(OTHER_UID).unwrap();
    let other_container = other_cgroup.container(&web.client, "other").unwrap();
    let before = container.run(|| TcpStream::connect(at(V4)).unwrap());
    let _accepted = web.listener.accept().unwrap();
    let all = Watch::start(web.cluster.agent(), &[]);
    let own = Watch::start(web.cluster.agent(), &["--pod", "shop/frontend"]);
    let other = Watch::start(web.cluster.agent(), &["--pod", "shop/other"]);
    let client = container.run(|| TcpStream::connect(at(V4)).unwrap());
    // This thread closes them, which is in no pod.
    drop((before, client));
    drop(web.connection(at(V4)));
    all.expect(5);
    // One was opened before anything watched.
    for event in own.expect(3) {
        let expected = json!({"namespace": "shop", "name": "frontend", "uid": UID});
        assert_eq!(event["client"]["pod"], expected, "{event:#}");
        let expected = json!({"namespace": "shop", "kind": "Deployment", "name": "frontend"});
        assert_eq!(event["client"]["workload"], expected, "{event:#}");
    }
    // The first events of the other pod are its own, which come last.
    drop(other_container.run(|| TcpStream::connect(at(V4)).unwrap()));
    for event in other.expect(2) {
        assert_eq!(event["client"]["pod"]["name"], "other", "{event:#}");
    }
    all.expect(7);
    assert_eq!(own.events().len(), 3, "{:#?}", own.events());
}

#[test]
fn a_pod_that_the_source_does_not_have_is_shown_by_its_uid() {
    let web = CountedWeb::new();
    let cgroup = web.cluster.node().pod_cgroup(UID).unwrap();
    let container = cgroup.container(&web.client, "app").unwrap();
    let watch = Watch::start(web.cluster.agent(), &[]);
    let _client = container.run(|| TcpStream::connect(at(V4)).unwrap());
    let event = watch.expect(1).remove(0);
    assert_eq!(event["client"]["pod"], json!({"uid": UID}));
    assert_eq!(event["client"]["workload"], Value::Null);
    let _client = web.client.run(|| TcpStream::connect(at(V4)).unwrap());
    let event = watch.expect(2).remove(1);
    assert_eq!(event["client"]["pod"], Value::Null);
    // The test's own process, wherever it runs.
    let kind = event["client"]["workload"]["kind"].as_str().unwrap();
    assert!(["SystemdService", "Node"].contains(&kind), "{event:#}");
}

#[test]
fn a_filter_shows_one_service_only() {
    let mut web = CountedWeb::new();
    let other = Service::new("other").ip("10.96.0.2").tcp(80).to(8080).endpoints([&web.web]);
    web.cluster.apply([other]).unwrap();
    let watch = Watch::start(web.cluster.agent(), &["--service", "default/other"]);
    for to in [V4, "10.96.0.2:80", V4] {
        drop(web.connection(at(to)));
    }
    for event in watch.expect(2) {
        assert_eq!(event["service"], json!({"namespace": "default", "name": "other"}));
    }
    let failed = Watch::start(web.cluster.agent(), &["--failed"]);
    drop(web.connection(at(V4)));
    // Nothing listens there. This comes after the connection that did not fail.
    let dead = Service::new("dead").ip("10.96.0.3").tcp(80).to(9999).endpoints([&web.web]);
    web.cluster.apply([dead]).unwrap();
    web.client.run(|| TcpStream::connect(at("10.96.0.3:80"))).unwrap_err();
    let events = failed.expect(1);
    assert_eq!(events[0]["service"]["name"], "dead", "{events:#?}");
    // And that is none of the other service.
    assert_eq!(watch.events().len(), 2, "{:#?}", watch.events());
}

#[test]
fn a_pod_that_is_not_on_this_node_is_reported_and_shown_once_it_is() {
    let mut web = CountedWeb::new();
    let far =
        |node: &str| vec![pod("frontend", UID).object(), pod("far", OTHER_UID).node(node).object()];
    web.cluster.apply_objects(far("node-b")).unwrap();
    let known = Watch::start(web.cluster.agent(), &["--pod", "shop/frontend"]);
    let mut later = Watch::start(web.cluster.agent(), &["--pod", "shop/far"]);
    let expected = "Pod shop/far: not known to this node's agent, which sees connections of this node's pods; events will be shown once it runs here";
    let said = Lines::of(later.child.stderr.take().unwrap());
    assert_eq!(said.next(), expected);
    web.cluster.apply_objects(far("node-a")).unwrap();
    for uid in [UID, OTHER_UID] {
        let cgroup = web.cluster.node().pod_cgroup(uid).unwrap();
        let container = cgroup.container(&web.client, "app").unwrap();
        drop(container.run(|| TcpStream::connect(at(V4)).unwrap()));
    }
    later.expect(2);
    known.expect(2);
    assert_eq!(known.interrupt().1, "");
}

#[test]
fn a_service_that_the_agent_does_not_know_is_reported_and_shown_once_it_exists() {
    let mut web = CountedWeb::new();
    let known = Watch::start(web.cluster.agent(), &["--service", "default/web"]);
    let mut later = Watch::start(web.cluster.agent(), &["--service", "default/later"]);
    let errors = Arc::new(Mutex::new(String::new()));
    let (pipe, said) = (later.child.stderr.take().unwrap(), Arc::clone(&errors));
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            said.lock().unwrap().push_str(&line);
        }
    });
    let expected = "Service default/later: not known to this node's agent; events will be shown once it exists";
    eventually("the warning", || {
        let said = errors.lock().unwrap().clone();
        holds(said == expected, said)
    });
    let service = Service::new("later").ip("10.96.0.2").tcp(80).to(8080).endpoints([&web.web]);
    web.cluster.apply([service]).unwrap();
    for to in [V4, "10.96.0.2:80"] {
        drop(web.connection(at(to)));
    }
    later.expect(2);
    known.expect(2);
    assert_eq!(known.interrupt().1, "");
    later.signal(Signal::SIGINT);
    reader.join().unwrap();
    assert_eq!(*errors.lock().unwrap(), expected);
}

#[test]
fn a_connection_whose_service_and_endpoint_were_removed_still_has_its_names() {
    let mut web = CountedWeb::new();
    let watch = Watch::start(web.cluster.agent(), &[]);
    let (client, _server) = web.connection(at(V4));
    watch.expect(1);
    web.cluster.remove("web").unwrap();
    drop(client);
    let events = watch.expect(2);
    assert_eq!(events[1]["event"], "closed");
    for field in ["service", "portName", "endpoint"] {
        assert_eq!(events[1][field], events[0][field], "{field}");
    }
    eventually("the service to be gone", || {
        let untouched = web.client.run(|| TcpStream::connect(at(V4)));
        holds(untouched.is_err(), format!("{untouched:?}"))
    });
    // The next events are those of another service.
    let heir = Service::new("heir").ip("10.96.0.2").tcp(80).to(8080).endpoints([&web.web]);
    web.cluster.apply([heir]).unwrap();
    drop(web.connection(at("10.96.0.2:80")));
    for event in &watch.expect(4)[2..] {
        assert_eq!(event["service"]["name"], "heir", "{event:#}");
    }
}
