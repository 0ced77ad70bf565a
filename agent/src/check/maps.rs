//! The usage of the maps.

use super::{CheckResult, Node};
use crate::{dataplane::Limits, status::MapUse};

/// From this percentage on, an operator should raise the limit.
const NEARLY_FULL_PERCENT: u64 = 80;

/// The defaults of these two limits are their maximum.
const AT_MAXIMUM: &str = "this limit is at its maximum: remove Services or endpoints, or exclude Services \
                          (`sockline.dev/redirect=disabled`)";

pub fn check(node: &Node<'_>) -> Vec<CheckResult> {
    let Some(status) = &node.status else {
        return vec![match node.snapshot.count_frontends() {
            Ok(frontends) => CheckResult::ok(
                "maps.readable",
                format!("{frontends} frontends; the limits are the running agent's"),
            ),
            Err(error) => CheckResult::failed(
                "maps.readable",
                format!("{:#}", anyhow::Error::from(error)),
                "start the agent; `sockline cleanup` and a new start make new maps",
            ),
        }];
    };
    let unreadable = status.unreadable_maps.iter().map(|map| {
        CheckResult::warning(
            format!("maps.{}", map.name),
            format!("it cannot be read: {}", map.message),
            "if this lasts longer than --reconcile-interval, restart the agent: it creates maps that are missing",
        )
    });
    status.maps.iter().map(fill).chain(unreadable).collect()
}

fn fill(map: &MapUse) -> CheckResult {
    let check = format!("maps.{}", map.name);
    let percent = (map.entries * 100).checked_div(map.max_entries).unwrap_or(100);
    let message = format!("{} of {} ({percent} %)", map.entries, map.max_entries);
    let remedy = match map.name.as_str() {
        "frontends" => "raise --max-frontends",
        "backends" if u64::from(Limits::default().backends) <= map.max_entries => AT_MAXIMUM,
        "slots" if u64::from(Limits::default().slots) <= map.max_entries => AT_MAXIMUM,
        "backends" => "raise --max-backends",
        "slots" => "raise --max-slots",
        "affinity" => "raise --max-affinity",
        "service-names" | "removed-backends" | "carried-counts" => {
            "raise --max-frontends, which this limit follows"
        }
        "excluded" => "exclude fewer pods; this limit is fixed",
        "overflow" => {
            "further sockets are served without a record: `sockline status` names the cgroups that have so many"
        }
        _ => "further entries are not counted; this limit is fixed",
    };
    // When it is full, records of sockets go to the overflow hash, which is slower. Clients stay after they are gone,
    // until others need the room.
    if matches!(map.name.as_str(), "sockets" | "clients") {
        return CheckResult::ok(check, message);
    }
    if map.entries >= map.max_entries {
        CheckResult::failed(check, format!("full: {message}"), remedy)
    } else if percent >= NEARLY_FULL_PERCENT {
        CheckResult::warning(check, message, remedy)
    } else {
        CheckResult::ok(check, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn a_map_is_nearly_full_at_80_percent_and_full_at_100() {
        for (entries, state) in [
            (0, State::Ok),
            (799, State::Ok),
            (800, State::Warning),
            (999, State::Warning),
            (1000, State::Failed),
        ] {
            let map = MapUse {
                name: "frontends".into(),
                entries,
                allocated_entries: 4096,
                max_entries: 1000,
            };
            assert_eq!(fill(&map).state, state, "{entries}");
        }
    }

    #[test]
    fn a_limit_at_its_maximum_is_not_to_be_raised() {
        let full = |name: &str, limit: u32| {
            let limit = u64::from(limit);
            fill(&MapUse {
                name: name.into(),
                entries: limit,
                allocated_entries: limit,
                max_entries: limit,
            })
        };
        let maximum = Limits::default();
        for (name, limit) in [("backends", maximum.backends), ("slots", maximum.slots)] {
            let (at_maximum, below) = (full(name, limit), full(name, limit - 1));
            assert!(format!("{at_maximum:?}").contains("at its maximum"), "{at_maximum:?}");
            assert!(format!("{below:?}").contains(&format!("raise --max-{name}")), "{below:?}");
        }
    }
}
