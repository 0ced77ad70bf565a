//! The JSON of commands and of the admin socket: its form, its version, and its fields.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{
    common::{CART, Lines, WebNode, error_of, eventually, fixtures, holds, series},
    schema,
};
use serde::Serialize;
use serde_json::{Value, json};
use sockline::{
    cli::documents,
    model::{
        exclusion::Reason,
        object::{InputError, Kind, ObjectName, Subject},
    },
    source::stats::WatchState,
    status,
};
use sockline_testbed::{Agent, objects, sockline_binary};

/// A stand-in for an agent that gives the same answer to each request; null is an empty one. Its socket.
pub fn stand_in(node: &WebNode, name: &str, status: &str, answer: &Value) -> PathBuf {
    let socket = node.temp().join(name);
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = if answer.is_null() { String::new() } else { answer.to_string() };
    let status = status.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let length = answer.len();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}")
                .unwrap();
        }
    });
    socket
}

/// Runs a command with another admin socket.
fn with_socket(node: &WebNode, socket: &Path, args: &[&str]) -> Output {
    let own = ["--bpf-root", node.bpffs().to_str().unwrap()];
    let own = if args[0] == "log-level" { &[][..] } else { &own[..] };
    node.sockline(&[args, own, &["--admin-socket", socket.to_str().unwrap()]].concat())
}

#[test]
fn an_answer_of_another_version_is_an_error_that_names_both() {
    let (node, _agent) = WebNode::serving(2, &[]);
    let of_v2 = json!({"apiVersion": "sockline.dev/v2", "kind": "AgentStatus", "newFields": {}});
    for (name, answer, said) in [
        (
            "v2.sock",
            of_v2,
            "its apiVersion is sockline.dev/v2, and this build (0.1.0) reads sockline.dev/v1",
        ),
        (
            "none.sock",
            json!({}),
            "it has no apiVersion, and this build (0.1.0) reads sockline.dev/v1",
        ),
        (
            "other-kind.sock",
            json!({"apiVersion": "sockline.dev/v1", "kind": "Secret"}),
            "its kind is Secret, and this build (0.1.0) reads",
        ),
    ] {
        let socket = stand_in(&node, name, "200 OK", &answer);
        let table = with_socket(&node, &socket, &["status"]);
        let table = String::from_utf8(table.stdout).unwrap();
        let is_in =
            |text: &str| text.contains(&format!("the agent's answer cannot be read: {said}"));
        assert!(is_in(&table) && table.contains("running, but"), "{table}");
        assert!(table.contains("use the agent's own `sockline`"), "{table}");
        let checks = with_socket(&node, &socket, &["check", "-o", "json"]);
        let checks: Value = serde_json::from_slice(&checks.stdout).unwrap();
        for name in ["agent.running", "maps.drift", "live.service"] {
            let results = checks["results"].as_array().unwrap();
            let result = results.iter().find(|result| result["check"] == name).unwrap();
            assert_eq!(result["state"], "failed", "{result}");
            assert!(is_in(result["message"].as_str().unwrap()), "{result}");
        }
        let level = with_socket(&node, &socket, &["log-level"]);
        assert_eq!(level.status.code(), Some(1));
        assert!(is_in(&error_of(&level)), "{}", error_of(&level));
    }
}

/// The agent's answer to a request with this document.
fn request(agent: &Agent, method: &str, path: &str, document: &Value) -> String {
    let mut stream = UnixStream::connect(agent.admin_socket()).unwrap();
    let body = document.to_string();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_request_of_another_version_is_refused_with_both() {
    let (node, agent) = WebNode::serving(2, &[]);
    let document = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "filter": "debug", "tcp4": 1});
    for (method, path, kind) in
        [("PUT", "/log-level", "LogLevel"), ("POST", "/probe-service", "ProbeListeners")]
    {
        let of_v2 = request(&agent, method, path, &document("sockline.dev/v2", kind));
        assert!(of_v2.starts_with("HTTP/1.1 400 "), "{of_v2}");
        let said = "the agent cannot read the request: its apiVersion is sockline.dev/v2, and this build (0.1.0) reads \
                    sockline.dev/v1; use the agent's own `sockline`";
        assert!(of_v2.contains(said), "{of_v2}");
        let without = request(&agent, method, path, &json!({"filter": "debug", "tcp4": 1}));
        assert!(without.starts_with("HTTP/1.1 400 "), "{without}");
        assert!(without.contains("it has no apiVersion"), "{without}");
        let other_kind = request(&agent, method, path, &document("sockline.dev/v1", "Secret"));
        assert!(
            other_kind
                .contains(&format!("its kind is Secret, and this build (0.1.0) reads {kind}")),
            "{other_kind}"
        );
    }
    assert_eq!(node.status()["agent"]["logLevel"], "info");
    let same = request(&agent, "PUT", "/log-level", &document("sockline.dev/v1", "LogLevel"));
    assert!(same.starts_with("HTTP/1.1 200 "), "{same}");
    assert_eq!(node.status()["agent"]["logLevel"], "debug");
}

