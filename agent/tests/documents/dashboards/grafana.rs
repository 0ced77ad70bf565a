//! What of Grafana's dashboard JSON is used here (schema version 39, Grafana 10.3 and newer;
//! https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).

use serde_json::{Value, json};

/// Columns of the grid.
pub const COLUMNS: u32 = 24;
/// In rows of the grid.
const STAT_HEIGHT: u32 = 4;
const HEIGHT: u32 = 8;

pub struct Dashboard {
    /// Also the name of the file.
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub variables: Vec<Variable>,
    pub rows: Vec<Row>,
}

/// A choice at the top, of the values of a label.
pub struct Variable {
    pub name: &'static str,
    pub label: &'static str,
    /// Of which series the label's values are.
    pub series: &'static str,
    pub choice: Choice,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    One,
    /// Several, and all at first.
    Several,
}

pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

pub struct Panel {
    pub title: &'static str,
    pub description: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub width: u32,
    pub queries: Vec<Query>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number: green at 0, red above.
    Alarm,
    /// A number.
    Number,
    Lines,
    Areas,
    Heatmap,
    /// A row for each label set, a column for each query.
    Table,
}

#[derive(Clone, Copy)]
pub enum Unit {
    Count,
    PerSecond,
    Seconds,
    Bytes,
    BytesPerSecond,
    /// 1 is all.
    Share,
}

pub struct Query {
    pub expression: String,
    /// The name of a line, or of a table's column.
    pub legend: &'static str,
}

impl Panel {
    pub const fn new(
        kind: Kind,
        unit: Unit,
        title: &'static str,
        description: &'static str,
    ) -> Self {
        let width = match kind {
            Kind::Alarm | Kind::Number => 4,
            Kind::Lines | Kind::Areas | Kind::Heatmap => 12,
            Kind::Table => COLUMNS,
        };
        Self { title, description, kind, unit, width, queries: Vec::new() }
    }

    pub const fn width(mut self, width: u32) -> Self {
        self.width = width;
        self
    }

    pub fn query(mut self, legend: &'static str, expression: impl Into<String>) -> Self {
        self.queries.push(Query { expression: expression.into(), legend });
        self
    }

    const fn height(&self) -> u32 {
        match self.kind {
            Kind::Alarm | Kind::Number => STAT_HEIGHT,
            Kind::Lines | Kind::Areas | Kind::Heatmap | Kind::Table => HEIGHT,
        }
    }
}

impl Dashboard {
    pub fn expressions(&self) -> impl Iterator<Item = &str> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        panels.flat_map(|panel| &panel.queries).map(|query| query.expression.as_str())
    }

    pub fn to_json(&self) -> Value {
        let mut panels = Vec::new();
        let mut top = 0;
        let add = |panels: &mut Vec<Value>, mut panel: Value| {
            panel["id"] = (panels.len() + 1).into();
            panels.push(panel);
        };
        for row in &self.rows {
            let place = json!({"h": 1, "w": COLUMNS, "x": 0, "y": top});
            add(
                &mut panels,
                json!({"type": "row", "title": row.title, "gridPos": place,
                                    "collapsed": false, "panels": []}),
            );
            top += 1;
            let (mut left, mut height) = (0, 0);
            for panel in &row.panels {
                let place = json!({"h": panel.height(), "w": panel.width, "x": left, "y": top});
                add(&mut panels, panel.to_json(&place));
                left += panel.width;
                height = panel.height().max(height);
                if left == COLUMNS {
                    (left, top, height) = (0, top + height, 0);
                }
            }
        }
        let datasource = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        });
        let of_labels = self.variables.iter().map(Variable::to_json);
        let variables: Vec<Value> = [datasource].into_iter().chain(of_labels).collect();
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["sockline"],
            "schemaVersion": 39,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [{
                "type": "dashboards", "tags": ["sockline"], "title": "Sockline", "asDropdown": true,
                "includeVars": true, "keepTime": true, "icon": "external link", "tooltip": "",
                "targetBlank": false,
            }],
            "templating": {"list": variables},
            "annotations": {"list": []},
            "panels": panels,
        })
    }
}

impl Variable {
    fn to_json(&self) -> Value {
        let query = format!("label_values({}, {})", self.series, self.name);
        let several = self.choice == Choice::Several;
        let mut variable = json!({
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": datasource(),
            "query": {"query": query, "refId": "Variable"},
            // When the time range changes.
            "refresh": 2,
            "sort": 1,
            "multi": several,
            "includeAll": several,
            "allValue": ".*",
        });
        if several {
            variable["current"] = json!({"text": ["All"], "value": ["$__all"]});
        }
        variable
    }
}

impl Panel {
    fn to_json(&self, place: &Value) -> Value {
        let is_table = self.kind == Kind::Table;
        let targets: Vec<Value> = (b'A'..)
            .zip(&self.queries)
            .map(|(letter, query)| {
                json!({
                    "refId": char::from(letter).to_string(),
                    "datasource": datasource(),
                    "expr": query.expression,
                    "legendFormat": query.legend,
                    "instant": is_table,
                    "range": !is_table,
                    "format": match self.kind {
                        Kind::Table => "table",
                        Kind::Heatmap => "heatmap",
                        _ => "time_series",
                    },
                })
            })
            .collect();
        let mut panel = json!({
            "type": match self.kind {
                Kind::Alarm | Kind::Number => "stat",
                Kind::Lines | Kind::Areas => "timeseries",
                Kind::Heatmap => "heatmap",
                Kind::Table => "table",
            },
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": place,
            "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit.of_grafana(), "min": 0}, "overrides": []},
            "options": self.options(),
        });
        let defaults = &mut panel["fieldConfig"]["defaults"];
        match self.kind {
            Kind::Alarm => {
                defaults["thresholds"] = json!({"mode": "absolute", "steps": [
                    {"color": "green", "value": null}, {"color": "red", "value": 1},
                ]});
            }
            Kind::Areas => {
                defaults["custom"] =
                    json!({"fillOpacity": 30, "stacking": {"mode": "normal", "group": "A"}});
            }
            Kind::Table => {
                // One row for each label set.
                let names = (b'A'..).zip(&self.queries).map(|(letter, query)| {
                    (format!("Value #{}", char::from(letter)), Value::from(query.legend))
                });
                let names: serde_json::Map<String, Value> = names.collect();
                panel["transformations"] = json!([
                    {"id": "merge", "options": {}},
                    {"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names}},
                ]);
            }
            Kind::Number | Kind::Lines | Kind::Heatmap => {}
        }
        panel
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Alarm | Kind::Number => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": if self.kind == Kind::Alarm { "background" } else { "value" },
                "graphMode": "area",
            }),
            Kind::Lines | Kind::Areas => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Kind::Heatmap => json!({
                "calculate": false,
                "yAxis": {"unit": self.unit.of_grafana()},
                "color": {"scheme": "Blues", "mode": "scheme", "steps": 64},
                "cellGap": 1,
                "tooltip": {"mode": "single"},
            }),
            Kind::Table => json!({"showHeader": true, "cellHeight": "sm"}),
        }
    }
}

impl Unit {
    const fn of_grafana(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::PerSecond => "ops",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "Bps",
            Self::Share => "percentunit",
        }
    }
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// The rate of what these counters grow by, summed by labels.
pub fn rate(by: &str, series: &str) -> String {
    format!("sum by ({by}) (rate({series}[$__rate_interval]))")
}

/// A quantile of a histogram.
pub fn quantile(quantile: f64, by: &str, series: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("le, {by}") };
    format!("histogram_quantile({quantile}, sum by ({by}) (rate({series}[$__rate_interval])))")
}
