//! The alerts of `deploy/monitoring`, in a real Prometheus that scrapes a real agent.

use std::{collections::BTreeSet, fs, path::PathBuf};

use sockline_testbed::{Prometheus, objects, promtool};

use crate::common::{CART, WebNode, eventually, holds};

const NODE: &str = "node-a";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring")
}

/// The rules with seconds in place of minutes, so that a test need not last for minutes.
fn rules_in_seconds() -> String {
    let rules = fs::read_to_string(folder().join("sockline.rules.yml")).unwrap();
    let mut seconds = String::new();
    let mut rest = rules.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - at);
        let (before, after) = rest.split_at(at + digits);
        seconds += before;
        let is_minutes = ["m]", "m)", "m\n"].iter().any(|end| after.starts_with(end));
        seconds += if is_minutes { "s" } else { "" };
        rest = if is_minutes { &after[1..] } else { after };
    }
    seconds + rest
}

/// Names of the alerts that fire.
fn firing(prometheus: &Prometheus<'_>) -> BTreeSet<String> {
    let series = prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap();
    series.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
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
