//! Services that nothing is behind: `service.go`.
//!
//! The suite asks for the cluster IP from a pod; here every way in is asked for.

use serde_json::json;
use sockline_testbed::Protocol::{Tcp, Udp};

use crate::{
    pods::Server,
    reach::{assert_reaches, assert_refused},
    stage::{Stage, port, service_of_type},
};

/// A NodePort service without endpoints, refused from a pod and from the node.
fn assert_everything_refused(stage: &mut Stage, name: &str) {
    let client = stage.client(0);
    for to in [stage.at(name, 80), stage.at_node(0, name, 80)] {
        for protocol in [Tcp, Udp] {
            assert_refused(&client, to, protocol);
            assert_refused(stage.host(0), to, protocol);
        }
    }
}

fn stage_with(name: &str, publish_not_ready: bool) -> Stage {
    let mut stage = Stage::new();
    let mut empty = service_of_type("NodePort", name);
    empty["spec"]["ports"] = json!([port("tcp", "TCP", 80, 80), port("udp", "UDP", 80, 80)]);
    empty["spec"]["publishNotReadyAddresses"] = publish_not_ready.into();
    stage.create(empty);
    stage
}

/// should be rejected when no endpoints exist
#[test]
fn should_be_rejected_when_no_endpoints_exist() {
    let mut stage = stage_with("no-pods", false);
    // Without these the node itself would refuse the node port.
    let number = stage.node_port("no-pods", 80);
    let _own =
        (stage.host(0).tcp_server(number).unwrap(), stage.host(0).udp_server(number).unwrap());
    assert_everything_refused(&mut stage, "no-pods");
}

/// should be rejected for evicted pods (no endpoints exist)
#[test]
fn should_be_rejected_for_evicted_pods() {
    let mut stage = stage_with("evicted-pods", true);
    let number = stage.node_port("evicted-pods", 80);
    let _own =
        (stage.host(0).tcp_server(number).unwrap(), stage.host(0).udp_server(number).unwrap());
    stage.start(Server::new("evicted-pod", "evicted-pods").tcp(80).udp(80).unready());
    let client = stage.client(0);
    assert_reaches(&client, stage.at("evicted-pods", 80), Tcp, &["evicted-pod"]);
    stage.mark("evicted-pod", |pod| pod.failed = true);
    assert_everything_refused(&mut stage, "evicted-pods");
}
