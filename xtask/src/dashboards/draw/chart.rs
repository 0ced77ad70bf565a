//! Lines, stacked areas and heatmaps over time.

use std::collections::BTreeMap;

use super::{Area, Theme, svg::Svg};
use crate::dashboards::{
    data::{Period, Series},
    panels::{Kind, Panel},
};

/// For the values at the left, and the legend below.
const LEFT: f64 = 64.0;
const LEGEND: f64 = 18.0;
const MAX_GRID_LINES: f64 = 5.0;
const TEXT: f64 = 10.0;
/// For what binary fractions cannot hold.
const SLACK: f64 = 1e-9;
/// Average width of a letter, for the legend.
const LETTER: f64 = 5.6;

pub(super) fn lines(
    svg: &mut Svg,
    panel: &Panel,
    series: &[Series],
    period: Period,
    theme: &Theme,
    area: Area,
) {
    let plot = area.inside(LEFT, 4.0, 4.0, LEGEND + 4.0);
    let drawn = if panel.kind == Kind::Areas { stacked(series) } else { plain(series) };
    let highest =
        drawn.iter().flat_map(|line| line.iter().map(|point| point.2)).fold(0.0, f64::max);
    let (top, grid_lines) = axis(highest);
    for number in 0..=grid_lines {
        let share = f64::from(number) / f64::from(grid_lines);
        let y = plot.y + plot.height * (1.0 - share);
        svg.rule((plot.x, y), (plot.x + plot.width, y), theme.border);
        let value = panel.unit.show(top * share);
        svg.text((plot.x - 6.0, y + 3.5), TEXT, theme.faint, "end", &value);
    }
    let at = |time: f64, value: f64| {
        (
            plot.x + (time - period.start) / period.length() * plot.width,
            plot.y + plot.height * (1.0 - value / top),
        )
    };
    // From the back: what is stacked higher is drawn first.
    for (number, line) in drawn.iter().enumerate().rev() {
        let color = theme.colors[number % theme.colors.len()];
        let upper: Vec<_> = line.iter().map(|&(time, _, high)| at(time, high)).collect();
        if panel.kind == Kind::Areas {
            let lower = line.iter().rev().map(|&(time, low, _)| at(time, low));
            svg.polygon(&upper.iter().copied().chain(lower).collect::<Vec<_>>(), color);
        } else {
            svg.path(&upper, color);
        }
    }
    legend(svg, series, theme, area);
}

/// The top of an axis, and how many steps it has: each is 1, 2 or 5 times a power of ten.
fn axis(highest: f64) -> (f64, u32) {
    if highest <= 0.0 {
        return (1.0, 1);
    }
    let power = 10_f64.powf((highest / MAX_GRID_LINES).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| step * MAX_GRID_LINES >= highest - SLACK * highest);
    let step = step.unwrap_or(highest);
    let count = (highest / step - SLACK).ceil();
    (step * count, count as u32)
}

/// Each line's times, lower and upper values.
type Line = Vec<(f64, f64, f64)>;

fn plain(series: &[Series]) -> Vec<Line> {
    let of_one =
        |one: &Series| one.points.iter().map(|&(time, value)| (time, 0.0, value)).collect();
    series.iter().map(of_one).collect()
}

fn stacked(series: &[Series]) -> Vec<Line> {
    // Prometheus answers all series at the same times. In milliseconds, as a key.
    let mut tops: BTreeMap<u64, f64> = BTreeMap::new();
    let of_one = |one: &Series| {
        let stack = |&(time, value): &(f64, f64)| {
            let top = tops.entry((time * 1000.0) as u64).or_default();
            let low = *top;
            *top += value;
            (time, low, *top)
        };
        one.points.iter().map(stack).collect()
    };
    series.iter().map(of_one).collect()
}

fn legend(svg: &mut Svg, series: &[Series], theme: &Theme, area: Area) {
    let y = area.y + area.height - 4.0;
    let mut x = area.x;
    for (number, one) in series.iter().enumerate() {
        let width = 22.0 + one.name.chars().count() as f64 * LETTER;
        // Room for the words below.
        let is_last = number + 1 == series.len();
        if x + width > area.x + area.width - if is_last { 0.0 } else { 60.0 } {
            let rest = format!("and {} more", series.len() - number);
            svg.text((x, y), TEXT, theme.faint, "start", &rest);
            return;
        }
        let color = theme.colors[number % theme.colors.len()];
        svg.rectangle(Area { x, y: y - 6.0, width: 10.0, height: 4.0 }, color, None);
        svg.text((x + 14.0, y), TEXT, theme.text, "start", &one.name);
        x += width;
    }
}

/// Buckets of a histogram, by their bounds from below: the series are cumulative.
pub(super) fn heatmap(
    svg: &mut Svg,
    panel: &Panel,
    series: &[Series],
    period: Period,
    theme: &Theme,
    area: Area,
) {
    let plot = area.inside(LEFT, 4.0, 4.0, 8.0);
    let bound = |one: &Series| {
        one.labels.get("le").and_then(|le| le.parse::<f64>().ok()).unwrap_or(f64::INFINITY)
    };
    let mut buckets: Vec<&Series> = series.iter().collect();
    buckets.sort_by(|a, b| bound(a).total_cmp(&bound(b)));
    let mut below: BTreeMap<u64, f64> = BTreeMap::new();
    let mut cells = Vec::new();
    for (row, bucket) in buckets.iter().enumerate() {
        for &(time, value) in &bucket.points {
            let lower = below.insert((time * 1000.0) as u64, value).unwrap_or(0.0);
            cells.push((row, time, (value - lower).max(0.0)));
        }
    }
    let fullest = cells.iter().map(|cell| cell.2).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let height = plot.height / buckets.len().max(1) as f64;
    let width = plot.width / buckets.iter().map(|one| one.points.len()).max().unwrap_or(1) as f64;
    for (row, time, value) in cells {
        if value > 0.0 {
            let x = plot.x + (time - period.start) / period.length() * (plot.width - width);
            let y = plot.y + plot.height - height * (row + 1) as f64;
            let cell = Area { x, y, width, height: height - 0.5 };
            svg.cell(cell, theme.heat, 0.15 + 0.85 * value / fullest);
        }
    }
    for (row, bucket) in buckets.iter().enumerate().step_by(3) {
        let y = plot.y + plot.height - height * row as f64;
        let label = bound(bucket);
        let label = if label.is_finite() { panel.unit.show(label) } else { "more".to_owned() };
        svg.text((plot.x - 6.0, y - height / 2.0 + 3.5), TEXT, theme.faint, "end", &label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_steps_and_room_for_the_highest_value() {
        for (highest, expected) in [
            (0.0, (1.0, 1)),
            (1.0, (1.0, 5)),
            (212.0, (250.0, 5)),
            (16.6, (20.0, 4)),
            (0.03, (0.03, 3)),
        ] {
            let (top, steps) = axis(highest);
            assert!(
                (top - expected.0).abs() < 1e-9 && steps == expected.1,
                "{highest}: {top} {steps}"
            );
        }
    }
}
