//! Network namespaces that were made inside of pods, as by a cluster in a container.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use crate::common::{WebNode, error_of, eventually, holds, ip};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use sockline_testbed::{Ns, PodCgroup, TcpServer, objects};

const WEB: &str = "10.96.0.10";
const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";
const OTHER_UID: &str = "7d1f6a52-2f0b-4b7c-9a57-0c1f4d7f2b20";
const EXCLUDE: [&str; 1] = ["--exclude-nested-namespaces"];

fn web() -> SocketAddr {
    SocketAddr::new(ip(WEB), 80)
}

/// A network namespace mounted as a container runtime does.
struct Mounted(PathBuf);

impl Mounted {
    fn new(node: &WebNode, pod: &Ns) -> Self {
        let path = node.temp().join(format!("netns-{}", pod.name()));
        fs::write(&path, "").unwrap();
        mount(Some(pod.path().as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A web service of this cluster, and a pod in which another cluster uses the same address.
struct Nested {
    own: Ns,
    inner: Ns,
    _inner_server: TcpServer,
    _mounted: Mounted,
    _cgroup: PodCgroup,
    node: WebNode,
}

impl Nested {
    fn new() -> Self {
        let node = WebNode::new(1);
        node.put_service("web", WEB);
        node.put("pod.yaml", &[objects::Pod::new("shop/ci").uid(UID).object()]);
        let mounted = Mounted::new(&node, &node.client);
        let cgroup = node.pod_cgroup(UID).unwrap();
        let own = cgroup.container(&node.client, "own").unwrap();
        let inner = own.nested("inner").unwrap();
        let address = format!("{WEB}/32");
        for args in [&["link", "set", "lo", "up"][..], &["address", "add", &address, "dev", "lo"]] {
            let output = inner.output(Command::new("ip").args(args)).unwrap();
            assert!(output.status.success(), "{}", error_of(&output));
        }
        let inner_server = inner.tcp_server(80).unwrap();
        Self { own, inner, _inner_server: inner_server, _mounted: mounted, _cgroup: cgroup, node }
    }

    /// The pod that answers in the pod's own namespace.
    fn ask_own(&self) -> Result<String, String> {
        self.own.tcp_ask(web()).map(|reply| reply.who).map_err(|error| error.to_string())
    }

    /// The inner namespace has no route to this cluster's pods: a call that was translated fails.
    fn ask_inner(&self) -> Result<String, Option<i32>> {
        self.inner.tcp_ask(web()).map(|reply| reply.who).map_err(|error| error.raw_os_error())
    }

    fn found(&self) -> Value {
        self.node.status()["agent"]["nestedNamespaces"].clone()
    }

    fn check_result(&self) -> Value {
        let output = self.node.look(&["check", "-o", "json"]);
        let results = crate::common::results(&output);
        results.into_iter().find(|result| result["check"] == "namespaces.nested").unwrap()
    }
}

/// The status's list with the pod alone.
fn reported(mut entry: Value) -> Value {
    entry["namespace"] = "shop".into();
    entry["name"] = "ci".into();
    entry["uid"] = UID.into();
    json!([entry])
}

#[test]
fn nested_namespace_is_translated_by_default_and_named_with_its_pod() {
    let nested = Nested::new();
    let _agent = nested.node.start_agent();
    let expected = reported(json!({"namespaces": 1, "excluded": false}));
    eventually("the pod to be named", || {
        // The agent samples some of many calls.
        assert_eq!(nested.ask_own(), Ok("web-0".into()));
        assert_eq!(nested.ask_inner(), Err(Some(libc::ENETUNREACH)));
        let found = nested.found();
        holds(found == expected, found)
    });
    let result = nested.check_result();
    assert_eq!(result["state"], "warning", "{result:#}");
    assert!(result["message"].as_str().unwrap().ends_with(": shop/ci"), "{result:#}");
    assert!(result["remedy"].as_str().unwrap().contains("sockline.dev/redirect"), "{result:#}");
}

#[test]
fn excluded_nested_namespace_reaches_what_is_there_and_pods_never_wait_for_that() {
    let nested = Nested::new();
    let mut agent = nested.node.start_agent_with(&EXCLUDE);
    // The first call of each namespace.
    assert_eq!(nested.ask_own(), Ok("web-0".into()));
    assert_eq!(nested.ask_inner(), Err(Some(libc::ENETUNREACH)));
    eventually("the inner namespace to be excluded", || match nested.ask_inner() {
        Ok(who) if who == "inner" => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    assert_eq!(nested.ask_own(), Ok("web-0".into()));
    // A new pod, whose namespace the agent does not know.
    let new = nested.node.pod("new", &[ip("10.244.9.10")]).unwrap();
    let cgroup = nested.node.pod_cgroup(OTHER_UID).unwrap();
    let container = cgroup.container(&new, "new").unwrap();
    assert_eq!(container.tcp_ask(web()).unwrap().who, "web-0");
    // The agent has looked at it when it knows one that dialled later.
    let second = nested.own.nested("second").unwrap();
    assert!(second.tcp_ask(web()).is_err());
    eventually("status to say so", || {
        let found = nested.found();
        holds(found == reported(json!({"namespaces": 2, "excluded": true})), found)
    });
    assert_eq!(nested.check_result()["state"], "ok");
    assert_eq!(container.tcp_ask(web()).unwrap().who, "web-0", "it was never mounted");

    agent.stop().unwrap();
    assert_eq!(nested.ask_inner(), Ok("inner".into()), "also without an agent");
    let _agent = nested.node.start_agent();
    assert_eq!(nested.ask_inner(), Err(Some(libc::ENETUNREACH)), "the option was taken back");
}

#[test]
fn excluded_calls_are_counted_as_bypassed() {
    let nested = Nested::new();
    let agent = nested.node.start_agent_with(&EXCLUDE);
    let bypassed = format!(
        "sockline_connections_bypassed_total\
         {{namespace=\"{}\",service=\"web\",port=\"web\",protocol=\"TCP\",reason=\"planned\"}}",
        objects::NAMESPACE
    );
    assert_eq!(nested.ask_own(), Ok("web-0".into()));
    eventually("an excluded call", || nested.ask_inner().map_err(|error| format!("{error:?}")));
    assert_eq!(crate::common::series(&agent.metrics().unwrap(), &bypassed), Some(1.0));
}
