//! The alerts of `deploy/monitoring`, in a real Prometheus that scrapes a real agent.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::json;
use sockline_ebpf::id::ServiceId;
use sockline_testbed::{Prometheus, objects, promtool};

use crate::common::{CART, REPAIRS, WebNode, damage::Damage, eventually, holds};

const NODE: &str = "node-a";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring")
}

/// Alerts that the tests below bring about on a node.
const SEEN_TO_FIRE: [&str; 11] = [
    "SocklineAgentAway",
    "SocklineInvalidObjects",
    "SocklineRefusals",
    "SocklineServicePortsOutOfSync",
    "SocklineMapNearlyFull",
    "SocklineDrift",
    "SocklineKernelFaults",
    "SocklineFailedOpen",
    "SocklineConnectsFail",
    "SocklineEndpointsDead",
    "SocklineBypassedAgentGone",
];
/// The others, of which only promtool's unit tests see that they fire, and what sees their metric change.
const UNIT_TESTED: [(&str, &str); 7] = [
    ("SocklineStateStale", "source::api_server_outage"),
    ("SocklineOtherNodesOutOfSync", "limits::other_nodes"),
    ("SocklineSyncErrors", "recovery"),
    ("SocklineProgrammingSlow", "a change would have to take longer than 5 s"),
    ("SocklineExcludedPodsUnresolved", "exclusion"),
    ("SocklineHelperGone", "security::privileges"),
    ("SocklineConnectsHanging", "observability::telemetry::hanging_connects"),
];

#[test]
fn each_alert_fires_in_a_test_here_or_has_a_reason_why_not() {
    let rules = fs::read_to_string(folder().join("sockline.rules.yml")).unwrap();
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let unit_tested = UNIT_TESTED.iter().map(|(name, _)| *name);
    assert_eq!(alerts, SEEN_TO_FIRE.into_iter().chain(unit_tested).collect());
}

/// The rules with seconds in place of minutes and ten in place of an hour, so that a test need not last for minutes.
fn rules_in_seconds() -> String {
    let rules = fs::read_to_string(folder().join("sockline.rules.yml")).unwrap();
    let mut seconds = String::new();
    let mut rest = rules.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - at);
        let (before, after) = rest.split_at(at + digits);
        seconds += before;
        let is_minutes = ["m]", "m)", "m\n"].iter().any(|end| after.starts_with(end));
        let is_hours = after.starts_with("h]");
        seconds += if is_minutes { "s" } else { "" };
        seconds += if is_hours { "0s" } else { "" };
        rest = if is_minutes || is_hours { &after[1..] } else { after };
    }
    seconds + rest
}

/// Names of the alerts that fire.
fn firing(prometheus: &Prometheus<'_>) -> BTreeSet<String> {
    let series = prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap();
    series.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
}

/// Waits until just these alerts fire.
#[track_caller]
fn eventually_firing(prometheus: &Prometheus<'_>, names: &[&str], mut cause: impl FnMut()) {
    let expected: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    eventually("the alerts", || {
        cause();
        let firing = firing(prometheus);
        holds(firing == expected, format!("{firing:?}, not {expected:?}"))
    });
}

#[test]
fn prometheus_accepts_the_rules_and_their_unit_tests_pass() {
    promtool(&["check", "rules", "sockline.rules.yml"], &folder()).unwrap();
    promtool(&["test", "rules", "sockline.rules.test.yml"], &folder()).unwrap();
}

