//! Grafana dashboards of the metrics: of the cluster, of one Service, of one node.

mod cluster;
mod grafana;
mod node;
mod service;
mod shared;

use std::collections::BTreeSet;

use sockline::telemetry::definitions;

use self::grafana::Dashboard;

fn all() -> [Dashboard; 3] {
    [cluster::dashboard(), service::dashboard(), node::dashboard()]
}

/// The files, and their texts.
pub fn files() -> impl Iterator<Item = (String, String)> {
    all().into_iter().map(|dashboard| {
        let file = format!("monitoring/dashboards/{}.json", dashboard.uid);
        let text = serde_json::to_string_pretty(&dashboard.to_json());
        (file, text.expect("a dashboard is JSON") + "\n")
    })
}

#[test]
fn every_metric_of_a_dashboard_is_one_of_the_agent() {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let dashboards = all();
    let expressions = dashboards.iter().flat_map(Dashboard::expressions);
    let mut metrics = BTreeSet::new();
    for expression in expressions {
        for start in ["sockline_", "process_"] {
            metrics.extend(expression.match_indices(start).map(|(at, _)| {
                expression[at..].split(|c| !is_of_name(c)).next().unwrap_or_default().to_owned()
            }));
        }
    }
    assert!(metrics.len() > 30, "{metrics:?}");
    for name in metrics {
        let family = name.strip_suffix("_bucket").unwrap_or(&name);
        let is_there = definitions::ALL.iter().any(|metric| metric.name == family);
        assert!(is_there, "there is no metric {name}");
    }
}

#[test]
fn every_variable_of_an_expression_is_one_of_its_dashboard() {
    for dashboard in all() {
        let known: Vec<String> =
            dashboard.variables.iter().map(|variable| format!("${}", variable.name)).collect();
        for expression in dashboard.expressions() {
            let rest = expression.replace("$__rate_interval", "").replace("$__range", "");
            let used = rest.match_indices('$').map(|(at, _)| &rest[at..]);
            for variable in used {
                let is_known = known.iter().any(|known| variable.starts_with(known.as_str()));
                assert!(is_known, "{}: {expression}", dashboard.uid);
            }
        }
    }
}

#[test]
fn panels_fill_their_rows_and_say_what_they_show() {
    for dashboard in all() {
        for row in &dashboard.rows {
            let mut column = 0;
            for panel in &row.panels {
                assert!(panel.description.ends_with('.'), "{}: {}", dashboard.uid, panel.title);
                column += panel.width;
                assert!(column <= grafana::COLUMNS, "{}: {}", dashboard.uid, panel.title);
                column %= grafana::COLUMNS;
            }
            assert_eq!(column, 0, "{}: {}", dashboard.uid, row.title);
        }
    }
}
