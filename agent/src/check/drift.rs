//! Whether the maps match the agent's plan.

use tokio::runtime::Runtime;

use super::{CheckResult, Node};
use crate::{admin, dataplane::Drift};

const CHECK: &str = "maps.drift";

pub fn check(node: &Node<'_>, runtime: &Runtime) -> CheckResult {
    if !node.agent_runs {
        return CheckResult::warning(
            CHECK,
            "not compared: only a running agent has a plan",
            "start the agent",
        );
    }
    match runtime.block_on(admin::drift(node.admin_socket)) {
        Ok(drift) => result(&drift),
        Err(error) => CheckResult::failed(
            CHECK,
            format!("not compared: {error:#}"),
            "look at the agent's log",
        ),
    }
}

fn result(drift: &Drift) -> CheckResult {
    let kinds = [
        (drift.frontends_missing, "frontends missing"),
        (drift.frontends_changed, "frontends changed"),
        (drift.frontends_foreign, "frontends that are not planned"),
        (drift.backends, "backends changed"),
        (drift.slots, "slots changed"),
        (drift.filter_words, "words of the filter changed"),
        (drift.names, "names changed"),
        (drift.maps, "maps not in their place"),
        (drift.exclusion, "excluded cgroups changed"),
    ];
    let differs: Vec<String> = kinds
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !differs.is_empty() {
        return CheckResult::failed(
            CHECK,
            differs.join(", "),
            "the agent repairs it at its next comparison (--reconcile-interval); find out which process \
             writes to its maps",
        );
    }
    if drift.services > 0 {
        return CheckResult::warning(
            CHECK,
            format!("{} service ports are not as planned", drift.services),
            "see `state.complete`; until the source can be read in full, services stay as they were",
        );
    }
    CheckResult::ok(CHECK, "the maps match the plan")
}
