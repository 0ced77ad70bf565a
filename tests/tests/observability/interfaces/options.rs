//! Options, their variables, and the log level, which changes while the agent runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sockline_testbed::sockline_binary;

use super::SHIP;
use crate::common::{CART, WebNode, error_of, eventually, holds};

#[test]
fn only_root_can_use_the_admin_socket() {
    let (_node, agent) = WebNode::serving(2, &[]);
    let mode = fs::metadata(agent.admin_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[test]
fn the_admin_socket_is_removed_with_the_agent() {
    let (_node, mut agent) = WebNode::serving(2, &[]);
    agent.stop().unwrap();
    assert!(!agent.admin_socket().exists());
}

#[test]
fn the_help_names_every_variable() {
    let output = Command::new(sockline_binary().unwrap()).args(["agent", "--help"]).output();
    let help = String::from_utf8(output.unwrap().stdout).unwrap();
    for name in [
        "MANIFESTS",
        "KUBECONFIG",
        "NODE_NAME",
        "CGROUP_ROOT",
        "BPF_ROOT",
        "METRICS_BIND_ADDRESS",
        "ADMIN_SOCKET",
        "MAX_FRONTENDS",
        "MAX_BACKENDS",
        "RECONCILE_INTERVAL",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ] {
        assert!(help.contains(&format!("[env: SOCKLINE_{name}=")), "{name}: {help}");
    }
}

/// Ends with SIGTERM.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// An agent that has all options from its environment, and its status.
fn by_environment(node: &WebNode, more: &[(&str, &str)]) -> (Running, Value) {
    let mut command = Command::new(sockline_binary().unwrap());
    let node = &node;
    let socket = node.temp().join("env.sock");
    command
        .arg("agent")
        .env_remove("NODE_NAME")
        .env("SOCKLINE_MANIFESTS", node.manifests())
        .env("SOCKLINE_CGROUP_ROOT", node.cgroup())
        .env("SOCKLINE_BPF_ROOT", node.bpffs())
        .env("SOCKLINE_METRICS_BIND_ADDRESS", "127.0.0.1:0")
        .env("SOCKLINE_ADMIN_SOCKET", &socket)
        .env("SOCKLINE_MAX_FRONTENDS", "77")
        .env("SOCKLINE_MAX_BACKENDS", "99")
        .env("SOCKLINE_LOG_LEVEL", "error")
        .envs(more.iter().copied())
        .stdin(Stdio::null());
    let running = Running(node.outside().child(&mut command).unwrap());
    let status = eventually("the agent to be ready", || {
        let mut look = Command::new(sockline_binary().unwrap());
        look.args(["status", "-o", "json"])
            .env("SOCKLINE_BPF_ROOT", node.bpffs())
            .env("SOCKLINE_ADMIN_SOCKET", &socket);
        let output = node.outside().output(&mut look).unwrap();
        let status: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| error_of(&output))?;
        holds(status["agent"]["ready"] == true, &status).map(|()| status)
    });
    (running, status)
}

#[test]
fn options_can_be_given_by_the_environment() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let (_running, status) = by_environment(&node, &[("SOCKLINE_NODE_NAME", "node-e")]);
    node.assert_served(CART);
    assert_eq!(status["nodeName"], "node-e");
    let maps = status["agent"]["maps"].as_array().unwrap();
    let limit =
        |name: &str| maps.iter().find(|map| map["name"] == name).unwrap()["maxEntries"].clone();
    assert_eq!((limit("frontends"), limit("backends")), (json!(77), json!(99)));
}

#[test]
fn the_node_name_comes_from_node_name_as_in_a_daemon_set() {
    let node = WebNode::new(0);
    let (_running, status) = by_environment(&node, &[("NODE_NAME", "from-the-pod-spec")]);
    assert_eq!(status["nodeName"], "from-the-pod-spec");
}

#[test]
fn the_option_wins_over_node_name() {
    let node = WebNode::new(0);
    let both = [("NODE_NAME", "from-the-pod-spec"), ("SOCKLINE_NODE_NAME", "own")];
    let (_running, status) = by_environment(&node, &both);
    assert_eq!(status["nodeName"], "own");
}

#[test]
fn the_log_level_changes_while_the_agent_runs() {
    let (node, agent) = WebNode::serving(2, &[]);
    let socket = node.node.temp().join("admin.sock");
    let log_level = |filter: &[&str]| {
        let own = ["log-level", "--admin-socket", socket.to_str().unwrap()];
        node.sockline(&[&own[..], filter].concat())
    };
    assert_eq!(String::from_utf8(log_level(&[]).stdout).unwrap(), "info\n");
    assert!(!agent.log().contains("DEBUG"), "{}", agent.log());
    let output = log_level(&["verbose"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error_of(&output).contains("\"verbose\" is not a level"), "{}", error_of(&output));
    assert_eq!(node.status()["agent"]["logLevel"], "info");
    let filter = "info,sockline::agent=debug";
    assert!(log_level(&[filter]).status.success());
    assert_eq!(node.status()["agent"]["logLevel"], filter);
    node.put_service("ship", SHIP);
    eventually("a debug line of a sync", || {
        let log = agent.log();
        let is_there = log.lines().any(|line| line.contains("DEBUG") && line.contains("synced"));
        holds(is_there, log)
    });
    assert!(log_level(&["off"]).status.success());
    let before = agent.log();
    node.remove("ship.yaml");
    node.eventually_untouched(SHIP);
    assert_eq!(agent.log(), before);
}
