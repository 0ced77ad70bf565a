//! Kernel state that is changed from outside while the agent runs is repaired and counted.

mod cgroup;
mod folder;
mod links;
mod maps;
mod reports;

use std::fs;

use sockline_testbed::Agent;

use crate::common::{
    CART, REPAIRS, WebNode, damage::Damage, eventually, hammer::Hammer, holds, ip, series,
};

fn serving() -> (WebNode, Agent, Damage) {
    let (node, agent) = WebNode::serving(2, &REPAIRS);
    let damage = Damage::of(&node);
    (node, agent, damage)
}

fn repairs(agent: &Agent, object: &str) -> usize {
    let name = format!("sockline_drift_repairs_total{{object=\"{object}\"}}");
    series(&agent.metrics().unwrap(), &name).unwrap_or_default() as usize
}

#[track_caller]
fn eventually_repaired(agent: &Agent, object: &str, count: usize) {
    eventually(&format!("{count} repairs of an {object}"), || {
        let seen = repairs(agent, object);
        holds(seen == count, seen)
    });
}

/// Damages the node until a connect to the service shows it; returns how often. The agent may repair it at any moment,
/// also before that connect.
#[track_caller]
fn until_untouched(node: &WebNode, mut damage: impl FnMut()) -> usize {
    let mut times = 0;
    eventually("the damage to be seen", || {
        damage();
        times += 1;
        node.untouched(CART)
    });
    times
}

fn link_ids(damage: &Damage) -> Vec<u32> {
    let links = fs::read_dir(damage.pins().links()).unwrap();
    let mut ids: Vec<u32> =
        links.map(|entry| damage.link(&entry.unwrap().path()).info().unwrap().id()).collect();
    ids.sort_unstable();
    ids
}

/// Connects continuously during an action; none of the connects may fail.
fn without_a_gap(node: &WebNode, action: impl FnOnce()) {
    let hammer = Hammer::start(&node.client, vec![(ip(CART), 80).into()]);
    hammer.wait_for(50);
    action();
    hammer.wait_for(50);
    hammer.assert_nothing_failed();
}
