//! During an outage the node is served, and the agent says what it waits for.

use std::{net::TcpListener, process::Command};

use sockline_testbed::{AgentOptions, api::Server};

use super::{CART, KubeProxy, NodeWithApiServer, SERVER, SERVICE, endpoints};
use crate::common::{WebNode, error_of, eventually, holds, ip, lines_with};

#[test]
fn an_agent_reports_its_state_without_its_server() {
    let mut cluster = NodeWithApiServer::new(KubeProxy::Present);
    let mut agent = cluster.agent();
    let row = |name: &str| {
        let status = String::from_utf8(cluster_status(&cluster.node)).unwrap();
        let row = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        row.split_whitespace().skip(1).collect::<Vec<&str>>().join(" ")
    };
    assert_eq!(row("Ready"), "yes");
    assert_eq!(agent.get("/readyz").unwrap().body, "ok\n");
    cluster.servers.clear();
    // Services are served from the last known state: the agent stays ready, and reports the outage.
    eventually("the status to tell that its state is old", || {
        let ready = row("Ready");
        holds(ready.starts_with("yes, but with the state of "), ready)
    });
    let ready = agent.get("/readyz").unwrap();
    assert_eq!(ready.status, 200);
    assert!(ready.body.starts_with("ok, from the state of "), "{}", ready.body);
    assert_eq!(agent.get("/healthz").unwrap().status, 200);

    // An agent that has not reached its server since its start does not know what to serve.
    agent.kill().unwrap();
    let starting = AgentOptions { until_ready: false, ..cluster.options() };
    let next = cluster.node.agent(&starting).unwrap();
    let hint = "deploy/overlays/without-kube-proxy";
    let said = eventually("/readyz to say why", || {
        let reply = next.get("/readyz").map_err(|error| format!("{error:#}"))?;
        let reported = reply.status == 503 && reply.body.contains("watch of ");
        holds(reported, format!("{} {}", reply.status, reply.body)).map(|()| reply.body)
    });
    assert!(said.starts_with("waiting for the first full sync ("), "{said}");
    assert!(said.contains(&format!("{SERVICE}: Connection refused")), "{said}");
    assert!(said.contains(hint), "{said}");
    assert!(row("Ready").starts_with("no: waiting for the first full sync ("), "{}", row("Ready"));
    assert!(row("Ready").contains(hint), "{}", row("Ready"));
    eventually("the log to say so", || {
        let log = next.log();
        holds(!lines_with(&log, hint).is_empty(), log)
    });
    assert_eq!(next.get("/healthz").unwrap().status, 200);
    cluster.node.assert_served(CART);
}

fn cluster_status(node: &WebNode) -> Vec<u8> {
    node.look(&["status"]).stdout
}

#[test]
fn a_control_plane_machine_that_loses_power_is_detected() {
    let cluster = NodeWithApiServer::new(KubeProxy::Absent);
    let machine = cluster.node.pod("machine", &[ip("10.244.7.1")]).unwrap();
    let listener = machine.run(|| TcpListener::bind("10.244.7.1:6443")).unwrap();
    let _lost = Server::start(&cluster.api, listener).unwrap();
    cluster.api.apply(&endpoints(&["10.244.7.1:6443", SERVER]));
    let agent = cluster.node.agent(&cluster.options_at("10.244.7.1:6443")).unwrap();
    cluster.serves("web-1");
    // No packet comes from there any more: no FIN, no RST.
    let route = ["route", "replace", "blackhole", "192.0.2.10/32"];
    let output = machine.output(Command::new("ip").args(route)).unwrap();
    assert!(output.status.success(), "ip {}: {}", route.join(" "), error_of(&output));
    cluster.serves("web-0");
    drop(agent);
}
