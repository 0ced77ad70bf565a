//! Panels as SVG.

mod chart;
mod svg;
mod table;

use self::svg::Svg;
use super::{
    data::{Period, Series},
    panels::{GridPosition, Kind, Panel},
};

pub(super) struct Theme {
    pub(super) name: &'static str,
    page: &'static str,
    panel: &'static str,
    border: &'static str,
    text: &'static str,
    faint: &'static str,
    /// Of lines and areas, in turn.
    colors: [&'static str; 8],
    /// Of a heatmap's fullest cell.
    heat: &'static str,
    good: &'static str,
    bad: &'static str,
}

pub(super) const LIGHT: Theme = Theme {
    name: "light",
    page: "#f4f5f5",
    panel: "#ffffff",
    border: "#dcdfe3",
    text: "#24292e",
    faint: "#6b7280",
    colors: [
        "#1f77b4", "#e07b00", "#2a9d4f", "#c9302c", "#7b5ea7", "#8c5a45", "#c95fa8", "#5f6b7a",
    ],
    heat: "#1f5fb4",
    good: "#2a9d4f",
    bad: "#c9302c",
};

pub(super) const DARK: Theme = Theme {
    name: "dark",
    page: "#111217",
    panel: "#181b1f",
    border: "#2c3035",
    text: "#d8d9da",
    faint: "#8e9099",
    colors: [
        "#5aa9e6", "#f5a742", "#56c271", "#f2635f", "#a98fd8", "#c39376", "#e08cc5", "#9aa5b1",
    ],
    heat: "#5aa9e6",
    good: "#3f9f5b",
    bad: "#d44a47",
};

/// Of a column and a row of the grid.
const COLUMN: f64 = 50.0;
const ROW: f64 = 30.0;
const GAP: f64 = 6.0;
const TITLE: f64 = 44.0;

/// A rectangle in the picture.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn of(place: GridPosition) -> Self {
        Self {
            x: place.x * COLUMN + GAP,
            y: TITLE + place.y * ROW,
            width: place.width * COLUMN - GAP,
            height: place.height * ROW - GAP,
        }
    }

    fn inside(self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self {
            x: self.x + left,
            y: self.y + top,
            width: (self.width - left - right).max(1.0),
            height: (self.height - top - bottom).max(1.0),
        }
    }
}

pub(super) fn dashboard(
    title: &str,
    panels: &[(&Panel, Vec<Series>)],
    period: Period,
    theme: &Theme,
) -> String {
    let bottom = panels.iter().map(|(panel, _)| panel.place.y + panel.place.height);
    let height = TITLE + bottom.fold(0.0, f64::max) * ROW + GAP;
    let mut svg = Svg::new(24.0 * COLUMN + GAP, height, theme.page);
    svg.text((GAP * 2.0, 28.0), 18.0, theme.text, "start", title);
    for (panel, series) in panels {
        draw(&mut svg, panel, series, period, theme);
    }
    svg.finish()
}

fn draw(svg: &mut Svg, panel: &Panel, series: &[Series], period: Period, theme: &Theme) {
    let area = Area::of(panel.place);
    if panel.kind == Kind::Row {
        svg.text((area.x + 2.0, area.y + 18.0), 14.0, theme.text, "start", &panel.title);
        return;
    }
    let last = series.first().and_then(Series::last);
    let is_alarm = panel.kind == Kind::Alarm;
    let ground = match last {
        Some(value) if is_alarm && value >= 1.0 => theme.bad,
        Some(_) if is_alarm => theme.good,
        _ => theme.panel,
    };
    svg.rectangle(area, ground, Some(theme.border));
    let on_ground = if is_alarm && last.is_some() { "#ffffff" } else { theme.text };
    svg.text((area.x + 10.0, area.y + 18.0), 12.0, on_ground, "start", &panel.title);
    let inside = area.inside(10.0, 28.0, 10.0, 8.0);
    match panel.kind {
        _ if series.iter().all(|one| one.points.is_empty()) => {
            let middle = (area.x + area.width / 2.0, area.y + area.height / 2.0 + 6.0);
            svg.text(middle, 12.0, theme.faint, "middle", "No data");
        }
        Kind::Number | Kind::Alarm => {
            let middle = (area.x + area.width / 2.0, area.y + area.height / 2.0 + 20.0);
            let value = last.map_or_else(String::new, |value| panel.unit.show(value));
            svg.text(middle, 26.0, on_ground, "middle", &value);
        }
        Kind::Lines | Kind::Areas => chart::lines(svg, panel, series, period, theme, inside),
        Kind::Heatmap => chart::heatmap(svg, panel, series, period, theme, inside),
        Kind::Table => table::draw(svg, panel, series, theme, inside),
        Kind::Row => {}
    }
}
