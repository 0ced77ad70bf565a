//! What is damaged from outside while the agent runs is mended and counted.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod common;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use common::{REPAIRS, Stage, damage::Damage, eventually, holds, ip, options, series};
use sockline_ebpf::frontend::REFUSE;
use sockline_testbed::{Agent, tcp_ask};

const CART: &str = "10.96.0.1";

fn serving() -> (Stage, Agent, Damage) {
    let stage = Stage::new(2);
    stage.put_service("cart", CART);
    let agent = stage.agent_with(&REPAIRS);
    let damage = Damage::of(&stage);
    (stage, agent, damage)
}

fn repairs(agent: &Agent, object: &str) -> usize {
    let name = format!("sockline_repairs_total{{object=\"{object}\"}}");
    series(&agent.metrics().unwrap(), &name).unwrap_or_default() as usize
}

#[track_caller]
fn eventually_repaired(agent: &Agent, object: &str, count: usize) {
    eventually(&format!("{count} repairs of an {object}"), || {
        let seen = repairs(agent, object);
        holds(seen == count, seen)
    });
}

#[test]
fn a_deleted_frontend_is_put_back() {
    let (stage, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.remove_frontend(&entry.key);
    eventually_repaired(&agent, "entry", 1);
    assert_eq!(damage.frontend(80), entry);
    stage.assert_served(CART);
}

#[test]
fn a_changed_frontend_is_put_right() {
    let (stage, agent, damage) = serving();
    let entry = damage.frontend(80);
    damage.set_frontend(sockline_ebpf::frontend::Frontend { action: REFUSE, ..entry });
    eventually_repaired(&agent, "entry", 1);
    assert_eq!(damage.frontend(80), entry);
    stage.assert_served(CART);
}

#[test]
fn a_frontend_that_nobody_planned_is_removed() {
    let (_stage, agent, damage) = serving();
    let mut foreign = damage.frontend(80);
    foreign.key.port = 81u16.to_be();
    damage.set_frontend(foreign);
    eventually_repaired(&agent, "entry", 1);
    let left = damage.frontends().keys().map(Result::unwrap).find(|key| *key == foreign.key);
    assert_eq!(left, None);
}

#[test]
fn backends_with_another_address_are_put_right() {
    let (stage, agent, damage) = serving();
    let changed = damage.change_backends(|backend| backend.port = 1u16.to_be());
    assert_eq!(changed, 4, "two pods behind two service ports");
    eventually_repaired(&agent, "entry", 4);
    stage.assert_served(CART);
}

#[test]
fn a_lost_slot_is_put_back() {
    let (stage, agent, damage) = serving();
    damage.clear_slot(damage.frontend(80).slot_start);
    eventually_repaired(&agent, "entry", 1);
    assert_eq!(stage.spread(CART, 30).len(), 2, "both pods get connects again");
}

#[test]
fn a_cleared_filter_is_put_back() {
    let (stage, agent, damage) = serving();
    damage.clear_filter();
    eventually_repaired(&agent, "entry", 2);
    stage.assert_served(CART);
}

#[test]
fn a_filter_that_was_cleared_while_the_agent_was_down_is_put_right_at_the_start() {
    let (stage, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.clear_filter();
    stage.assert_untouched(CART);
    let _next = stage.agent();
    stage.assert_served(CART);
}

#[test]
fn backends_that_were_changed_while_the_agent_was_down_are_put_right_by_the_first_sync() {
    let (stage, mut agent, damage) = serving();
    agent.stop().unwrap();
    damage.change_backends(|backend| backend.service += 1000);
    let next = stage.agent();
    stage.assert_served(CART);
    assert_eq!(stage.wrong("failures"), [""; 0], "{}", next.log());
}

#[test]
fn repairs_are_in_the_status_and_in_the_log() {
    let (stage, agent, damage) = serving();
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "entry", 1);
    assert_eq!(stage.status()["agent"]["repairs"], 1);
    let log = agent.log();
    let lines = common::lines_with(&log, "the kernel differed from the plan and was repaired");
    assert_eq!(lines.len(), 1, "{log}");
}

#[test]
fn nothing_is_repaired_where_nothing_is_damaged() {
    let (stage, agent, damage) = serving();
    stage.put_service("ship", "10.96.0.2");
    stage.eventually_served("10.96.0.2");
    stage.remove("ship.yaml");
    stage.eventually_untouched("10.96.0.2");
    // One repair proves that a comparison has come past.
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "entry", 1);
    assert_eq!(repairs(&agent, "link"), 0);
}

#[test]
fn every_deleted_link_is_made_again() {
    let (stage, agent, damage) = serving();
    let links: Vec<PathBuf> =
        fs::read_dir(damage.pins().links()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for link in &links {
        fs::remove_file(link).unwrap();
    }
    eventually_repaired(&agent, "link", links.len());
    assert!(links.iter().all(|link| link.exists()), "not all of {links:?} are back");
    assert_eq!(stage.status()["attached"], true);
    stage.assert_served(CART);
}

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
    fn ask(&self, stage: &Stage, cluster_ip: &str) -> io::Result<String> {
        let address = (ip(cluster_ip), 80).into();
        stage.client.run(|| {
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
fn an_agent_that_is_given_another_cgroup_attaches_there_and_leaves_the_first() {
    let (stage, mut agent, _damage) = serving();
    agent.stop().unwrap();
    let inner = Cgroup::within(stage.node.cgroup(), "inner");
    let _next = stage.node.agent(&on(&inner)).unwrap();
    inner.ask(&stage, CART).unwrap();
    // The kernel frees the old links on a worker.
    stage.eventually_untouched(CART);
    assert_eq!(stage.status()["cgroup"], inner.0.to_str().unwrap());
    assert_eq!(stage.status()["attached"], true);
}

#[test]
fn a_cgroup_that_was_made_again_gets_new_links() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let inner = Cgroup::within(stage.node.cgroup(), "inner");
    let agent = stage.node.agent(&on(&inner)).unwrap();
    inner.ask(&stage, CART).unwrap();
    inner.remove();
    eventually("the status to tell", || {
        let hooks = stage.status()["hooks"].clone();
        holds(hooks[0]["state"] == "on another cgroup", hooks)
    });
    inner.create();
    eventually_repaired(&agent, "link", 9);
    inner.ask(&stage, CART).unwrap();
    assert_eq!(stage.status()["attached"], true);
}
