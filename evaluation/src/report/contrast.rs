//! A page about two cascades on the same queries, and beside it the numbers of every figure as CSV and JSON.

use std::path::Path;

use serde_json::{Value, json};

use super::exhibit::{self, Exhibit};
use super::markup::escape;
use super::page;
use super::plot::{Axis, Line, Paint, Plot};
use crate::bootstrap::Interval;
use crate::contrast::{Contrast, Finding, Paired};
use crate::error::Result;

/// What a page shows.
#[derive(Debug, Clone, Copy)]
pub struct ContrastReport<'a> {
    /// The page's title.
    pub title: &'a str,
    /// The numbers.
    pub contrast: &'a Contrast,
}

impl ContrastReport<'_> {
    /// The page, self-contained.
    ///
    /// # Errors
    /// [`ErrorKind::Report`](crate::ErrorKind::Report) if a figure cannot be drawn.
    pub fn render(&self) -> Result<String> {
        self.page(&self.exhibits()?)
    }

    /// Writes `index.html`, `contrast.json`, and each exhibit's numbers as `.csv` and `.json` into a folder, which is made if
    /// it is not there.
    ///
    /// # Errors
    /// As [`ContrastReport::render`], and [`ErrorKind::Io`](crate::ErrorKind::Io) with the path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let exhibits = self.exhibits()?;
        exhibit::write_folder(folder, &exhibits, "contrast.json", self.contrast, &self.page(&exhibits)?)
    }

    fn page(&self, exhibits: &[Exhibit]) -> Result<String> {
        let contrast = self.contrast;
        let [first, second] = &contrast.sides;
        let behind = contrast.large.as_ref().map(|large| format!(", {large} behind both")).unwrap_or_default();
        let lead = format!("{} queries: first {}, second {}{behind}.", contrast.queries, first.name, second.name);
        let cards: String = exhibits.iter().map(Exhibit::html).collect();
        let body = [
            page::section("short", "In short", &self.words()),
            page::section("figures", "Figures and tables", &format!("<div class=\"figures\">\n{cards}</div>\n")),
            page::section("method", "How it was measured", &(self.method() + &page::all_numbers(contrast)?)),
        ];
        Ok(page::page(self.title, &lead, &body.concat()))
    }

    fn words(&self) -> String {
        let finding = |finding: Finding| {
            let Finding { what, first, second, difference, verdict } = finding;
            let Interval { low, high } = difference.interval;
            format!(
                "<b>{what}</b>: {}. {first:.4} against {second:.4}, a difference of {:+.4} <small>({low:+.4} to {high:+.4})</small>",
                escape(&verdict),
                difference.estimate
            )
        };
        let mut items: Vec<String> = self.contrast.findings().into_iter().map(finding).collect();
        let moved: usize = self.contrast.counts.values().sum();
        let of = |end: &str| -> usize {
            self.contrast.counts.iter().filter(|(kind, _)| kind.ends_with(end)).map(|(_, count)| count).sum()
        };
        items.push(match moved {
            0 => "No query changed hands, and no answer became better or worse.".to_owned(),
            moved => format!(
                "<b>{moved} queries</b> changed hands or got another answer: {} got a better one, {} a worse one.",
                of(": better"),
                of(": worse")
            ),
        });
        let items: String = items.iter().map(|item| format!("<li>{item}</li>\n")).collect();
        format!("<ul>\n{items}</ul>\n")
    }

    fn method(&self) -> String {
        let bootstrap = &self.contrast.bootstrap;
        let thresholds: Vec<String> =
            self.contrast.sides.iter().map(|s| format!("{:.6} of {}", s.threshold, s.name)).collect();
        let cost = match self.contrast.large {
            Some(_) => format!(" A cost is {}.", escape(&self.contrast.cost_in_words)),
            None => String::new(),
        };
        format!(
            "<p>Every difference is {second} less {first}. A query is kept if its score is at least the threshold: {}.{cost} \
             Intervals are {:.0}\u{a0}% percentiles of {} bootstrap resamples, the same queries drawn for both, seed {}; each is \
             read on its own, without a correction for their number.</p>\n",
            escape(&thresholds.join(", ")),
            100.0 * bootstrap.level,
            bootstrap.resamples,
            bootstrap.seed,
            first = escape(&self.contrast.sides[0].name),
            second = escape(&self.contrast.sides[1].name),
        )
    }

    fn exhibits(&self) -> Result<Vec<Exhibit>> {
        let mut exhibits = Vec::new();
        if !self.contrast.curves.is_empty() {
            exhibits.push(self.curves()?);
            exhibits.push(self.differences()?);
        }
        exhibits.push(self.numbers());
        if !self.contrast.changes.is_empty() {
            exhibits.push(self.counts());
            exhibits.push(self.changes());
        }
        Ok(exhibits)
    }

    fn curves(&self) -> Result<Exhibit> {
        let contrast = self.contrast;
        let qualities = contrast.sides.iter().flat_map(|side| side.points.iter().map(|point| point.quality));
        let mut plot = Plot::new(Axis::share("queries deferred"), Axis::around("quality", qualities));
        let mut rows = Vec::new();
        for (at, side) in contrast.sides.iter().enumerate() {
            let line = side.points.iter().map(|point| (point.deferral_rate, point.quality)).collect();
            plot.line(line, Paint::series(at), Line::Solid);
            rows.extend(side.points.iter().map(|point| {
                let threshold = point.thresholds.first().filter(|threshold| threshold.is_finite());
                let who = [json!(side.name), json!(threshold)];
                who.into_iter().chain([json!(point.deferral_rate), json!(point.quality), json!(point.cost)]).collect()
            }));
        }
        let number = |name: &str, of: fn(&Paired) -> Option<f64>| contrast.numbers.get(name).and_then(of);
        for (at, of) in
            [(|paired: &Paired| paired.first) as fn(&Paired) -> _, |paired| paired.second].into_iter().enumerate()
        {
            if let Some(point) = number("deferral_rate", of).zip(number("quality", of)) {
                plot.dot(point, Paint::series(at));
            }
        }
        let legend = [
            ("s0", contrast.sides[0].name.as_str()),
            ("s1", contrast.sides[1].name.as_str()),
            ("ring", "threshold in use"),
        ];
        Exhibit::figure(
            "curves",
            "Deferral curves",
            "Quality as more queries go to the large model.",
            &plot,
            &legend,
            (vec!["side", "threshold", "deferral_rate", "quality", "cost"], rows),
        )
    }

    fn differences(&self) -> Result<Exhibit> {
        let points = || self.contrast.curves.iter().filter_map(|at| Some((at.deferral_rate, at.quality.difference?)));
        let ends = points().flat_map(|(_, difference)| [difference.interval.low, difference.interval.high, 0.0]);
        let mut plot = Plot::new(Axis::share("queries deferred"), Axis::spanning("difference in quality", ends));
        let band = points().map(|(rate, difference)| (rate, difference.interval.low, difference.interval.high));
        plot.band(band.collect(), Paint::series(1));
        plot.line(vec![(0.0, 0.0), (1.0, 0.0)], Paint::Muted, Line::Dashed);
        plot.line(
            points().map(|(rate, difference)| (rate, difference.estimate)).collect(),
            Paint::series(1),
            Line::Solid,
        );
        let rows = self.contrast.curves.iter().map(|at| {
            let mut row = vec![json!(at.deferral_rate)];
            row.extend(cells(&at.quality));
            row
        });
        let what = format!("{} less {}", self.contrast.sides[1].name, self.contrast.sides[0].name);
        Exhibit::figure(
            "differences",
            "Difference of the curves",
            "With the paired bootstrap interval at each deferral rate. Where the band holds zero the data do not tell them apart.",
            &plot,
            &[("s1", &what), ("dashed", "no difference")],
            (vec!["deferral_rate", "first", "second", "difference", "low", "high"], rows.collect()),
        )
    }

    fn numbers(&self) -> Exhibit {
        let rows = self.contrast.numbers.iter().map(|(name, paired)| {
            let mut row = vec![json!(name)];
            row.extend(cells(paired));
            row
        });
        let [first, second] = &self.contrast.sides;
        Exhibit::table(
            "numbers",
            "Numbers of both",
            &format!(
                "First is {}, second {}; the difference is second less first, with its interval.",
                first.name, second.name
            ),
            vec!["measure", "first", "second", "difference", "low", "high"],
            rows.collect(),
        )
    }

    fn counts(&self) -> Exhibit {
        let rows = self.contrast.counts.iter().map(|(kind, count)| vec![json!(kind), json!(count)]);
        let caption = "Queries whose answerer changed, and those whose answer became better or worse.";
        Exhibit::table("changes", "What changed", caption, vec!["what", "queries"], rows.collect())
    }

    fn changes(&self) -> Exhibit {
        let rows = self.contrast.changes.iter().map(|change| {
            let (first, second) = (&change.first, &change.second);
            vec![
                json!(change.kind),
                json!(change.query),
                json!(change.task),
                json!(first.score),
                json!(first.quality),
                json!(second.score),
                json!(second.quality),
            ]
        });
        let columns = vec!["what", "query", "task", "first_score", "first_quality", "second_score", "second_quality"];
        Exhibit::folded(
            "changed-queries",
            "Queries that changed",
            "Some of each kind, those whose answer gained or lost most first.",
            (columns, rows.collect()),
            self.contrast.counts.iter().map(|(kind, count)| (kind.as_str(), *count)),
        )
    }
}

/// First, second, difference and its interval.
fn cells(paired: &Paired) -> [Value; 5] {
    let difference = paired.difference;
    [
        json!(paired.first),
        json!(paired.second),
        json!(difference.map(|difference| difference.estimate)),
        json!(difference.map(|difference| difference.interval.low)),
        json!(difference.map(|difference| difference.interval.high)),
    ]
}
