//! The agent on an API server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::common::{CART, WebNode, assert_logged_once, eventually, holds, lines_with, options};
use serde_json::{Value, json};
use sockline_testbed::{
    Agent, AgentOptions, Metrics,
    api::{Api, Resource, Server},
    objects,
};

const SHIP: &str = "10.96.0.2";

/// A cluster with the service `cart` on the first web pod.
fn cluster(node: &WebNode) -> Api {
    let cluster = Api::default();
    cluster.apply(&objects::node());
    cluster.apply(&objects::slice("cart", &node.web_addresses()[..1]));
    cluster.apply(&objects::service("cart", CART));
    cluster
}

/// A server for it on the node; port 0 means any.
pub fn serve(node: &WebNode, cluster: &Api, port: u16) -> Server {
    // A child process that another test is starting may hold the last listener of a port a moment longer.
    let listener = eventually("the port to be free", || {
        node.outside().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
    });
    Server::start(cluster, listener).unwrap()
}

pub fn on_api(node: &WebNode, server: &Server) -> AgentOptions {
    let kubeconfig = server.kubeconfig(node.temp()).unwrap();
    AgentOptions { kubeconfig: Some(kubeconfig), ..options(&[]) }
}

fn serving() -> (WebNode, Api, Server, Agent) {
    let node = WebNode::new(2);
    let cluster = cluster(&node);
    let server = serve(&node, &cluster, 0);
    let agent = node.agent(&on_api(&node, &server)).unwrap();
    (node, cluster, server, agent)
}

#[test]
fn the_services_of_the_api_server_are_served() {
    let (node, _cluster, _server, _agent) = serving();
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    node.eventually_no_input_errors();
}

