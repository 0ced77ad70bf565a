//! The hooks: whether each runs the agent's program on the current cgroup, and which other programs are attached.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckResult, Node};
use crate::dataplane::{self, DataplaneError, HOOKS, HookState};

/// Prefixes of the names of other programs that translate service addresses.
const OTHERS: [(&str, &str); 8] = [
    ("cil_sock", "Cilium's socket load balancer"),
    ("sock4_", "Cilium's socket load balancer"),
    ("sock6_", "Cilium's socket load balancer"),
    ("calico_", "Calico's connect-time load balancer"),
    ("cali_ctlb", "Calico's connect-time load balancer"),
    ("cgroup_connect", "Kmesh"),
    ("mb_", "Merbridge"),
    ("antrea", "Antrea"),
];

/// The damage of the links, one line for each kind; empty if there is none. `programs` are the ids of the running
/// agent's programs; without them, any program of Sockline is accepted.
pub fn damage(
    cgroup: u64,
    hooks: &[HookState],
    programs: Option<&BTreeMap<&str, u32>>,
) -> Vec<String> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let named = match programs {
        Some(_) => BTreeMap::new(),
        None => dataplane::programs_by_id(hooks.iter().filter_map(|hook| Some(hook.link?.0))),
    };
    for hook in hooks {
        let wrong = match hook.link {
            None => Some("not attached"),
            Some((_, 0)) => Some("detached, or on a cgroup that is gone"),
            Some((_, id)) if id != cgroup => Some("attached to another cgroup"),
            Some((program, _)) => {
                let is_ours = match programs {
                    Some(programs) => programs.get(hook.hook) == Some(&program),
                    None => named.get(&program).is_some_and(|seen| seen.name == hook.program_name),
                };
                if !is_ours {
                    Some("attached with a program that is not the agent's")
                } else if !hook.effective.contains(&program) {
                    Some("attached, but not in effect")
                } else {
                    None
                }
            }
        };
        if let Some(wrong) = wrong {
            kinds.entry(wrong).or_default().push(hook.hook);
        }
    }
    kinds
        .into_iter()
        .map(|(wrong, which)| {
            let which =
                if which.len() == hooks.len() { "all hooks".into() } else { which.join(", ") };
            format!("{which} {wrong}")
        })
        .collect()
}

pub fn check(node: &Node<'_>) -> Vec<CheckResult> {
    let check = "links.attached";
    let cgroup = &node.record.cgroup;
    let result = match dataplane::hooks(node.snapshot.pins(), cgroup) {
        Err(error) => unreadable(check, error),
        Ok((id, hooks)) => {
            let programs = node.info.as_ref().map(|info| {
                info.programs.iter().map(|program| (program.hook.as_str(), program.id)).collect()
            });
            let damage = damage(id, &hooks, programs.as_ref());
            if damage.is_empty() {
                CheckResult::ok(
                    check,
                    format!("all {} hooks, to {}", hooks.len(), cgroup.display()),
                )
            } else {
                CheckResult::failed(
                    check,
                    damage.join("; "),
                    if node.status.is_some() {
                        "the agent attaches them again at its next comparison (--reconcile-interval); \
                         look at its log if it does not"
                    } else {
                        "start the agent, which attaches them again"
                    },
                )
            }
        }
    };
    vec![result]
}

/// Other programs on the same hooks.
pub fn foreign(node: &Node<'_>) -> Vec<CheckResult> {
    let check = "links.foreign";
    let hooks = match dataplane::hooks(node.snapshot.pins(), &node.record.cgroup) {
        Err(error) => return vec![unreadable(check, error)],
        Ok((_, hooks)) => hooks,
    };
    let all: BTreeSet<u32> = hooks.iter().flat_map(|hook| hook.effective.iter().copied()).collect();
    let programs = dataplane::programs_by_id(all);
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for hook in &hooks {
        for id in hook.effective.iter().filter(|&&id| hook.link.is_none_or(|link| link.0 != id)) {
            let name = programs.get(id).map_or("", |program| &program.name);
            // A program of another agent, in another cgroup or of an earlier time.
            let owner = if name == hook.program_name {
                Some("another Sockline")
            } else {
                OTHERS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, owner)| *owner)
            };
            // Reading the name of a program takes CAP_SYS_ADMIN.
            let name = if name.is_empty() { format!("program {id}") } else { name.to_owned() };
            let name = owner.map_or(name.clone(), |owner| format!("{name} ({owner})"));
            found.entry(name).or_default().push(hook.hook);
        }
    }
    if found.is_empty() {
        return vec![CheckResult::ok(check, "no programs of others on these hooks")];
    }
    let found: Vec<String> =
        found.into_iter().map(|(name, hooks)| format!("{name} on {}", hooks.join(", "))).collect();
    vec![CheckResult::warning(
        check,
        found.join("; "),
        "the live.* checks show whether connects work; if such a program balances Services, disable that",
    )]
}

fn unreadable(check: &'static str, error: DataplaneError) -> CheckResult {
    let error = anyhow::Error::from(error);
    CheckResult::failed(
        check,
        format!("{error:#}"),
        format!("all {} hooks need a live cgroup and a readable link", HOOKS.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(hook: &'static str, link: Option<(u32, u64)>, effective: &[u32]) -> HookState {
        let program_name = "ours".to_owned();
        HookState { hook, program_name, link, effective: effective.to_vec() }
    }

    #[test]
    fn every_kind_of_damage_has_its_words() {
        let hooks = [
            hook("a", Some((1, 7)), &[9, 1]),
            hook("b", None, &[]),
            hook("c", Some((3, 0)), &[]),
            hook("d", Some((4, 8)), &[]),
            hook("e", Some((9, 7)), &[9]),
            hook("f", Some((6, 7)), &[9]),
            hook("g", None, &[]),
        ];
        let programs = BTreeMap::from([("a", 1), ("c", 3), ("d", 4), ("e", 5), ("f", 6)]);
        assert_eq!(
            damage(7, &hooks, Some(&programs)),
            [
                "d attached to another cgroup",
                "e attached with a program that is not the agent's",
                "f attached, but not in effect",
                "c detached, or on a cgroup that is gone",
                "b, g not attached",
            ]
        );
        assert_eq!(damage(7, &hooks[..1], Some(&programs)), [""; 0]);
        assert_eq!(damage(7, &hooks[1..2], Some(&programs)), ["all hooks not attached"]);
    }
}
