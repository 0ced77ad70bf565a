//! A row for each label set, a column for each query.

use std::collections::BTreeMap;

use super::{Area, Theme, svg::Svg};
use crate::dashboards::{data::Series, panels::Panel};

const LINE: f64 = 19.0;
const TEXT: f64 = 11.0;

pub(super) fn draw(svg: &mut Svg, panel: &Panel, series: &[Series], theme: &Theme, area: Area) {
    let mut rows: BTreeMap<&BTreeMap<String, String>, Vec<Option<f64>>> = BTreeMap::new();
    for one in series {
        let values = rows.entry(&one.labels).or_insert_with(|| vec![None; panel.queries.len()]);
        values[one.query] = one.last();
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| b[0].unwrap_or(0.0).total_cmp(&a[0].unwrap_or(0.0)));
    let Some((labels, _)) = rows.first() else { return };
    let names: Vec<&str> = labels
        .keys()
        .map(String::as_str)
        .chain(panel.queries.iter().map(|(_, legend)| legend.as_str()))
        .collect();
    let width = area.width / names.len() as f64;
    let mut line = |number: usize, color: &str, cells: &[String]| {
        let y = area.y + 12.0 + LINE * number as f64;
        for (column, cell) in cells.iter().enumerate() {
            svg.text((area.x + width * column as f64, y), TEXT, color, "start", cell);
        }
    };
    line(0, theme.faint, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let fitting = (area.height / LINE) as usize;
    for (number, (labels, values)) in (1..fitting).zip(&rows) {
        let shown = values
            .iter()
            .map(|value| value.map_or_else(String::new, |value| panel.unit.show(value)));
        let cells: Vec<String> = labels.values().cloned().chain(shown).collect();
        line(number, theme.text, &cells);
    }
}
