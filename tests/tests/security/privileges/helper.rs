//! The helper ends or does not answer: it is restarted, and the agent goes on.

use std::{fs, path::PathBuf, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline_testbed::{Agent, UdpClient, objects, strace::HeldUp};

use super::{BPF, NET_ADMIN, SYS_ADMIN, SYS_PTRACE, helper, only, privileges};
use crate::common::{CART, REPAIRS, WebNode, eventually, eventually_logged, holds, series};

/// The parent of a process.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn end(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

/// Waits until another helper runs, and returns its process id.
#[track_caller]
fn eventually_another_helper(node: &WebNode, before: u32) -> u32 {
    eventually("another helper to run", || {
        let closing = node.status()["agent"]["termination"].clone();
        let pid = closing["helper"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid != before).ok_or(closing)
    })
}

#[test]
fn a_helper_that_ends_is_restarted_and_that_is_reported() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let client =
        node.client.run(|| UdpClient::connected((crate::common::ip(CART), 53).into()).unwrap());
    let first = helper(&node);
    end(first);
    let second = eventually_another_helper(&node, first);
    assert_eq!(node.status()["agent"]["termination"]["helperRestarts"], 1);
    // Log, status and metrics follow each other.
    eventually("the metrics to say so", || {
        let metrics = agent.metrics().unwrap();
        let names = ["sockline_helper_exits_total", "sockline_helper_running"];
        let seen = names.map(|name| series(&metrics, name));
        holds(seen == [Some(1.0); 2], format!("{seen:?}"))
    });
    for said in [
        "the helper process has exited (signal: 9 (SIGKILL))",
        "the helper process was started again",
    ] {
        eventually_logged(&agent, said, 1);
        let log = agent.log();
        assert_eq!(crate::common::lines_with(&log, said).len(), 1, "{log}");
    }
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("restarted the helper process 1 times"), "{table}");
    let seen = privileges(&PathBuf::from(format!("/proc/{second}")));
    assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "{seen:x?}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    // It works like the first one.
    node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &[])]);
    eventually("the socket to be closed", || holds(client.ask("?").is_err(), "it is open"));
}

#[test]
fn a_helper_that_keeps_ending_is_restarted_with_backoff_and_shown_as_unavailable() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let mut pid = helper(&node);
    for _ in 0..2 {
        end(pid);
        pid = eventually_another_helper(&node, pid);
    }
    end(pid);
    eventually("readyz to say so", || {
        let reply = agent.get("/readyz").unwrap();
        let said = reply.body.starts_with("the helper process has exited (signal: 9 (SIGKILL))");
        holds(reply.status == 503 && said, reply.body)
    });
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    eventually("three exits to be counted", || {
        let exits = series(&agent.metrics().unwrap(), "sockline_helper_exits_total");
        holds(exits == Some(3.0), format!("{exits:?}"))
    });
    eventually_another_helper(&node, pid);
    eventually("readyz to be well", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
}

#[test]
fn an_agent_that_cannot_start_a_helper_fails_its_liveness_probe_and_keeps_serving() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let helper = helper(&node);
    let supervisor = parent(helper);
    assert_eq!(parent(supervisor), agent.pid());
    let seen = privileges(&PathBuf::from(format!("/proc/{supervisor}")));
    assert_eq!(seen, only(SYS_ADMIN | SYS_PTRACE | NET_ADMIN | BPF), "{seen:x?}");
    end(supervisor);
    for path in ["/healthz", "/readyz"] {
        eventually("it to be reported", || {
            let reply = agent.get(path).unwrap();
            let said = reply.body.contains("supervisor has exited (signal: 9 (SIGKILL))");
            holds(reply.status == 503 && said, format!("{path}: {}", reply.body))
        });
    }
    let name = PathBuf::from(format!("/proc/{helper}/comm"));
    eventually("the helper to end with its supervisor", || {
        let name = fs::read_to_string(&name).unwrap_or_default();
        holds(name != "sockline-helper\n", name)
    });
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("NOT any more: the helper process's supervisor"), "{table}");
    let results = String::from_utf8(node.look(&["check"]).stdout).unwrap();
    assert!(results.contains("restart the agent"), "{results}");
    node.put_service("other", "10.96.0.2");
    node.eventually_served("10.96.0.2");
}

#[test]
fn a_supervisor_that_answers_late_does_not_block_the_agent() {
    let (node, agent) = WebNode::serving(1, &REPAIRS);
    let first = helper(&node);
    let supervisor = parent(first);
    let signal = |signal| kill(Pid::from_raw(supervisor.cast_signed()), signal).unwrap();
    let said = |text: &str| crate::common::lines_with(&agent.log(), text).len();
    let silent = "the supervisor of the helper process has not answered for 5 seconds";
    signal(Signal::SIGSTOP);
    eventually("its silence to be reported", || holds(said(silent) > 0, agent.log()));
    node.put_service("other", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    signal(Signal::SIGCONT);
    eventually("it to answer", || holds(said("supervisor of the helper process answers") > 0, ""));
    assert_eq!(said(silent), 1, "{}", agent.log());
    // Its answers belong to the right requests.
    end(first);
    let second = eventually_another_helper(&node, first);
    assert_eq!(parent(second), supervisor);
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
}

/// Each answer takes nearly the five seconds that the agent waits for it, and its control loop waits as well. If it
/// waited for three of them in a row, the programs would fail open.
#[test]
fn a_supervisor_that_answers_slowly_restarts_the_helper_while_the_agent_stays_alive() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let _agent = node.start_agent_with(&["--fail-open-after", "10s"]);
    let first = helper(&node);
    let slow = HeldUp::process(parent(first), "write,sendto", Duration::from_secs(4)).unwrap();
    end(first);
    eventually("another helper to run", || {
        node.assert_served(CART);
        let pid = node.status()["agent"]["termination"]["helper"]["pid"].as_u64();
        holds(pid.is_some_and(|pid| pid != u64::from(first)), format!("{pid:?}"))
    });
    drop(slow);
    let status = node.status();
    assert_eq!(status["failOpen"]["bypassedCalls"], 0, "{status:#}");
}

#[test]
fn the_helper_ends_with_its_agent() {
    for end in [Agent::kill, Agent::stop] {
        let (node, mut agent) = WebNode::serving(1, &REPAIRS);
        let helper = helper(&node);
        let names = [(helper, "sockline-helper\n"), (parent(helper), "sockline-superv\n")];
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for (pid, expected) in names {
            assert_eq!(name(pid), expected);
        }
        end(&mut agent).unwrap();
        for (pid, of_ours) in names {
            eventually("it to end", || holds(name(pid) != of_ours, of_ours));
        }
        let _next = node.start_agent();
    }
}