#[test]
fn a_server_without_tls_needs_no_certificates() {
    let node = WebNode::new(1);
    let server = serve(&node, &cluster(&node), 0);
    // The places where the image has them.
    let env = [("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let _agent = node.agent(&AgentOptions { env, ..on_api(&node, &server) }).unwrap();
    node.assert_served(CART);
}

#[test]
fn a_created_service_is_served_and_a_deleted_one_is_not() {
    let (node, cluster, _server, _agent) = serving();
    let ship = objects::service("ship", SHIP);
    cluster.apply(&objects::slice("ship", &node.web_addresses()));
    cluster.apply(&ship);
    node.eventually_served(SHIP);
    cluster.delete(&ship);
    node.eventually_untouched(SHIP);
    node.assert_served(CART);
}

#[test]
fn a_changed_slice_moves_connects() {
    let (node, cluster, _server, _agent) = serving();
    cluster.apply(&objects::slice("cart", &node.web_addresses()[1..]));
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
}

#[test]
fn the_state_stays_and_the_error_is_reported_while_the_server_is_away() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let began = now();
    let (node, cluster, server, agent) = serving();
    let port = server.address().port();
    drop(server);
    let input_errors = eventually("an error of every watch", || {
        let input_errors = node.wrong("invalidObjects");
        if input_errors.len() == Resource::ALL.len() {
            Ok(input_errors)
        } else {
            Err(format!("{input_errors:#?}"))
        }
    });
    for input_error in &input_errors {
        assert!(input_error.starts_with("watch of "), "{input_error}");
        assert!(input_error.contains("Connection refused"), "{input_error}");
        assert!(input_error.ends_with("; known objects stay as they are"), "{input_error}");
        assert_logged_once(&agent, input_error);
    }
    // The source logs it; its HTTP client does not log it again.
    assert_eq!(lines_with(&agent.log(), "ERROR"), [""; 0]);
    node.assert_served(CART);
    eventually("the check to tell of the silence", || {
        let checked = result(&node, "state.source");
        // The watches of the kinds ended at different times.
        let reported = checked["message"]
            .as_str()
            .unwrap()
            .contains("no event from the API server: Service for 1");
        holds(reported && checked["state"] == "warning", &checked)
    });
    let status = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(status.contains("NOT connected for Service (last event"), "{status}");
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    for kind in ["Service", "EndpointSlice", "Node", "Namespace", "Pod"] {
        let labels = [("kind", kind)];
        let last = metrics.sum("sockline_watch_last_event_timestamp_seconds", &labels);
        assert!(began < last && last < now(), "{kind}: {last}");
        let connected = metrics.sum("sockline_watch_connected", &labels);
        assert!(connected < 0.5, "{kind}: {connected}");
    }

    cluster.apply(&objects::slice("cart", &node.web_addresses()[1..]));
    let _back = serve(&node, &cluster, port);
    node.eventually_no_input_errors();
    eventually("web-1 to answer", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    eventually("the check to be well", || {
        let checked = result(&node, "state.source");
        holds(checked["state"] == "ok", &checked)
    });
}

/// The result of a check of `sockline check`.
fn result(node: &WebNode, check: &str) -> Value {
    let cgroup = node.cgroup().to_str().unwrap();
    let output = node.look(&["check", "--cgroup-root", cgroup, "-o", "json"]);
    let results = crate::common::results(&output);
    results.into_iter().find(|result| result["check"] == check).unwrap()
}

/// The number of measured changes: since their arrival, and since their trigger.
fn programmed(agent: &Agent) -> [u64; 2] {
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    ["arrival", "trigger"].map(|since| {
        metrics.sum("sockline_network_programming_duration_seconds_count", &[("since", since)])
            as u64
    })
}

#[test]
fn the_programming_latency_is_measured_for_each_change() {
    let (node, cluster, _server, agent) = serving();
    assert_eq!(programmed(&agent), [0, 0], "the first sync is of objects older than the agent");
    let mut slice = objects::slice("cart", &node.web_addresses()[1..]);
    cluster.apply(&slice);
    eventually("the change to be counted", || {
        let seen = programmed(&agent);
        holds(seen == [1, 0], format!("{seen:?}"))
    });
    slice["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"});
    slice["endpoints"][0]["addresses"] = json!([node.web_addresses()[0]]);
    cluster.apply(&slice);
    eventually("the trigger to be counted", || {
        let seen = programmed(&agent);
        holds(seen == [2, 1], format!("{seen:?}"))
    });
    // A change without an effect is not programmed.
    slice["metadata"]["labels"]["other"] = json!("label");
    cluster.apply(&slice);
    let ship = objects::service("ship", SHIP);
    cluster.apply(&ship);
    node.eventually_refused(SHIP);
    eventually("the service to be counted, and not the label", || {
        let seen = programmed(&agent);
        holds(seen == [3, 1], format!("{seen:?}"))
    });
}

#[test]
fn the_last_of_many_fast_changes_of_a_large_service_is_applied() {
    let (node, cluster, _server, _agent) = serving();
    let many = |part: u8| -> Vec<Value> {
        let address = |n: u16| IpAddr::from([10, part, (n >> 8) as u8, n as u8]);
        (0..20)
            .map(|slice| {
                let addresses: Vec<IpAddr> = (0..100).map(|n| address(slice * 100 + n)).collect();
                let mut object = objects::slice("ship", &addresses);
                object["metadata"]["name"] = json!(format!("ship-{slice}"));
                object
            })
            .collect()
    };
    cluster.apply(&objects::service("ship", SHIP));
    for part in 1..=10 {
        many(part).iter().for_each(|slice| cluster.apply(slice));
    }
    eventually("the last of ten thousand changes", || {
        let backends: BTreeSet<String> = node.backends("ship", "web").into_iter().collect();
        let last = backends.iter().filter(|address| address.starts_with("10.10.")).count();
        holds((last, backends.len()) == (2000, 2000), format!("{last} of {}", backends.len()))
    });
    // Later changes did not delay it.
    node.assert_served(CART);
}

#[test]
fn the_last_sync_is_reported_while_large_services_change_continuously() {
    let (node, cluster, _server, agent) = serving();
    let large: Vec<String> = (0..8).map(|number| format!("large-{number}")).collect();
    for (number, name) in (1..).zip(&large) {
        // Each address is as costly as all endpoints.
        let addresses: Vec<String> = (1..40).map(|ip| format!("198.51.{number}.{ip}")).collect();
        let mut service = objects::service(name, &format!("10.96.1.{number}"));
        service["spec"]["externalIPs"] = json!(addresses);
        cluster.apply(&service);
    }
    let changes = |round: u8| {
        for (number, name) in (1..).zip(&large) {
            let address = |n: u8| IpAddr::from([10, number, if n == 0 { round } else { 0 }, n]);
            let addresses: Vec<IpAddr> = (0..100).map(address).collect();
            cluster.apply(&objects::slice(name, &addresses));
        }
    };
    // Syncs of changed services, and syncs in the status.
    let counts = || {
        let metrics = Metrics::parse(&agent.metrics().unwrap());
        let comparisons = metrics.sum("sockline_syncs_total", &[("scope", "changes")]);
        let reported = metrics.sum("sockline_sync_duration_seconds_count", &[]);
        (comparisons as u64, reported as u64)
    };
    let last = || node.status()["agent"]["lastSyncTime"].clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..=u8::MAX).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                changes(round);
                // The interval of the changes: there is always one that waits.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Since then all of them are costly, and there is always one that waits.
            let ((before, reported_before), last_before) = (counts(), last());
            let (comparisons, reported) = eventually("some dozens of syncs", || {
                let (comparisons, reported) = counts();
                let (more, reported) = (comparisons - before, reported - reported_before);
                if more > 60 { Ok((more, reported)) } else { Err(more) }
            });
            // A sync compares services once or, where some are costly, twice.
            assert!(2 * reported + 2 >= comparisons, "{reported} reported of {comparisons}");
            assert_ne!(last(), last_before);
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn an_agent_that_starts_without_its_server_keeps_what_it_found() {
    let (node, cluster, server, mut agent) = serving();
    let (port, mut waiting) = (server.address().port(), on_api(&node, &server));
    agent.kill().unwrap();
    drop(server);
    cluster.delete(&objects::service("cart", CART));
    waiting.until_ready = false;
    let _next = node.agent(&waiting).unwrap();
    eventually("an error", || {
        let input_errors = node.wrong("invalidObjects");
        holds(input_errors.len() == Resource::ALL.len(), format!("{input_errors:#?}"))
    });
    node.assert_served(CART);
    let _back = serve(&node, &cluster, port);
    node.eventually_untouched(CART);
}
