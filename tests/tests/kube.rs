//! The agent on an API server.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod common;

use std::net::{Ipv4Addr, TcpListener};

use common::{Stage, assert_logged_once, eventually, holds, options};
use sockline_testbed::{
    Agent, AgentOptions, Metrics,
    api::{Api, Resource, Server},
    objects,
};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

/// A cluster with the service `cart` on the first web pod.
fn cluster(stage: &Stage) -> Api {
    let cluster = Api::default();
    cluster.apply(&objects::node());
    cluster.apply(&objects::slice("cart", &stage.addresses()[..1]));
    cluster.apply(&objects::service("cart", CART));
    cluster
}

/// A server for it on the node; port 0 means any.
fn serve(stage: &Stage, cluster: &Api, port: u16) -> Server {
    let listener = stage.node.outside().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    Server::start(cluster, listener.unwrap()).unwrap()
}

fn on_api(stage: &Stage, server: &Server) -> AgentOptions {
    let kubeconfig = server.kubeconfig(stage.node.temp()).unwrap();
    AgentOptions { kubeconfig: Some(kubeconfig), ..options(&[]) }
}

fn serving() -> (Stage, Api, Server, Agent) {
    let stage = Stage::new(2);
    let cluster = cluster(&stage);
    let server = serve(&stage, &cluster, 0);
    let agent = stage.node.agent(&on_api(&stage, &server)).unwrap();
    (stage, cluster, server, agent)
}

#[test]
fn the_services_of_the_api_server_are_served() {
    let (stage, _cluster, _server, _agent) = serving();
    assert_eq!(stage.ask(CART).unwrap(), "web-0");
    stage.eventually_no_problems();
}

#[test]
fn a_service_that_is_created_and_deleted_comes_and_goes() {
    let (stage, cluster, _server, _agent) = serving();
    let ship = objects::service("ship", SHIP);
    cluster.apply(&objects::slice("ship", &stage.addresses()));
    cluster.apply(&ship);
    stage.eventually_served(SHIP);
    cluster.delete(&ship);
    stage.eventually_untouched(SHIP);
    stage.assert_served(CART);
}

#[test]
fn a_changed_slice_moves_connects() {
    let (stage, cluster, _server, _agent) = serving();
    cluster.apply(&objects::slice("cart", &stage.addresses()[1..]));
    eventually("web-1 to answer", || {
        let who = stage.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
}

#[test]
fn the_state_stays_and_the_trouble_is_told_while_the_server_is_away() {
    let (stage, cluster, server, agent) = serving();
    let port = server.address().port();
    drop(server);
    let problems = eventually("trouble with every watch", || {
        let problems = stage.wrong("problems");
        if problems.len() == Resource::ALL.len() {
            Ok(problems)
        } else {
            Err(format!("{problems:#?}"))
        }
    });
    for problem in &problems {
        assert!(problem.starts_with("watch of "), "{problem}");
        assert!(problem.contains("Connection refused"), "{problem}");
        assert!(problem.ends_with("; what is known stays as it is"), "{problem}");
        assert_logged_once(&agent, problem);
    }
    stage.assert_served(CART);
    let status = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(status.contains("NOT connected for Service (last word"), "{status}");
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    for kind in ["Service", "EndpointSlice", "Node", "Namespace", "Pod"] {
        let labels = [("kind", kind)];
        let age = metrics.sum("sockline_source_age_seconds", &labels);
        assert!(age > 0.0, "{kind}: {age}");
        let connected = metrics.sum("sockline_source_connected", &labels);
        assert!(connected < 0.5, "{kind}: {connected}");
    }

    cluster.apply(&objects::slice("cart", &stage.addresses()[1..]));
    let _back = serve(&stage, &cluster, port);
    stage.eventually_no_problems();
    eventually("web-1 to answer", || {
        let who = stage.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
}

#[test]
fn an_agent_that_starts_without_its_server_keeps_what_it_found() {
    let (stage, cluster, server, mut agent) = serving();
    let (port, mut waiting) = (server.address().port(), on_api(&stage, &server));
    agent.kill().unwrap();
    drop(server);
    cluster.delete(&objects::service("cart", CART));
    waiting.until_ready = false;
    let _next = stage.node.agent(&waiting).unwrap();
    eventually("trouble", || {
        let problems = stage.wrong("problems");
        holds(problems.len() == Resource::ALL.len(), format!("{problems:#?}"))
    });
    stage.assert_served(CART);
    let _back = serve(&stage, &cluster, port);
    stage.eventually_untouched(CART);
}
