//! The interfaces of the agent: metrics, health, the admin socket, the listing commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    process::{Child, Command, Stdio},
};

use crate::common::{WebNode, error_of, eventually, fixtures, holds, options, series, translated};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_testbed::{Agent, AgentOptions, Node, objects, sockline_binary};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

fn serving() -> (WebNode, Agent) {
    let node = WebNode::new(2);
    node.put_service("cart", CART);
    let agent = node.start_agent();
    (node, agent)
}

/// Names of the labels of a series, and their values.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let (inside, _) = rest.rsplit_once('}').unwrap();
    inside
        .split("\",")
        .map(|pair| pair.split_once("=\"").unwrap())
        .map(|(name, value)| (name, value.trim_end_matches('"')))
        .collect()
}

#[test]
fn every_metric_has_our_prefix_a_help_and_a_type() {
    let (node, agent) = serving();
    node.assert_served(CART);
    let text = agent.metrics().unwrap();
    let named = |comment: &str| -> BTreeSet<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(comment));
        lines.map(|line| line.split(' ').next().unwrap()).collect()
    };
    let (helped, typed) = (named("# HELP "), named("# TYPE "));
    assert_eq!(helped, typed);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).filter(|family| typed.contains(family)))
            .unwrap_or(name);
        let is_ours = family.starts_with("sockline_") || family.starts_with("process_");
        assert!(is_ours, "{line}");
        assert!(typed.contains(family), "{line} has no help and type: {typed:?}");
    }
}

#[test]
fn counters_end_in_total_and_nothing_else_does() {
    let (_node, agent) = serving();
    let text = agent.metrics().unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
    }
}

#[test]
fn no_label_is_a_pod_or_an_address() {
    let (node, agent) = serving();
    node.spread(CART, 5);
    let known = [
        "namespace",
        "service",
        "protocol",
        "reason",
        "fault",
        "map",
        "kind",
        "event",
        "object",
        "since",
        "version",
        "le",
        "scope",
        "port",
    ];
    let text = agent.metrics().unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (name, value) in labels(line) {
            assert!(known.contains(&name), "{line}");
            assert!(value.parse::<IpAddr>().is_err(), "{line}");
            assert!(!value.contains("web-"), "{line}");
        }
    }
}

#[test]
fn connections_are_counted_by_service_and_protocol() {
    let (node, agent) = serving();
    node.spread(CART, 3);
    node.udp_talkers(CART, 2);
    let text = agent.metrics().unwrap();
    assert_eq!(series(&text, &translated("cart", "TCP")), Some(3.0));
    assert_eq!(series(&text, &translated("cart", "UDP")), Some(2.0));
}

#[test]
fn refusals_are_counted_with_their_reason() {
    let node = WebNode::new(0);
    node.put("cart.yaml", &[objects::web_service("cart", CART)]);
    let agent = node.start_agent();
    node.eventually_refused(CART);
    let name = "sockline_connections_refused_total{namespace=\"shop\",service=\"cart\",\
                protocol=\"TCP\",reason=\"no-endpoints\"}";
    assert_eq!(series(&agent.metrics().unwrap(), name), Some(1.0));
}

#[test]
fn the_series_of_a_deleted_service_disappear() {
    let (node, agent) = serving();
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let of_ship = |agent: &Agent| crate::common::lines_with(&agent.metrics().unwrap(), "\"ship\"");
    assert_ne!(of_ship(&agent), [""; 0]);
    node.remove("ship.yaml");
    eventually("the series to disappear", || {
        let left = of_ship(&agent);
        holds(left.is_empty(), format!("{left:#?}"))
    });
}

#[test]
fn a_service_with_the_name_of_a_deleted_one_counts_from_zero() {
    let (node, agent) = serving();
    node.spread(CART, 5);
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    node.put_service("cart", CART);
    node.eventually_served(CART);
    assert_eq!(series(&agent.metrics().unwrap(), &translated("cart", "TCP")), Some(1.0));
}

