//! A chart as SVG whose colours are CSS variables of the page, so that it follows light and dark.
//!
//! The drawing library knows only fixed colours: each paint is drawn in a stand-in colour and renamed afterwards.

use plotters::prelude::*;

/// Width and height of the drawing; the page scales it.
const SIZE: (u32, u32) = (1120, 760);
/// Letters of 15 px when the drawing is 560 px wide.
const FONT_SIZE: u32 = 36;
/// Number of colours for objectives; more objectives than that share them.
pub(super) const SERIES: usize = 6;

/// What a mark stands for; the page's style sheet says how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Ink,
    Muted,
    Grid,
    Paper,
    Right,
    Wrong,
    Series(u8),
}

impl Paint {
    pub(super) fn series(index: usize) -> Self {
        Self::Series((index % SERIES) as u8)
    }

    fn variable(self) -> String {
        match self {
            Self::Ink => "ink".into(),
            Self::Muted => "muted".into(),
            Self::Grid => "grid".into(),
            Self::Paper => "paper".into(),
            Self::Right => "right".into(),
            Self::Wrong => "wrong".into(),
            Self::Series(index) => format!("s{index}"),
        }
    }

    /// The stand-in: a colour that nothing else has.
    fn stand_in(self, line: Line) -> RGBColor {
        let (kind, index) = match self {
            Self::Ink => (1, 0),
            Self::Muted => (2, 0),
            Self::Grid => (3, 0),
            Self::Paper => (4, 0),
            Self::Right => (5, 0),
            Self::Wrong => (6, 0),
            Self::Series(index) => (7, index),
        };
        RGBColor(kind, index, line as u8)
    }

    fn all() -> impl Iterator<Item = Self> {
        let named = [Self::Ink, Self::Muted, Self::Grid, Self::Paper, Self::Right, Self::Wrong];
        named.into_iter().chain((0..SERIES).map(Self::series))
    }
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Line {
    Solid = 0,
    Dashed = 1,
    Dotted = 2,
}

impl Line {
    const ALL: [Self; 3] = [Self::Solid, Self::Dashed, Self::Dotted];

    fn attributes(self) -> &'static str {
        match self {
            Self::Solid => "",
            Self::Dashed => " stroke-dasharray=\"14 10\"",
            Self::Dotted => " stroke-dasharray=\"1 9\" stroke-linecap=\"round\"",
        }
    }

    fn width(self) -> u32 {
        match self {
            Self::Solid => 5,
            Self::Dashed => 3,
            Self::Dotted => 4,
        }
    }
}

/// One axis: its range, title and the form of its labels.
pub(super) struct Axis {
    low: f64,
    high: f64,
    title: String,
    label: fn(&f64) -> String,
}

impl Axis {
    /// Shares from 0 to 1 as percentages.
    pub(super) fn share(title: &str) -> Self {
        Self { low: 0.0, high: 1.0, title: title.into(), label: |share| format!("{:.0} %", 100.0 * share) }
    }

    /// From 0 to a little more than `high`.
    pub(super) fn from_zero(title: &str, high: f64) -> Self {
        let high = if high > 0.0 { high * 1.05 } else { 1.0 };
        Self { low: 0.0, high, title: title.into(), label: plain }
    }

    /// From the lowest value to the highest, as they are.
    pub(super) fn spanning(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = extent(values);
        let room = if low < high { 0.0 } else { 0.5 };
        Self { low: low - room, high: high + room, title: title.into(), label: plain }
    }

    /// Shares from a little under the lowest to a little over the highest, as percentages.
    pub(super) fn around(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = extent(values);
        let room = ((high - low) * 0.08).max(0.01);
        let label = |share: &f64| format!("{:.0} %", 100.0 * share);
        Self { low: (low - room).max(0.0), high: (high + room).min(1.0).max(low + room), title: title.into(), label }
    }
}

fn plain(number: &f64) -> String {
    // The library's steps are round numbers with an error in the last place.
    let rounded = (number * 1e6).round() / 1e6;
    if rounded == 0.0 { "0".into() } else { rounded.to_string() }
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// A chart: marks in the order they are drawn.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    marks: Vec<Mark>,
}

enum Mark {
    Band(Vec<(f64, f64, f64)>, Paint),
    Line(Vec<(f64, f64)>, Paint, Line),
    Dot((f64, f64), Paint),
    Bar((f64, f64), (f64, f64), Paint),
}

impl Plot {
    pub(super) fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, marks: Vec::new() }
    }

    /// The area between two curves, as (x, low, high).
    pub(super) fn band(&mut self, points: Vec<(f64, f64, f64)>, paint: Paint) {
        self.marks.push(Mark::Band(points, paint));
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, paint: Paint, line: Line) {
        self.marks.push(Mark::Line(points, paint, line));
    }

    pub(super) fn dot(&mut self, at: (f64, f64), paint: Paint) {
        self.marks.push(Mark::Dot(at, paint));
    }

    pub(super) fn bar(&mut self, from: (f64, f64), to: (f64, f64), paint: Paint) {
        self.marks.push(Mark::Bar(from, to, paint));
    }

    /// The chart as an SVG element.
    pub(super) fn draw(&self) -> Result<String, Box<dyn std::error::Error>> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(16)
            .margin_right(60)
            .margin_top(34)
            .x_label_area_size(110)
            .y_label_area_size(150)
            .build_cartesian_2d(self.x.low..self.x.high, self.y.low..self.y.high)?;
        let text = ("sans-serif", FONT_SIZE).into_font().color(&Paint::Ink.stand_in(Line::Solid));
        let grid = Paint::Grid.stand_in(Line::Solid).stroke_width(2);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(grid)
            .axis_style(Paint::Muted.stand_in(Line::Solid).stroke_width(2))
            .set_tick_mark_size(LabelAreaPosition::Bottom, 14)
            .x_labels(6)
            .y_labels(6)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_label_formatter(&self.x.label)
            .y_label_formatter(&self.y.label)
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .draw()?;
        for mark in &self.marks {
            match mark {
                Mark::Band(points, paint) => {
                    let upper = points.iter().map(|(x, _, high)| (*x, *high));
                    let outline = upper.chain(points.iter().rev().map(|(x, low, _)| (*x, *low))).collect::<Vec<_>>();
                    chart.draw_series([Polygon::new(outline, paint.stand_in(Line::Solid).mix(0.16).filled())])?;
                }
                Mark::Line(points, paint, line) => {
                    let style = paint.stand_in(*line).stroke_width(line.width());
                    chart.draw_series([PathElement::new(points.clone(), style)])?;
                }
                Mark::Dot(at, paint) => {
                    let ring = |radius, paint: Paint| Circle::new(*at, radius, paint.stand_in(Line::Solid).filled());
                    chart.draw_series([ring(13, *paint), ring(7, Paint::Paper)])?;
                }
                Mark::Bar(from, to, paint) if to.1 > from.1 => {
                    chart.draw_series([Rectangle::new([*from, *to], paint.stand_in(Line::Solid).filled())])?;
                }
                Mark::Bar(..) => {}
            }
        }
        area.present()?;
        drop(chart);
        drop(area);
        Ok(renamed(svg))
    }
}

/// The drawing with the page's colours in the place of the stand-ins.
fn renamed(mut svg: String) -> String {
    for paint in Paint::all() {
        for line in Line::ALL {
            let RGBColor(red, green, blue) = paint.stand_in(line);
            let stand_in = format!("\"#{red:02X}{green:02X}{blue:02X}\"");
            svg = svg.replace(&stand_in, &format!("\"var(--{})\"{}", paint.variable(), line.attributes()));
        }
    }
    svg
}