#[test]
fn alerts_fire_and_resolve_with_what_happens_on_a_node() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent();
    let prometheus = Prometheus::start(node.outside(), &rules_in_seconds()).unwrap();
    prometheus.set_targets(&[(NODE, agent.listen())]).unwrap();

    eventually("Prometheus to evaluate every rule", || {
        let rules = prometheus.api("rules").map_err(|error| error.to_string())?;
        let groups = rules["groups"].as_array().unwrap().iter();
        let rules: Vec<_> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(rules.len() > 10, "{rules:#?}");
        let unhealthy: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        holds(unhealthy.is_empty(), format!("{unhealthy:#?}"))
    });
    let up = format!("up{{instance=\"{NODE}\"}} == 1");
    eventually("a scrape", || holds(!prometheus.query(&up).unwrap().is_empty(), prometheus.log()));
    assert_eq!(firing(&prometheus), BTreeSet::new());

    // A Service without endpoints is called, and an object has a field that cannot be used.
    node.put("cart.yaml", &[objects::service("cart", CART)]);
    node.eventually_refused(CART);
    let mut invalid = objects::service("invalid", "10.96.0.9");
    invalid["metadata"]["annotations"]["sockline.dev/redirect"] = "perhaps".into();
    node.put("invalid.yaml", &[invalid]);
    let both = ["SocklineInvalidObjects", "SocklineRefusals"].map(ToOwned::to_owned);
    eventually("both alerts", || {
        node.ask(CART).expect_err("there is no endpoint");
        let firing = firing(&prometheus);
        holds(firing == both.clone().into(), format!("{firing:?}"))
    });
    let refusals = prometheus.query("ALERTS{alertname=\"SocklineRefusals\"}").unwrap();
    let labels = &refusals[0]["metric"];
    assert_eq!(labels["namespace"], objects::NAMESPACE);
    assert_eq!(labels["service"], "cart");
    assert_eq!(labels["reason"], "no-endpoints");
    node.remove("invalid.yaml");
    node.put_service("cart", CART);
    eventually("both alerts to resolve", || {
        let firing = firing(&prometheus);
        holds(firing.is_empty(), format!("{firing:?}"))
    });

    // The agent is killed, and comes back at another port.
    agent.kill().unwrap();
    let away = BTreeSet::from(["SocklineAgentAway".to_owned()]);
    eventually("the alert of the agent", || {
        let firing = firing(&prometheus);
        holds(firing == away, format!("{firing:?}"))
    });
    let agent = node.start_agent();
    prometheus.set_targets(&[(NODE, agent.listen())]).unwrap();
    eventually("the alert of the agent to resolve", || {
        let firing = firing(&prometheus);
        holds(firing.is_empty(), format!("{firing:?}"))
    });
}

const BROKEN: &str = "10.96.0.7";

#[test]
fn alerts_of_the_kernel_state_and_of_failing_connects_fire_and_resolve() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let args = ["--max-frontends", "8", "--fail-open-after", "10s", REPAIRS[0], REPAIRS[1]];
    let mut agent = node.start_agent_with(&args);
    let prometheus = Prometheus::start(node.outside(), &rules_in_seconds()).unwrap();
    prometheus.set_targets(&[(NODE, agent.listen())]).unwrap();
    eventually_firing(&prometheus, &[], || ());

    // Eight frontends of four Services fill the map, and the fifth Service has no room.
    let others = ["a", "b", "c", "d"];
    for (number, name) in (10..).zip(others) {
        node.put_service(name, &format!("10.96.0.{number}"));
    }
    eventually_firing(
        &prometheus,
        &["SocklineMapNearlyFull", "SocklineServicePortsOutOfSync"],
        || (),
    );
    others.iter().for_each(|name| node.remove(&format!("{name}.yaml")));
    eventually_firing(&prometheus, &[], || ());

    // An endpoint at which nothing listens.
    let mut broken = objects::slice("broken", &node.web_addresses());
    broken["ports"] = json!([{"name": "web", "port": 9, "protocol": "TCP"}]);
    node.put("broken.yaml", &[objects::web_service("broken", BROKEN), broken]);
    node.eventually_refused(BROKEN);
    eventually_firing(&prometheus, &["SocklineConnectsFail", "SocklineEndpointsDead"], || {
        node.ask(BROKEN).expect_err("nothing listens");
    });
    node.remove("broken.yaml");
    eventually_firing(&prometheus, &[], || ());

    // Another program detaches the programs.
    let damage = Damage::of(&node);
    eventually_firing(&prometheus, &["SocklineDrift"], || damage.detach("connect4"));
    eventually_firing(&prometheus, &[], || ());

    // And gives the backends to another service.
    let of_kernel = ["SocklineDrift", "SocklineFailedOpen", "SocklineKernelFaults"];
    eventually_firing(&prometheus, &of_kernel, || {
        damage.change_backends(|backend| backend.service = ServiceId(1 << 20));
        let _ = node.ask(CART);
    });
    eventually_firing(&prometheus, &[], || ());

    // No agent runs for too long.
    agent.kill().unwrap();
    node.eventually_untouched(CART);
    agent = node.start_agent_with(&args);
    prometheus.set_targets(&[(NODE, agent.listen())]).unwrap();
    eventually("the alert of bypassed calls", || {
        let firing = firing(&prometheus);
        holds(firing.contains("SocklineBypassedAgentGone"), format!("{firing:?}"))
    });
    eventually_firing(&prometheus, &[], || ());
}
