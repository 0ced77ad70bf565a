//! After an outage the agent finds the API server, whatever it programmed and whatever has changed meanwhile.

use super::{KubeProxy, NodeWithApiServer, OTHER, SERVER, SERVICE, endpoints};
use crate::common::{assert_logged_once, eventually, holds};

fn after_a_graceful_restart(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.shut_down();
    assert_eq!(cluster.leads_to(), [SERVER], "what was known stays");
    let reported = "Service default/kubernetes: no endpoint is listed, as when the only API server shuts \
                down; the last ones stay until new ones are listed: 192.0.2.10:6443";
    eventually("it to be reported", || {
        let input_errors = cluster.node.wrong("invalidObjects");
        holds(
            input_errors.iter().any(|input_error| input_error == reported),
            format!("{input_errors:#?}"),
        )
    });
    assert_logged_once(&agent, reported);
    cluster.start(SERVER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    cluster.node.eventually_no_input_errors();
}

#[test]
fn an_agent_behind_kube_proxy_reconnects_after_the_only_server_restarted() {
    after_a_graceful_restart(KubeProxy::Present);
}

#[test]
fn an_agent_without_kube_proxy_reconnects_after_the_only_server_restarted() {
    after_a_graceful_restart(KubeProxy::Absent);
}

fn after_all_addresses_changed(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let _agent = cluster.agent();
    cluster.pods_reach_it();
    cluster.lose();
    cluster.start(OTHER);
    cluster.serves("web-1");
    cluster.pods_reach_it();
    assert_eq!(cluster.leads_to(), [OTHER]);
}

#[test]
fn an_agent_behind_kube_proxy_reconnects_after_all_addresses_changed_at_once() {
    after_all_addresses_changed(KubeProxy::Present);
}

#[test]
fn an_agent_without_kube_proxy_reconnects_after_all_addresses_changed_at_once() {
    after_all_addresses_changed(KubeProxy::Absent);
}

fn with_a_restored_dead_address(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    let mut agent = cluster.agent();
    agent.kill().unwrap();
    cluster.lose();
    cluster.start(OTHER);
    let _next = cluster.agent();
    cluster.serves("web-1");
    cluster.pods_reach_it();
    assert_eq!(cluster.leads_to(), [OTHER]);
}

#[test]
fn a_dead_address_from_an_earlier_agent_does_not_block_behind_kube_proxy() {
    with_a_restored_dead_address(KubeProxy::Present);
}

#[test]
fn a_dead_address_from_an_earlier_agent_does_not_block_without_kube_proxy() {
    with_a_restored_dead_address(KubeProxy::Absent);
}

fn with_a_restored_refusal(kube_proxy: KubeProxy) {
    let mut cluster = NodeWithApiServer::new(kube_proxy);
    // There has never been an endpoint.
    cluster.api.apply(&endpoints(&[]));
    let mut agent = cluster.agent();
    assert_eq!(cluster.leads_to(), [""; 0]);
    agent.kill().unwrap();
    cluster.lose();
    cluster.start(SERVER);
    let _next = cluster.agent();
    cluster.pods_reach_it();
    cluster.serves("web-1");
}

#[test]
fn a_refusal_from_an_earlier_agent_is_replaced_behind_kube_proxy() {
    with_a_restored_refusal(KubeProxy::Present);
}

#[test]
fn a_refusal_from_an_earlier_agent_is_replaced_without_kube_proxy() {
    with_a_restored_refusal(KubeProxy::Absent);
}

#[test]
fn an_agent_that_restarts_during_the_outage_keeps_the_last_endpoints() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Present);
    let mut agent = cluster.agent();
    cluster.api.apply(&endpoints(&[]));
    cluster.serves("web-1");
    agent.kill().unwrap();
    let _next = cluster.agent();
    assert_eq!(cluster.leads_to(), [SERVER]);
    cluster.lose();
    cluster.start(SERVER);
    cluster.serves("web-0");
    cluster.pods_reach_it();
}

#[test]
fn the_last_known_endpoints_are_dialled_where_the_service_address_is_not_served() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Absent);
    let mut agent = cluster.agent();
    agent.kill().unwrap();
    // Nothing listens there.
    let at_service = cluster.options_at(SERVICE);
    let _next = cluster.node.agent(&at_service).unwrap();
    cluster.shut_down();
    cluster.start(SERVER);
    cluster.serves("web-1");
}
