//! The role and the capabilities of the manifests are what the agent needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use k8s_openapi::api::rbac::v1::ClusterRole;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use sockline_testbed::{Ns, http_get, sockline_binary};

use super::{deploy, document, documents};
use crate::common::{CART, WebNode, error_of, eventually, holds};

/// The verbs that the role allows, by API group and resource.
fn allowed() -> BTreeMap<(String, String), BTreeSet<String>> {
    let role = documents(&deploy().join("base/cluster-role.yaml")).remove(0);
    let role: ClusterRole = serde_json::from_value(role).unwrap();
    let mut allowed = BTreeMap::new();
    for rule in role.rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.clone().unwrap() {
                let verbs = rule.verbs.iter().cloned().collect();
                assert!(allowed.insert((group.clone(), resource), verbs).is_none());
            }
        }
    }
    allowed
}

/// An API server that does not answer, and the requests it has received.
fn listen_for_requests(ns: &Ns) -> (SocketAddr, std::sync::mpsc::Receiver<(String, String)>) {
    let listener = ns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut line = String::new();
            if BufReader::new(stream.unwrap()).read_line(&mut line).is_err() {
                continue;
            }
            // `GET /api/v1/services?…` or `GET /apis/discovery.k8s.io/v1/endpointslices?…`
            let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let request = match parts[..] {
                ["api", "v1", resource] => (String::new(), resource.to_owned()),
                ["apis", group, _, resource] => (group.to_owned(), resource.to_owned()),
                _ => ("?".to_owned(), line),
            };
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

#[test]
fn the_role_allows_exactly_what_the_agent_reads() {
    let allowed = allowed();
    for (resource, verbs) in &allowed {
        let expected = ["list", "watch"].map(ToOwned::to_owned).into();
        assert_eq!(*verbs, expected, "{resource:?}");
    }
    let node = WebNode::new(0);
    let (server, asked) = listen_for_requests(node.outside());
    let kubeconfig = node.temp().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let options = sockline_testbed::AgentOptions {
        kubeconfig: Some(kubeconfig),
        until_ready: false,
        ..crate::common::options(&[])
    };
    let _agent = node.agent(&options).unwrap();
    let mut seen = BTreeSet::new();
    let wanted: BTreeSet<_> = allowed.into_keys().collect();
    eventually("all that is allowed to be asked for", || {
        seen.extend(asked.try_iter());
        holds(seen.is_superset(&wanted), format!("{seen:?} of {wanted:?}"))
    });
    assert_eq!(seen, wanted);
}

/// `sockline` with the DaemonSet's capabilities and no way to get others.
fn confined(args: &[&str]) -> Command {
    let context =
        document("base/daemonset.yaml")["spec"]["template"]["spec"]["containers"][0]["securityContext"].clone();
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let mut set = String::from("-all");
    for capability in context["capabilities"]["add"].as_array().unwrap() {
        set += &format!(",+{}", capability.as_str().unwrap().to_lowercase());
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--no-new-privs", &format!("--bounding-set={set}")])
        .arg(sockline_binary().unwrap())
        .args(args)
        .stdin(Stdio::null());
    command
}

/// A confined agent; ended with SIGTERM when dropped.
struct Confined(Child);

impl Confined {
    fn start(node: &WebNode) -> Self {
        let listen = node.outside().free_port().unwrap();
        let mut command = confined(&["agent", "--node-name", "node-a"]);
        command.arg("--manifests").arg(node.manifests());
        command.arg("--cgroup-root").arg(node.cgroup());
        command.arg("--bpf-root").arg(node.bpffs());
        command.arg("--admin-socket").arg(node.temp().join("admin.sock"));
        command.args(["--metrics-bind-address", &listen.to_string()]);
        let mut agent = Self(node.outside().child(&mut command).unwrap());
        eventually("the confined agent to be ready", || {
            if let Some(status) = agent.0.try_wait().unwrap() {
                panic!("the confined agent ended, {status}: its error is above");
            }
            let reply = node.outside().run(|| http_get(listen, "/readyz"));
            reply
                .map_err(|error| error.to_string())
                .and_then(|reply| holds(reply.status == 200, reply.body))
        });
        agent
    }

    fn end(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_daemon_sets_capabilities_are_enough_from_start_to_stop() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    Confined::start(&node).end();
    node.assert_served(CART);
    let agent = Confined::start(&node);
    node.assert_served(CART);
    let bpffs = node.bpffs().to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let mut command = confined(args);
        command.env("SOCKLINE_ADMIN_SOCKET", node.temp().join("admin.sock"));
        node.outside().output(&mut command).unwrap()
    };
    for listing in ["status", "services", "backends"] {
        let output = run(&[listing, "--bpf-root", &bpffs]);
        assert!(output.status.success(), "{listing}: {}", error_of(&output));
    }
    agent.end();
    let output = run(&["cleanup", "--bpf-root", &bpffs]);
    assert!(output.status.success(), "{}", error_of(&output));
    node.assert_untouched(CART);
}

#[test]
fn cleanup_with_wait_ends_on_sigterm() {
    let node = WebNode::new(0);
    let mut command = confined(&["cleanup", "--wait", "--bpf-root"]);
    command.arg(node.bpffs()).stdout(Stdio::piped());
    let mut child = node.outside().child(&mut command).unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("nothing to remove in "), "{said}");
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}
