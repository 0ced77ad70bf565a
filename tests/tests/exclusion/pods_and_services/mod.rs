//! Excluded pods and services: by label, annotation, namespace and the agent's options.

mod persistence;
mod selection;

use std::net::SocketAddr;

use serde_json::Value;
use sockline_testbed::{Ns, objects::Pod};

use crate::common::{WebNode, eventually, holds, ip};

const WEB: &str = "10.96.0.10";
const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";
const OTHER_UID: &str = "7d1f6a52-2f0b-4b7c-9a57-0c1f4d7f2b20";

const REDIRECT: &str = "sockline.dev/redirect";

/// The running Pod `shop/meshed` of this node.
fn meshed() -> Pod {
    Pod::new("shop/meshed").uid(UID)
}

/// Another one.
fn plain() -> Pod {
    Pod::new("shop/plain").uid(OTHER_UID)
}

/// [`meshed`] with the label that excludes it.
fn excluded() -> Value {
    meshed().label(REDIRECT, "disabled").object()
}

/// Whether a connect goes out as if there were no Sockline: to nowhere.
fn untouched(container: &Ns) -> Result<(), String> {
    crate::common::untouched(container, WEB)
}

fn served(container: &Ns) -> Result<(), String> {
    let seen = container.tcp_ask(SocketAddr::new(ip(WEB), 80));
    holds(seen.is_ok(), format!("{seen:?}"))
}

#[track_caller]
fn assert_untouched(container: &Ns) {
    if let Err(seen) = untouched(container) {
        panic!("{seen}");
    }
}

#[track_caller]
fn assert_served(container: &Ns) {
    if let Err(seen) = served(container) {
        panic!("not served: {seen}");
    }
}

/// A web service; no pod is excluded yet.
fn node() -> WebNode {
    let node = WebNode::new(1);
    node.put_service("web", WEB);
    node
}

/// Waits until the kernel knows the cgroups of this many pods.
#[track_caller]
fn eventually_excluded(node: &WebNode, count: usize) {
    eventually(&format!("{count} pods to be excluded"), || {
        let status = node.status();
        let pods = status["agent"]["excludedPods"].as_array().unwrap();
        let found = pods.iter().filter(|pod| pod["state"] == "excluded").count();
        holds(found == count && pods.len() == count, format!("{pods:?}"))
    });
}
