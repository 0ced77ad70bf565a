//! `sockline plan` as a user runs it.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec:
  clusterIP: 10.96.0.10
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop
  name: cart-1
  labels: {kubernetes.io/service-name: cart}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.1.2]}, {addresses: [10.244.1.1]}]
---
apiVersion: v1
kind: Node
metadata: {name: here}
";

fn plan(manifest: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("all.yaml"), manifest).expect("written");
    Command::new(env!("CARGO_BIN_EXE_sockline"))
        .arg("plan")
        .arg("--manifests")
        .arg(folder.path())
        .args(["--node-name", "here"])
        .args(arguments)
        .output()
        .expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn json_has_exactly_the_documented_fields() {
    let output = plan(MANIFEST, &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let expected = json!({
        "apiVersion": "sockline.dev/v1",
        "kind": "Plan",
        "nodeName": "here",
        "frontends": [{
            "service": {"namespace": "shop", "name": "cart"},
            "portName": "http",
            "address": "10.96.0.10",
            "family": "IPv4",
            "port": 80,
            "protocol": "TCP",
            "type": "ClusterIP",
            "action": "forward",
            "affinityTimeoutSeconds": 10800,
            "balance": "random",
            "backends": [
                {"address": "10.244.1.1", "port": 8080, "weight": 1, "trafficClass": "unknown"},
                {"address": "10.244.1.2", "port": 8080, "weight": 1, "trafficClass": "unknown"},
            ],
        }],
    });
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(plan, expected);
    assert!(
        text(&output.stdout).starts_with("{\n  \"apiVersion\": \"sockline.dev/v1\",\n"),
        "pretty-printed"
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_table_has_one_line_per_frontend_when_piped() {
    let output = plan(MANIFEST, &[]);
    let stdout = text(&output.stdout);
    let lines: Vec<Vec<&str>> =
        stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert_eq!(
        lines[1],
        [
            "shop/cart",
            "http",
            "ClusterIP",
            "10.96.0.10",
            "IPv4",
            "80/TCP",
            "forward",
            "10800s",
            "2:",
            "10.244.1.1:8080,",
            "10.244.1.2:8080",
        ]
    );
    assert!(stdout.lines().all(|line| line == line.trim()), "no blanks around:\n{stdout}");
}

#[test]
fn input_errors_go_to_stderr_one_line_each_and_are_no_failure() {
    let broken =
        format!("{MANIFEST}---\nkind: [\n---\n{}", MANIFEST.replace("port: 80}", "port: 0}"));
    let output = plan(&broken.replace("name: here", "name: there"), &[]);
    assert!(output.status.success(), "{output:?}");
    let stderr = text(&output.stderr);
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("warning: ")), "{stderr}");
    for (start, part) in [
        ("warning: Node here: ", "does not exist"),
        ("warning: Service shop/cart: ", "twice"),
        ("warning: file all.yaml, document 4: ", "does not parse"),
    ] {
        let found = lines.iter().any(|line| line.starts_with(start) && line.contains(part));
        assert!(found, "{start}…{part} in:\n{stderr}");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_a_failure_that_names_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_sockline"))
        .args(["plan", "--manifests", "/does/not/exist", "--node-name", "here"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: reading the folder /does/not/exist: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
