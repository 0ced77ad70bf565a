//! What of a dashboard's JSON is drawn.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(super) struct Dashboard {
    /// Of the file.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) panels: Vec<Panel>,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    /// In units of the grid: 24 columns.
    pub(super) place: GridPosition,
    /// Expressions and legends.
    pub(super) queries: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
pub(super) struct GridPosition {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Row,
    Number,
    /// A number that is red unless it is 0.
    Alarm,
    Lines,
    Areas,
    Heatmap,
    Table,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    PerSecond,
    Seconds,
    Bytes,
    BytesPerSecond,
    Share,
}

pub(super) fn read(folder: &Path) -> Result<Vec<Dashboard>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("reading {}", folder.display()))?;
    files.sort();
    files.iter().map(|file| dashboard(file).with_context(|| file.display().to_string())).collect()
}

fn dashboard(file: &Path) -> Result<Dashboard> {
    let json: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let panels = json["panels"].as_array().context("it has no panels")?;
    Ok(Dashboard {
        name: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        title: text(&json["title"])?,
        panels: panels.iter().map(panel).collect::<Result<_>>()?,
    })
}

fn panel(json: &Value) -> Result<Panel> {
    let title = text(&json["title"])?;
    let defaults = &json["fieldConfig"]["defaults"];
    let kind = match json["type"].as_str() {
        Some("row") => Kind::Row,
        Some("stat") if defaults["thresholds"].is_object() => Kind::Alarm,
        Some("stat") => Kind::Number,
        Some("timeseries") if defaults["custom"]["stacking"].is_object() => Kind::Areas,
        Some("timeseries") => Kind::Lines,
        Some("heatmap") => Kind::Heatmap,
        Some("table") => Kind::Table,
        other => bail!("{title}: panels of type {other:?} are not drawn"),
    };
    let unit = match defaults["unit"].as_str() {
        Some("ops") => Unit::PerSecond,
        Some("s") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        Some("Bps") => Unit::BytesPerSecond,
        Some("percentunit") => Unit::Share,
        Some("short") | None => Unit::Count,
        Some(other) => bail!("{title}: unit {other} is not drawn"),
    };
    let place = &json["gridPos"];
    let at = |side: &str| place[side].as_f64().with_context(|| format!("{title}: gridPos.{side}"));
    let targets = json["targets"].as_array().into_iter().flatten();
    let queries = targets
        .map(|target| Ok((text(&target["expr"])?, text(&target["legendFormat"])?)))
        .collect::<Result<_>>()?;
    let place = GridPosition { x: at("x")?, y: at("y")?, width: at("w")?, height: at("h")? };
    Ok(Panel { title, kind, unit, place, queries })
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(ToOwned::to_owned).with_context(|| format!("{value} is not a text"))
}

impl Unit {
    /// A value, for people.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Count => short(value, ""),
            Self::PerSecond => short(value, "/s"),
            Self::Share => format!("{} %", digits(value * 100.0)),
            Self::Bytes => of_bytes(value, ""),
            Self::BytesPerSecond => of_bytes(value, "/s"),
            Self::Seconds => {
                let (scaled, unit) = match value {
                    0.0 => (0.0, "s"),
                    v if v < 1e-3 => (v * 1e6, "µs"),
                    v if v < 1.0 => (v * 1e3, "ms"),
                    v if v < 120.0 => (v, "s"),
                    v if v < 7200.0 => (v / 60.0, "min"),
                    v => (v / 3600.0, "h"),
                };
                format!("{} {unit}", digits(scaled))
            }
        }
    }
}

fn short(value: f64, suffix: &str) -> String {
    match value {
        v if v >= 1e6 => format!("{} M{suffix}", digits(v / 1e6)),
        v if v >= 1e4 => format!("{} k{suffix}", digits(v / 1e3)),
        v => format!("{}{suffix}", digits(v)),
    }
}

fn of_bytes(value: f64, suffix: &str) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut scaled, mut unit) = (value, 0);
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        (scaled, unit) = (scaled / 1024.0, unit + 1);
    }
    format!("{} {}{suffix}", digits(scaled), UNITS[unit])
}

/// Three digits that count.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_units() {
        for (unit, value, expected) in [
            (Unit::Count, 0.0, "0"),
            (Unit::Count, 12_345.0, "12.3 k"),
            (Unit::PerSecond, 1.234, "1.23/s"),
            (Unit::Seconds, 0.000_026_4, "26.4 µs"),
            (Unit::Bytes, 3.0 * 1024.0 * 1024.0, "3 MiB"),
            (Unit::Share, 0.125, "12.5 %"),
        ] {
            assert_eq!(unit.show(value), expected);
        }
    }
}
