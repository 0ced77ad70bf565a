//! Connects to the probe service through the hooks.
//!
//! This process has the listeners, on loopback. Two children connect: one in a new cgroup below the attached one, as
//! a process of a new pod, and one in the attached cgroup itself, as a process of the host.

mod connects;
mod listeners;
mod place;
mod placed;
pub mod probe;

use std::{path::Path, thread};

use tokio::runtime::Runtime;

pub use self::place::is_below;
use self::{
    connects::{Outcome, REFUSED_BY_HOOK, Request},
    listeners::Bound,
    place::Place,
    placed::Placed,
};
use super::{CheckResult, Node, cgroup::is_root};
use crate::dataplane::FeatureSet;

/// What to do if a connect reached something else, or nothing.
const NOT_TRANSLATED: &str = "the hooks did not translate the call: look at links.attached, \
                              links.foreign and maps.drift above";
/// What to do if a connect was refused.
const REFUSED: &str = "links.foreign above names the other programs on the hooks";

pub fn check(node: &Node<'_>, runtime: &Runtime) -> Vec<CheckResult> {
    let bound = match Bound::open() {
        Ok(bound) => bound,
        Err(error) => {
            return vec![CheckResult::failed(
                "live.service",
                format!("cannot listen on loopback: {error}"),
                "set the loopback device up (`ip link set lo up`)",
            )];
        }
    };
    let placed = match Placed::new(node, runtime, bound.listeners) {
        Ok(placed) => placed,
        Err(result) => return vec![*result],
    };
    let request = &Request {
        service: placed.service(),
        listeners: bound.listeners,
        token: bound.token.clone(),
        set_retval: node.record.features.contains(FeatureSet::SET_RETVAL),
    };
    // In parallel, so that the timeouts of both do not add up.
    let cgroup = &node.record.cgroup;
    let results = thread::scope(|scope| {
        let both = [Place::Fresh, Place::Host]
            .map(|place| (place, scope.spawn(move || place.run(cgroup, request))));
        both.into_iter()
            .flat_map(|(place, outcome)| match outcome.join() {
                Ok(outcome) => results(place, outcome, cgroup),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect::<Vec<_>>()
    });
    let mut all = vec![placed.result()];
    all.extend(results);
    all.extend(placed.remove());
    all
}

fn results(place: Place, outcome: anyhow::Result<Vec<Outcome>>, cgroup: &Path) -> Vec<CheckResult> {
    match outcome {
        // A cgroup below the root that enables controllers for its children has no processes itself.
        Err(error) if place == Place::Host && !is_root(cgroup) => vec![CheckResult::ok(
            format!("live.{}", place.id()),
            format!("skipped: the host is not below {} ({error:#})", cgroup.display()),
        )],
        Err(error) => vec![CheckResult::failed(
            format!("live.{}", place.id()),
            format!("cannot connect from {}: {error:#}", place.in_words()),
            "run this command as root, with the host's cgroup file system mounted and writable",
        )],
        Ok(outcomes) => outcomes
            .into_iter()
            .map(|outcome| {
                let check = format!("live.{}.{}", place.id(), outcome.what);
                match outcome.result {
                    Ok(message) => CheckResult::ok(check, message),
                    Err(error) => {
                        let remedy =
                            if error.contains(REFUSED_BY_HOOK) { REFUSED } else { NOT_TRANSLATED };
                        CheckResult::failed(check, error, remedy)
                    }
                }
            })
            .collect(),
    }
}
