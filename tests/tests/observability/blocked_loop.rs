//! What an agent reports while its control loop is blocked.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::common::{CART, REPAIRS, WebNode, eventually, holds, options};
use sockline_testbed::{
    AgentOptions, Metrics,
    api::{Api, Server},
    objects,
    strace::HeldUp,
};

/// Far longer than the minute after which the agent reports a stuck loop.
const FOR_GOOD: Duration = Duration::from_secs(600);

#[test]
fn a_blocked_loop_is_reported_and_blocks_nothing_else() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(&REPAIRS);
    let held_up = HeldUp::start(&agent, "control", FOR_GOOD).unwrap();
    // The servers and the commands have their own threads.
    assert!(agent.metrics().unwrap().contains("sockline_"));
    assert_eq!(node.status()["agent"]["ready"], true);
    let said = eventually("/healthz to say that the loop is stuck", || {
        let reply = agent.get("/healthz").map_err(|error| format!("{error:#}"))?;
        holds(reply.status == 503, reply.status).map(|()| reply.body)
    });
    assert!(said.contains("stuck"));
    let ready = agent.get("/readyz").unwrap();
    assert_eq!((ready.status, ready.body.as_str()), (503, "the control loop is stuck\n"));
    // The kernel keeps serving.
    node.assert_served(CART);
    drop(held_up);
    for path in ["/healthz", "/readyz"] {
        eventually(&format!("{path} to be good again"), || {
            let reply = agent.get(path).map_err(|error| format!("{error:#}"))?;
            holds(reply.status == 200, reply.body)
        });
    }
}

#[test]
fn a_change_counts_from_when_it_was_read_although_the_loop_is_blocked() {
    let node = WebNode::new(2);
    let cluster = Api::default();
    cluster.apply(&objects::node());
    cluster.apply(&objects::slice("cart", &node.web_addresses()[..1]));
    cluster.apply(&objects::service("cart", CART));
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = Server::start(&cluster, node.outside().run(listen)).unwrap();
    let kubeconfig = Some(server.kubeconfig(node.temp()).unwrap());
    let agent = node.agent(&AgentOptions { kubeconfig, ..options(&REPAIRS) }).unwrap();

    let held_up = HeldUp::start(&agent, "control", FOR_GOOD).unwrap();
    cluster.apply(&objects::slice("cart", &node.web_addresses()[1..]));
    // The source has read it; the control loop has not received it.
    let applied = [("kind", "EndpointSlice"), ("event", "apply")];
    let metrics = || Metrics::parse(&agent.metrics().unwrap());
    assert_eq!(metrics().sum("sockline_source_events_total", &applied) as u64, 0);
    let least = 2.0;
    eventually("the change to wait", || {
        let kind = [("kind", "EndpointSlice")];
        let last = metrics().sum("sockline_watch_last_event_timestamp_seconds", &kind);
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - last;
        holds(age >= least, age)
    });
    drop(held_up);
    eventually("the change to be in the kernel", || {
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    let since = [("since", "arrival")];
    eventually("the time that it waited to be counted", || {
        let latency = metrics().sum("sockline_network_programming_duration_seconds_sum", &since);
        holds(latency >= least, format!("{latency} s"))
    });
}