#[test]
fn an_agent_is_healthy_at_once_and_ready_after_its_first_sync() {
    let node = WebNode::new(0);
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    let agent = node.agent(&waiting).unwrap();
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    let reply = agent.get("/readyz").unwrap();
    assert_eq!(reply.status, 503);
    // The reason why it waits may follow, once the source has reported it.
    assert!(reply.body.starts_with("waiting for the first full sync"), "{}", reply.body);
    assert_eq!(node.status()["agent"]["ready"], json!(false));
    fs::create_dir(&folder).unwrap();
    eventually("200", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.status)
    });
    assert_eq!(node.status()["agent"]["ready"], json!(true));
}

#[test]
fn only_root_can_use_the_admin_socket() {
    let (_node, agent) = serving();
    let mode = fs::metadata(agent.admin_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[test]
fn the_admin_socket_is_removed_with_the_agent() {
    let (_node, mut agent) = serving();
    agent.stop().unwrap();
    assert!(!agent.admin_socket().exists());
}

#[test]
fn the_kernel_holds_the_plan_of_every_recorded_feature() {
    let node = WebNode { node: Node::new().unwrap(), ..WebNode::new(0) };
    let folder = fixtures("features");
    let recorded = AgentOptions { manifests: Some(folder.clone()), ..options(&[]) };
    let _agent = node.agent(&recorded).unwrap();
    let folder = folder.to_str().unwrap();
    let output =
        node.sockline(&["plan", "--manifests", folder, "--node-name", "node-a", "-o", "json"]);
    assert!(output.status.success(), "{}", error_of(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernel = node.json(&["services"]);
    let (planned, held) = (by_address(&plan["frontends"]), by_address(&kernel["items"]));
    for (address, frontend) in &planned {
        assert_eq!(held.get(address), Some(frontend), "{address:?}");
    }
    // No more, and in the same order.
    assert_eq!(kernel["items"], plan["frontends"]);
    let actions: BTreeSet<&str> =
        planned.values().map(|frontend| frontend["action"].as_str().unwrap()).collect();
    assert_eq!(actions, BTreeSet::from(["bypass", "forward", "refuse"]), "the fixture shows all");
}

fn by_address(frontends: &Value) -> BTreeMap<[String; 4], Value> {
    let frontends = frontends.as_array().unwrap();
    let key = |frontend: &Value| {
        ["address", "family", "port", "protocol"].map(|field| frontend[field].to_string())
    };
    frontends.iter().map(|frontend| (key(frontend), frontend.clone())).collect()
}

#[test]
fn the_backends_of_one_service_can_be_listed() {
    let (node, _agent) = serving();
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let mut listing = node.json(&["backends", "shop/cart"]);
    // Another test covers how often each was chosen.
    for backend in listing.pointer_mut("/items").and_then(Value::as_array_mut).unwrap() {
        for backend in backend["backends"].as_array_mut().unwrap() {
            assert!(backend.as_object_mut().unwrap().remove("connections").unwrap().is_u64());
        }
    }
    let backends = |port: u16| {
        json!([
            {"address": "10.244.1.1", "port": port, "weight": 1},
            {"address": "10.244.1.2", "port": port, "weight": 1},
        ])
    };
    let service = |name: &str, protocol: &str, port: u16| {
        json!({
            "service": {"namespace": "shop", "name": "cart"},
            "portName": name,
            "protocol": protocol,
            "backends": backends(port),
        })
    };
    let expected = [service("dns", "UDP", 8053), service("web", "TCP", 8080)];
    let expected = json!({
        "apiVersion": "sockline.dev/v1",
        "kind": "BackendList",
        "nodeName": "node-a",
        "items": expected,
    });
    assert_eq!(listing, expected);
}

#[test]
fn the_backends_of_an_unknown_service_are_an_error() {
    let (node, _agent) = serving();
    let output = node.look(&["backends", "shop/none"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        error_of(&output),
        "error: the kernel serves no service shop/none (`sockline services` lists them)\n"
    );
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
fn an_agent_that_has_ended_is_not_shown_as_running_while_another_command_reads() {
    let (node, mut agent) = serving();
    assert_eq!(node.condition("AgentRunning"), "True");
    agent.stop().unwrap();
    // As another `sockline status` holds it while it looks for another holder.
    let root = File::open(Pins::in_bpffs(node.bpffs()).root()).unwrap();
    let _other =
        Flock::lock(root, FlockArg::LockSharedNonblock).map_err(|(_, error)| error).unwrap();
    assert_eq!(node.condition("AgentRunning"), "False");
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("not running"), "{table}");
}

#[test]
fn parallel_commands_show_no_agent_that_is_not_there() {
    let (node, mut agent) = serving();
    agent.stop().unwrap();
    let pins = Pins::in_bpffs(node.bpffs());
    let seen = std::thread::scope(|scope| {
        let look = || (0..2000).filter(|_| pins.are_locked().unwrap()).count();
        let lookers: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
        lookers.into_iter().map(|looker| looker.join().unwrap()).sum::<usize>()
    });
    assert_eq!(seen, 0);
}

#[test]
fn an_invalid_answer_is_reported_as_such() {
    let (node, _agent) = serving();
    let socket = node.temp().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        }
    });
    let socket = socket.to_str().unwrap();
    let bpffs = node.bpffs().to_str().unwrap();
    let look = |command: &str| {
        let output = node.sockline(&[command, "--bpf-root", bpffs, "--admin-socket", socket]);
        String::from_utf8(output.stdout).unwrap()
    };
    let said = "the agent's answer cannot be parsed: missing field";
    let table = look("status");
    assert!(table.contains(&format!("running, but {said}")), "{table}");
    let findings = look("check");
    assert!(findings.contains(said), "{findings}");
}

#[test]
fn status_has_one_count_of_frontends() {
    let (node, agent) = serving();
    let mut service = objects::service("ship", SHIP);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(30080);
    node.put("ship.yaml", &[service, objects::slice("ship", &node.web_addresses())]);
    node.eventually_served(SHIP);
    // Two services of two ports each, and a NodePort at both addresses of the node and two of loopback.
    eventually("the NodePort to be counted once for each address", || {
        let status = node.status();
        let maps = status["agent"]["maps"].as_array().unwrap();
        let of_map = maps.iter().find(|map| map["name"] == "frontends").unwrap();
        let metric = series(&agent.metrics().unwrap(), "sockline_frontends");
        let counts = [status["frontends"].as_f64(), of_map["entries"].as_f64(), metric];
        holds(
            counts[0] > Some(5.0) && counts.iter().all(|count| *count == counts[0]),
            format!("{counts:?}"),
        )
    });
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
    let (node, agent) = serving();
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

/// Keys in lowerCamelCase, at any depth.
fn assert_keys(value: &Value, within: &str) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_camel = key.chars().all(|c| c.is_ascii_alphanumeric())
                    && key.starts_with(|c: char| c.is_ascii_lowercase());
                assert!(is_camel, "{key} in {within}");
                assert_keys(value, &format!("{within}.{key}"));
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| assert_keys(entry, within)),
        _ => {}
    }
}

#[test]
fn json_has_the_form_of_the_kubernetes_api() {
    let (node, _agent) = serving();
    for (command, kind) in [
        ("status", "StatusReport"),
        ("check", "CheckReport"),
        ("services", "FrontendList"),
        ("backends", "BackendList"),
    ] {
        let output = node.look(&[command, "-o", "json"]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["apiVersion"], "sockline.dev/v1", "{command}");
        assert_eq!(document["kind"], kind, "{command}");
        assert_eq!(document["nodeName"], node.status()["nodeName"], "{command}");
        assert_keys(&document, command);
    }
}
