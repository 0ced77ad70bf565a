//! The few elements of SVG that are used.

use std::fmt::Write as _;

use super::Area;

pub(super) struct Svg(String);

impl Svg {
    pub(super) fn new(width: f64, height: f64, page: &str) -> Self {
        let mut this = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"Inter, Helvetica, Arial, sans-serif\">\n"
        ));
        this.rectangle(Area { x: 0.0, y: 0.0, width, height }, page, None);
        this
    }

    pub(super) fn rectangle(&mut self, area: Area, fill: &str, border: Option<&str>) {
        let Area { x, y, width, height } = area;
        self.line(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"{}/>",
            border.map_or_else(String::new, |color| format!(" stroke=\"{color}\" rx=\"3\""))
        ));
    }

    /// A cell of a heatmap.
    pub(super) fn cell(&mut self, area: Area, fill: &str, opacity: f64) {
        let Area { x, y, width, height } = area;
        self.line(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\" \
             fill-opacity=\"{opacity:.2}\"/>"
        ));
    }

    pub(super) fn text(
        &mut self,
        (x, y): (f64, f64),
        size: f64,
        color: &str,
        anchor: &str,
        text: &str,
    ) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.line(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{color}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    pub(super) fn rule(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), color: &str) {
        self.line(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>"
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], color: &str) {
        let points = joined(points);
        self.line(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
        ));
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], color: &str) {
        let points = joined(points);
        self.line(format_args!(
            "<polygon points=\"{points}\" fill=\"{color}\" fill-opacity=\"0.4\" stroke=\"{color}\"/>"
        ));
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn line(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a String takes all that is written");
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}