/// `sockline log-level` does not send these.
#[test]
fn what_the_programs_are_to_log_must_fit_together() {
    let (node, agent) = WebNode::serving(1, &[]);
    let of = |kind: &str, fields: Value| {
        let mut document = json!({"apiVersion": "sockline.dev/v1", "kind": kind});
        document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        document
    };
    let log = |fields: Value| ("/program-log", of("ProgramLogRequest", fields));
    let level = |fields: Value| ("/log-level", of("LogLevel", fields));
    let programs = json!({"hooks": ["all"], "until": "2030-01-01T00:00:00Z", "linesSkipped": 0});
    for ((path, document), said) in [
        (
            log(json!({"hooks": ["all"], "port": "web", "seconds": 60})),
            "port: \"web\" is of no service",
        ),
        (log(json!({"hooks": [], "seconds": 60})), "hooks: no hook is named"),
        (log(json!({"hooks": ["all"], "seconds": 0})), "seconds: 0 is not between 1 and 86400"),
        (level(json!({"filter": "debug", "programs": programs})), "programs: cannot be set"),
    ] {
        let answer = request(&agent, "PUT", path, &document);
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains(said), "{document}: {answer}");
    }
    let status = node.status()["agent"].clone();
    assert_eq!((&status["programLog"], &status["logLevel"]), (&Value::Null, &json!("info")));
}

#[test]
fn drift_with_another_set_of_fields_is_not_taken_for_none() {
    let (node, agent) = WebNode::serving(2, &[]);
    let answer = request(&agent, "GET", "/drift", &json!({}));
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let drift: Value = serde_json::from_str(body).unwrap();
    let mut more = drift.clone();
    more["slotsOfAnotherBuild"] = json!(1);
    let mut less = drift.clone();
    less.as_object_mut().unwrap().remove("slots").unwrap();
    for (name, answer, said) in [
        ("more.sock", more, "unknown field `slotsOfAnotherBuild`"),
        ("less.sock", less, "missing field `slots`"),
    ] {
        let socket = stand_in(&node, name, "200 OK", &answer);
        let checks = with_socket(&node, &socket, &["check", "-o", "json"]);
        let checks: Value = serde_json::from_slice(&checks.stdout).unwrap();
        let results = checks["results"].as_array().unwrap();
        let result = results.iter().find(|result| result["check"] == "maps.drift").unwrap();
        assert_eq!(result["state"], "failed", "{result}");
        assert!(result["message"].as_str().unwrap().contains(said), "{result}");
    }
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

/// The document that a command printed, held to its schema: the page `deploy/docs/json.md` is written from that.
#[track_caller]
fn documented(output: &Output) -> Value {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", error_of(output));
    });
    let kind = document["kind"].as_str().unwrap();
    let described = documents::all().into_iter().find(|described| described.kind == kind).unwrap();
    schema::check(&document, described.schema.as_value(), kind).unwrap();
    assert_eq!(document["apiVersion"], "sockline.dev/v1", "{kind}");
    assert_keys(&document, kind);
    document
}

