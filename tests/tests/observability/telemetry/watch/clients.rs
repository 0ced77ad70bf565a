//! Who connected: a pod, or a process of the node.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockline_testbed::Service;

use super::{
    super::{CountedWeb, V4, at},
    Watch,
};
use crate::common::{eventually, holds};

const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": UID},
        "spec": {"nodeName": "node-a"},
        "status": {"phase": "Running"},
    })
}

#[test]
fn a_pod_is_shown_by_its_name_also_at_the_end_of_what_it_opened() {
    let mut web = CountedWeb::new();
    web.cluster.apply_objects(vec![pod("frontend")]).unwrap();
    let cgroup = web.cluster.node().pod_cgroup(UID).unwrap();
    let container = cgroup.container(&web.client, "app").unwrap();
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
    // What was opened before anything watched has no client at its end.
    for event in own.expect(2) {
        let expected = json!({"namespace": "shop", "name": "frontend", "uid": UID});
        assert_eq!(event["client"]["pod"], expected, "{event:#}");
    }
    other.expect(0);
}

#[test]
fn a_pod_that_the_source_does_not_have_is_shown_by_its_uid() {
    let web = CountedWeb::new();
    let cgroup = web.cluster.node().pod_cgroup(UID).unwrap();
    let container = cgroup.container(&web.client, "app").unwrap();
    let watch = Watch::start(web.cluster.agent(), &[]);
    let _client = container.run(|| TcpStream::connect(at(V4)).unwrap());
    assert_eq!(watch.expect(1)[0]["client"]["pod"], json!({"uid": UID}));
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
    failed.expect(0);
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
    watch.expect(2);
}
