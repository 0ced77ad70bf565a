//! Endpoints that are not ready: `service.go`. Slices that a user makes: `endpointslice.go`.

use serde_json::{Value, json};
use sockline_testbed::Protocol::Tcp;

use crate::{
    controller,
    pods::Server,
    reach::{assert_reaches, assert_refused},
    stage::{Stage, port, service, service_of_type},
};

fn publish_not_ready(publish: bool) -> impl FnOnce(&mut Value) {
    move |service| service["spec"]["publishNotReadyAddresses"] = publish.into()
}

/// should create endpoints for unready pods
#[test]
fn should_create_endpoints_for_unready_pods() {
    let mut stage = Stage::new();
    let client = stage.client(0);
    let mut tolerant = service("tolerate-unready");
    publish_not_ready(true)(&mut tolerant);
    stage.create(tolerant);
    let to = stage.at("tolerate-unready", 80);
    let pod = "slow-terminating-unready-pod";
    stage.start(Server::new(pod, "tolerate-unready").tcp(80).unready());
    assert_reaches(&client, to, Tcp, &[pod]);
    stage.terminate(pod);
    stage.update("tolerate-unready", publish_not_ready(false));
    assert_refused(&client, to, Tcp);
    stage.update("tolerate-unready", publish_not_ready(true));
    assert_reaches(&client, to, Tcp, &[pod]);
    stage.stop(pod);
    assert_refused(&client, to, Tcp);
}

/// A NodePort service with a pod on node 0 that is terminating and not ready any more.
fn unready_and_terminating(publish: bool) -> Stage {
    let mut stage = Stage::of_two_nodes();
    let mut service = service_of_type("NodePort", "svc-unready");
    publish_not_ready(publish)(&mut service);
    stage.create(service);
    stage.start(Server::new("webserver-pod", "svc-unready").tcp(80));
    let client = stage.client(1);
    assert_reaches(&client, stage.at("svc-unready", 80), Tcp, &["webserver-pod"]);
    stage.mark("webserver-pod", |pod| (pod.terminating, pod.ready) = (true, false));
    stage
}

/// should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is
/// true
#[test]
fn should_be_able_to_connect_to_terminating_and_unready_endpoints_if_published() {
    let mut stage = unready_and_terminating(true);
    let client = stage.client(1);
    for to in [stage.at("svc-unready", 80), stage.at_node(1, "svc-unready", 80)] {
        assert_reaches(&client, to, Tcp, &["webserver-pod"]);
    }
}

/// should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses
/// is false
#[test]
fn should_not_be_able_to_connect_to_terminating_and_unready_endpoints_if_not_published() {
    let mut stage = unready_and_terminating(false);
    let client = stage.client(1);
    let number = stage.node_port("svc-unready", 80);
    let _own = stage.host(1).tcp_server(number).unwrap();
    for to in [stage.at("svc-unready", 80), stage.at_node(1, "svc-unready", 80)] {
        assert_refused(&client, to, Tcp);
    }
}

/// A service without a selector, with the ports 80 and 81.
fn by_hand(name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["selector"] = Value::Null;
    service["spec"]["ports"] =
        json!([port("first", "TCP", 80, 3000), port("second", "TCP", 81, 3001)]);
    service
}

fn slice(stage: &Stage, name: &str, suffix: &str, ports: &[(&str, u16)], pods: &[&str]) -> Value {
    let ports: Vec<_> =
        ports.iter().map(|(name, port)| ((*name).to_owned(), "TCP".to_owned(), *port)).collect();
    let address = |pod: &&str| json!({"addresses": [stage.server(pod).addresses()[0]]});
    let endpoints: Vec<Value> = pods.iter().map(address).collect();
    controller::slice(stage.service(name), suffix, "IPv4", &ports, &endpoints)
}

/// Two pods that listen on both ports.
fn stage_by_hand(name: &str) -> Stage {
    let mut stage = Stage::new();
    stage.create(by_hand(name));
    stage.start_all(["pod1", "pod2"].map(|pod| Server::new(pod, "any").tcp(3000).tcp(3001)));
    stage
}

/// should support a Service with multiple ports specified in multiple EndpointSlices
#[test]
fn should_support_a_service_with_multiple_ports_in_multiple_endpoint_slices() {
    let name = "example-custom-endpoints";
    let mut stage = stage_by_hand(name);
    let client = stage.client(0);
    let slices = vec![
        slice(&stage, name, "a", &[("first", 3000)], &["pod1", "pod2"]),
        slice(&stage, name, "b", &[("second", 3001)], &["pod1", "pod2"]),
    ];
    stage.put_slices(slices);
    for number in [80, 81] {
        assert_reaches(&client, stage.at(name, number), Tcp, &["pod1", "pod2"]);
    }
}

/// should support a Service with multiple endpoint IPs specified in multiple EndpointSlices
#[test]
fn should_support_a_service_with_multiple_endpoint_ips_in_multiple_endpoint_slices() {
    let name = "example-custom-endpoints";
    let mut stage = stage_by_hand(name);
    let client = stage.client(0);
    let both = [("first", 3000), ("second", 3001)];
    let slices = vec![
        slice(&stage, name, "a", &both, &["pod1"]),
        slice(&stage, name, "b", &both, &["pod2"]),
    ];
    stage.put_slices(slices);
    for number in [80, 81] {
        assert_reaches(&client, stage.at(name, number), Tcp, &["pod1", "pod2"]);
    }
}