/// What `sockline watch` prints of one connection.
fn watched(node: &WebNode, agent: &Agent) -> Output {
    let mut command = Command::new(sockline_binary().unwrap());
    command.args(["watch", "-o", "json", "--admin-socket", agent.admin_socket().to_str().unwrap()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    eventually("a watcher", || {
        let metrics = agent.metrics().unwrap();
        holds(series(&metrics, "sockline_event_watchers") == Some(1.0), "nobody")
    });
    node.assert_served(CART);
    let closed = Lines::of(watch.stdout.take().unwrap()).find("\"closed\"");
    watch.kill().unwrap();
    Output { stdout: closed.into_bytes(), ..watch.wait_with_output().unwrap() }
}

#[test]
fn the_json_of_each_command_is_what_its_page_says() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    // An invalid object, a service port without backends, and connections.
    node.put("none.yaml", &[objects::web_service("none", "10.96.0.2")]);
    node.put_text("broken.yaml", "kind: Service\nmetadata: {name: [\n");
    node.eventually_refused("10.96.0.2");
    eventually("the broken file to be reported", || {
        let invalid = node.wrong("invalidObjects");
        holds(!invalid.is_empty(), "nothing is invalid".to_owned())
    });
    node.spread(CART, 3);
    let folder = fixtures("features");
    let folder = folder.to_str().unwrap();
    let plan = ["plan", "--manifests", folder, "--node-name", "node-a", "-o", "json"];
    let printed = |agent: &Agent| {
        let socket = agent.admin_socket();
        let log_level = ["log-level", "--admin-socket", socket.to_str().unwrap()];
        let of_node = |command| node.look(&[command, "-o", "json"]);
        [
            of_node("status"),
            of_node("check"),
            of_node("services"),
            of_node("backends"),
            node.sockline(&plan),
            node.look(&["trace", "shop/cart", "-o", "json"]),
            node.sockline(&[&log_level[..], &["-o", "json"]].concat()),
        ]
    };
    let mut documents: Vec<Value> = printed(&agent).iter().map(documented).collect();
    documents.push(documented(&watched(&node, &agent)));
    let map = ["map", "-o", "json", "--interval", "100ms"];
    documents.push(documented(&node.look(&map)));
    let kinds: Vec<&str> =
        documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, documents::all().map(|described| described.kind));
    let status = &documents[0]["agent"];
    assert_ne!(status["invalidObjects"], json!([]), "{status:#}");
    assert_eq!(documents[6]["filter"], "info");
    for document in &documents[..6] {
        assert_eq!(document["nodeName"], "node-a", "{}", document["kind"]);
    }
    agent.stop().unwrap();
    for (output, kind) in printed(&agent)[..6].iter().zip(kinds) {
        assert_eq!(documented(output)["kind"], kind, "without an agent");
    }
}

/// Each state that has fields of its own, which no test brings about as a whole.
#[test]
fn the_status_of_an_agent_is_what_its_page_says_in_every_state() {
    let (node, _agent) = WebNode::serving(2, &[]);
    let report = documented(&node.look(&["status", "-o", "json"]));
    let described =
        documents::all().into_iter().find(|described| described.command == "status").unwrap();
    let pod = status::PodRef { namespace: Some("shop".into()), name: None, uid: "1".into() };
    let invalid = InputError {
        object: Subject::of(Kind::Service, &ObjectName::new("shop", "cart")),
        field: "spec".into(),
        message: "x".into(),
    };
    let states: Vec<(&str, Value)> = vec![
        ("source", to_value(status::Source::Kubernetes { kubeconfig: None })),
        ("source", to_value(status::Source::Kubernetes { kubeconfig: Some("/k".into()) })),
        ("reclaim", to_value(status::Reclaim::Fails { message: "x".into() })),
        ("reclaim", to_value(status::Reclaim::CannotTell { message: "x".into() })),
        (
            "watches",
            to_value([WatchState { kind: "Pod".into(), connected: false, last_event_time: None }]),
        ),
        (
            "fullMaps",
            to_value([status::FullMap { name: "x".into(), cgroup: None, message: "y".into() }]),
        ),
        (
            "unreadableMaps",
            to_value([status::UnreadableMap { name: "x".into(), message: "y".into() }]),
        ),
        (
            "excludedPods",
            to_value([status::ExcludedPod {
                pod: pod.clone(),
                reason: Reason::PodOption,
                state: status::ExclusionState::NoRoom,
            }]),
        ),
        (
            "nestedNamespaces",
            to_value([status::NestedNamespaces { pod, namespaces: 2, excluded: true }]),
        ),
        ("outOfSync", to_value([status::OutOfSync::new(&status::UnsyncedObject::OtherNodes, "x")])),
        ("outOfSync", to_value([status::OutOfSync::all_services("x".into())])),
        ("invalidObjects", to_value([status::InvalidObject::from(&invalid)])),
        (
            "termination",
            to_value(status::Termination {
                helper: Some(status::HelperState::Lost { message: "x".into() }),
                unsearched: Some("y".into()),
                ..status::Termination::default()
            }),
        ),
    ];
    for (field, value) in states {
        let mut report = report.clone();
        report["agent"][field] = value;
        schema::check(&report, described.schema.as_value(), "StatusReport").unwrap();
    }
}

fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}
