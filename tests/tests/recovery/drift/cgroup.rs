//! The cgroup that the programs are attached to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sockline_testbed::tcp_ask;

use super::{eventually_repaired, serving};
use crate::common::{CART, REPAIRS, WebNode, eventually, holds, ip, options};

/// A cgroup within the node's.
struct Cgroup(PathBuf);

impl Cgroup {
    fn within(parent: &Path, name: &str) -> Self {
        let this = Self(parent.join(name));
        this.create();
        this
    }

    fn create(&self) {
        fs::create_dir(&self.0).unwrap();
        fs::write(self.0.join("cgroup.type"), "threaded").unwrap();
    }

    /// As soon as the threads in it have ended.
    fn remove(&self) {
        eventually("the cgroup to be empty", || fs::remove_dir(&self.0));
    }

    /// A connect from within.
    fn ask(&self, node: &WebNode, cluster_ip: &str) -> io::Result<String> {
        let address = (ip(cluster_ip), 80).into();
        node.client.run(|| {
            fs::write(self.0.join("cgroup.threads"), "0")?;
            tcp_ask(address).map(|reply| reply.who)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.0.exists() {
            self.remove();
        }
    }
}

fn on(cgroup: &Cgroup) -> sockline_testbed::AgentOptions {
    let mut options = options(&REPAIRS);
    options.cgroup = Some(cgroup.0.clone());
    options
}

#[test]
fn an_agent_with_another_cgroup_attaches_there_and_detaches_from_the_first() {
    let (node, mut agent, _damage) = serving();
    agent.stop().unwrap();
    let inner = Cgroup::within(node.cgroup(), "inner");
    let _next = node.agent(&on(&inner)).unwrap();
    inner.ask(&node, CART).unwrap();
    node.assert_untouched(CART);
    assert_eq!(node.status()["cgroup"], inner.0.to_str().unwrap());
    assert_eq!(node.condition("HooksAttached"), "True");
}

#[test]
fn a_recreated_cgroup_gets_new_links() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let inner = Cgroup::within(node.cgroup(), "inner");
    let agent = node.agent(&on(&inner)).unwrap();
    inner.ask(&node, CART).unwrap();
    inner.remove();
    eventually("the status to tell", || {
        let hooks = node.status()["hooks"].clone();
        holds(hooks[0]["state"] == "on-another-cgroup", hooks)
    });
    inner.create();
    eventually_repaired(&agent, "link", 9);
    inner.ask(&node, CART).unwrap();
    assert_eq!(node.condition("HooksAttached"), "True");
}
