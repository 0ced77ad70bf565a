//! The agent on an API server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::common::{Stage, assert_logged_once, eventually, holds, lines_with, options};
use serde_json::{Value, json};
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
fn a_server_without_tls_needs_no_certificates() {
    let stage = Stage::new(1);
    let server = serve(&stage, &cluster(&stage), 0);
    // Where the image would look for them.
    let env = [("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let _agent = stage.node.agent(&AgentOptions { env, ..on_api(&stage, &server) }).unwrap();
    stage.assert_served(CART);
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
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let began = now();
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
    // The source tells it; the client that it uses does not tell it again.
    assert_eq!(lines_with(&agent.log(), "ERROR"), [""; 0]);
    stage.assert_served(CART);
    eventually("the check to tell of the silence", || {
        let checked = finding(&stage, "state.source");
        // The kinds are not silent since the same moment.
        let told = checked["detail"].as_str().unwrap().contains("not heard of Service for 1");
        holds(told && checked["state"] == "warning", &checked)
    });
    let status = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(status.contains("NOT connected for Service (last word"), "{status}");
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    for kind in ["Service", "EndpointSlice", "Node", "Namespace", "Pod"] {
        let labels = [("kind", kind)];
        let last = metrics.sum("sockline_watch_last_event_timestamp_seconds", &labels);
        assert!(began < last && last < now(), "{kind}: {last}");
        let connected = metrics.sum("sockline_watch_connected", &labels);
        assert!(connected < 0.5, "{kind}: {connected}");
    }

    cluster.apply(&objects::slice("cart", &stage.addresses()[1..]));
    let _back = serve(&stage, &cluster, port);
    stage.eventually_no_problems();
    eventually("web-1 to answer", || {
        let who = stage.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    assert_eq!(finding(&stage, "state.source")["state"], "ok");
}

/// What `sockline check` finds under a name.
fn finding(stage: &Stage, check: &str) -> Value {
    let cgroup = stage.node.cgroup().to_str().unwrap();
    let output = stage.look(&["check", "--cgroup-root", cgroup, "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    findings.into_iter().find(|finding| finding["check"] == check).unwrap()
}

/// How many changes were programmed, since they arrived and since their trigger.
fn programmed(agent: &Agent) -> [u64; 2] {
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    ["arrival", "trigger"].map(|since| {
        metrics.sum("sockline_network_programming_duration_seconds_count", &[("since", since)])
            as u64
    })
}

#[test]
fn the_time_to_the_kernel_is_measured_for_each_change_that_gets_there() {
    let (stage, cluster, _server, agent) = serving();
    assert_eq!(programmed(&agent), [0, 0], "the first sync is of objects older than the agent");
    let mut slice = objects::slice("cart", &stage.addresses()[1..]);
    cluster.apply(&slice);
    eventually("the change to be counted", || {
        let seen = programmed(&agent);
        holds(seen == [1, 0], format!("{seen:?}"))
    });
    slice["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"});
    slice["endpoints"][0]["addresses"] = json!([stage.addresses()[0]]);
    cluster.apply(&slice);
    eventually("the trigger to be counted", || {
        let seen = programmed(&agent);
        holds(seen == [2, 1], format!("{seen:?}"))
    });
    // A change that makes no difference gets nowhere.
    slice["metadata"]["labels"]["other"] = json!("label");
    cluster.apply(&slice);
    let ship = objects::service("ship", SHIP);
    cluster.apply(&ship);
    stage.eventually_refused(SHIP);
    eventually("the service to be counted, and not the label", || {
        let seen = programmed(&agent);
        holds(seen == [3, 1], format!("{seen:?}"))
    });
}

#[test]
fn a_service_of_thousands_of_endpoints_that_changes_all_the_time_ends_at_its_last_change() {
    let (stage, cluster, _server, _agent) = serving();
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
        let backends: BTreeSet<String> = stage.backends("ship", "web").into_iter().collect();
        let last = backends.iter().filter(|address| address.starts_with("10.10.")).count();
        holds((last, backends.len()) == (2000, 2000), format!("{last} of {}", backends.len()))
    });
    // It was held up by nothing that came after it.
    stage.assert_served(CART);
}

#[test]
fn the_last_sync_is_told_while_large_services_change_all_the_time() {
    let (stage, cluster, _server, agent) = serving();
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
    // Comparisons of services that changed with the kernel, and syncs that were told.
    let counts = || {
        let metrics = Metrics::parse(&agent.metrics().unwrap());
        let comparisons = metrics.sum("sockline_syncs_total", &[("scope", "changes")]);
        let told = metrics.sum("sockline_sync_duration_seconds_count", &[]);
        (comparisons as u64, told as u64)
    };
    let last = || stage.status()["agent"]["last_sync"].clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..=u8::MAX).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                changes(round);
                // The pace of the changes: there is always one that waits for its turn.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Since then all of them are costly, and there is always one that waits.
            let ((before, told_before), last_before) = (counts(), last());
            let (comparisons, told) = eventually("some dozens of syncs", || {
                let (comparisons, told) = counts();
                let (more, told) = (comparisons - before, told - told_before);
                if more > 60 { Ok((more, told)) } else { Err(more) }
            });
            // A sync compares services once or, where some are costly, twice.
            assert!(2 * told + 2 >= comparisons, "{told} told of {comparisons}");
            assert_ne!(last(), last_before);
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
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
