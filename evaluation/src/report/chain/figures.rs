//! The figures of a page about a chain.

use serde_json::{Value, json};

use super::ChainReport;
use crate::cost::Unit;
use crate::error::Result;
use crate::report::details::RiskPoint;
use crate::report::exhibit::Exhibit;
use crate::report::markup::prefix;
use crate::report::plot::{Axis, Line, Paint, Plot, SERIES};

impl ChainReport<'_> {
    pub(super) fn deferral(&self) -> Result<Exhibit> {
        let e = self.evaluation;
        let curve: Vec<(f64, f64)> = e.points.iter().map(|point| (point.deferral_rate, point.quality)).collect();
        let ends = (curve.first().map_or(0.0, |at| at.1), curve.last().map_or(0.0, |at| at.1));
        let band = e.band.iter().flat_map(|point| [point.quality.low, point.quality.high]);
        let ideal = e.ideal.iter().map(|point| (point.deferral_rate, point.quality)).collect::<Vec<_>>();
        let y = Axis::around("quality", curve.iter().chain(&ideal).map(|at| at.1).chain(band));
        let mut plot = Plot::new(Axis::share("queries deferred"), y);
        let band = e.band.iter().map(|point| (point.deferral_rate, point.quality.low, point.quality.high));
        plot.band(band.collect(), Paint::series(0));
        plot.line(ideal, Paint::Muted, Line::Dotted);
        plot.line(vec![(0.0, ends.0), (1.0, ends.1)], Paint::Muted, Line::Dashed);
        plot.line(curve, Paint::series(0), Line::Solid);
        for goal in &e.certificates {
            if let Some(scored) = &goal.scored {
                plot.dot((scored.deferral_rate, scored.quality), Paint::series(0));
            }
        }
        let legend = [
            ("s0", "this rule"),
            ("dotted", "ideal"),
            ("dashed", "random"),
            ("ring", "chosen threshold, on the queries scored"),
        ];
        let rows = e.points.iter().map(|point| {
            let threshold = point.thresholds.first().filter(|threshold| threshold.is_finite());
            vec![json!("curve"), json!(threshold), json!(point.deferral_rate), json!(point.quality), json!(point.cost)]
        });
        let of_ideal = e.ideal.iter().map(|point| {
            vec![json!("ideal"), Value::Null, json!(point.deferral_rate), json!(point.quality), json!(point.cost)]
        });
        Exhibit::figure(
            "deferral-curve",
            "Deferral curve",
            "Quality as more queries go to the large model. The band is the bootstrap interval at each deferral rate.",
            &plot,
            &legend,
            (vec!["line", "threshold", "deferral_rate", "quality", "cost"], rows.chain(of_ideal).collect()),
        )
    }

    pub(super) fn cost_quality(&self) -> Result<Exhibit> {
        let e = self.evaluation;
        let largest = e.points.iter().map(|point| point.cost).chain(e.alone.values().map(|alone| alone.cost));
        let (scale, x) = self.cost_axis(largest.fold(0.0, f64::max));
        let qualities = e.points.iter().map(|point| point.quality).chain(e.alone.values().map(|alone| alone.quality));
        let mut plot = Plot::new(x, Axis::around("quality", qualities));
        let line = e.points.iter().map(|point| (point.cost / scale, point.quality)).collect();
        plot.line(line, Paint::series(0), Line::Solid);
        for (at, model) in e.chain.iter().enumerate() {
            if let Some(alone) = e.alone.get(model) {
                plot.dot((alone.cost / scale, alone.quality), Paint::series(at + 1));
            }
        }
        let names: Vec<(String, String)> = e
            .chain
            .iter()
            .enumerate()
            .map(|(at, model)| (format!("s{}", (at + 1) % SERIES), format!("{model} alone")))
            .collect();
        let what = if e.chain.len() > 2 { "cascade: the best threshold vectors" } else { "cascade" };
        let mut legend = vec![("s0", what)];
        legend.extend(names.iter().map(|(class, text)| (class.as_str(), text.as_str())));
        let rows = e.points.iter().map(|point| vec![json!("cascade"), json!(point.cost), json!(point.quality)]);
        let alone = e.alone.iter().map(|(model, alone)| vec![json!(model), json!(alone.cost), json!(alone.quality)]);
        Exhibit::figure(
            "cost-quality",
            "Cost and quality",
            "What quality costs. A cascade pays every model it asks, so deferring everything costs more than the last model \
             alone.",
            &plot,
            &legend,
            (vec!["line", "cost", "quality"], rows.chain(alone).collect()),
        )
    }

    /// Threshold vectors chosen on other queries, by a joint model and by a grid, on the queries scored.
    pub(super) fn tuning(&self) -> Result<Option<Exhibit>> {
        let Some(tuning) = &self.evaluation.tuning else { return Ok(None) };
        let ways = [("rational tuning", &tuning.rational), ("grid of quantiles", &tuning.grid)];
        let points = || ways.iter().flat_map(|(_, tuned)| &tuned.points);
        let (scale, x) = self.cost_axis(points().map(|point| point.cost).fold(0.0, f64::max));
        let mut plot = Plot::new(x, Axis::around("quality", points().map(|point| point.quality)));
        let mut rows = Vec::new();
        for (at, (way, tuned)) in ways.iter().enumerate() {
            let mut line: Vec<(f64, f64)> = tuned.points.iter().map(|at| (at.cost / scale, at.quality)).collect();
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            plot.line(line, Paint::series(at), Line::Solid);
            rows.extend(tuned.points.iter().map(|point| {
                let thresholds: Vec<String> = point.thresholds.iter().map(f64::to_string).collect();
                vec![json!(way), json!(thresholds.join(" ")), json!(point.cost), json!(point.quality)]
            }));
        }
        let area = |area: Option<f64>| area.map_or("undefined".to_owned(), |area| format!("{area:.4}"));
        let caption = format!(
            "Thresholds chosen on {} other queries and scored on these: by a joint model of the models’ confidences (rational \
             tuning), and by trying a grid of quantiles. Error-cost areas, lower is better: {} and {}.",
            tuning.queries,
            area(tuning.rational.error_cost_area),
            area(tuning.grid.error_cost_area)
        );
        let columns = vec!["way", "thresholds", "cost", "quality"];
        let legend = [("s0", ways[0].0), ("s1", ways[1].0)];
        Exhibit::figure("tuning", "Thresholds tuned on other queries", &caption, &plot, &legend, (columns, rows))
            .map(Some)
    }

    /// What a cost is divided by, and the axis of costs up to the largest.
    fn cost_axis(&self, largest: f64) -> (f64, Axis) {
        let (scale, title) = match self.evaluation.cost_model.unit {
            Unit::Flops => {
                let (scale, letter) = prefix(largest);
                (scale, format!("mean {letter}FLOPs per query"))
            }
            Unit::Money => (1.0, "mean money per query".to_owned()),
            Unit::Milliseconds => (1.0, "mean milliseconds per query".to_owned()),
            Unit::Joules { .. } => (1.0, "mean joules per query".to_owned()),
            Unit::Calls => (1.0, "mean calls per query".to_owned()),
        };
        (scale, Axis::from_zero(&title, largest / scale))
    }

    pub(super) fn histogram(&self, model: &str) -> Result<Exhibit> {
        let bins =
            self.details.models.iter().find(|of| of.model == model).map(|of| &of.histogram[..]).unwrap_or_default();
        let tallest = bins.iter().map(|bin| bin.right + bin.wrong).max().unwrap_or(0) as f64;
        let x = Axis::spanning("score", bins.iter().flat_map(|bin| [bin.low, bin.high]));
        let mut plot = Plot::new(x, Axis::from_zero("queries", tallest));
        for bin in bins {
            let (wrong, right) = (bin.wrong as f64, bin.right as f64);
            plot.bar((bin.low, 0.0), (bin.high, wrong), Paint::Wrong);
            plot.bar((bin.low, wrong), (bin.high, wrong + right), Paint::Right);
        }
        let threshold = self.details.changes.as_ref().map(|changes| changes.threshold);
        let inside =
            |at: &f64| bins.first().is_some_and(|bin| bin.low <= *at) && bins.last().is_some_and(|bin| *at <= bin.high);
        if let Some(at) = threshold.filter(inside) {
            plot.line(vec![(at, 0.0), (at, tallest)], Paint::Ink, Line::Dashed);
        }
        let rows = bins.iter().map(|bin| vec![json!(bin.low), json!(bin.high), json!(bin.right), json!(bin.wrong)]);
        Exhibit::figure(
            "scores",
            &format!("Scores of {model}"),
            "Right answers stacked on wrong ones. Left of the dashed threshold queries are deferred.",
            &plot,
            &[("right", "right"), ("wrong", "wrong"), ("dashed ink", "threshold")],
            (vec!["low", "high", "right", "wrong"], rows.collect()),
        )
    }

    pub(super) fn reliability(&self) -> Result<Exhibit> {
        let mut plot = Plot::new(Axis::share("confidence"), Axis::share("share of right answers"));
        plot.line(vec![(0.0, 0.0), (1.0, 1.0)], Paint::Muted, Line::Dashed);
        let mut rows = Vec::new();
        for (at, of) in self.details.models.iter().enumerate() {
            let filled = of.reliability.iter().filter(|bin| bin.count > 0);
            let points: Vec<(f64, f64)> = filled.map(|bin| (bin.confidence, bin.accuracy)).collect();
            points.iter().for_each(|point| plot.dot(*point, Paint::series(at)));
            plot.line(points, Paint::series(at), Line::Solid);
            rows.extend(of.reliability.iter().map(|bin| {
                let count = json!(bin.count);
                vec![
                    json!(of.model),
                    json!(bin.low),
                    json!(bin.high),
                    count,
                    json!(bin.confidence),
                    json!(bin.accuracy),
                ]
            }));
        }
        let mut legend = self.series();
        legend.push(("dashed".to_owned(), "calibrated".to_owned()));
        Exhibit::figure(
            "reliability",
            "Reliability",
            "Whether a model is right as often as its confidence says. Under the diagonal it is too sure of itself.",
            &plot,
            &borrowed(&legend),
            (vec!["model", "low", "high", "count", "confidence", "accuracy"], rows),
        )
    }

    pub(super) fn risk_coverage(&self) -> Result<Exhibit> {
        let risks = || self.details.models.iter().flat_map(|of| of.risk_coverage.iter().map(|point| point.risk));
        let mut plot = Plot::new(Axis::share("answers kept, surest first"), Axis::around("their mean loss", risks()));
        let mut rows = Vec::new();
        for (at, of) in self.details.models.iter().enumerate() {
            let points = of.risk_coverage.iter().map(|point| (point.coverage, point.risk)).collect();
            plot.line(points, Paint::series(at), Line::Solid);
            let row = |point: &RiskPoint| vec![json!(of.model), json!(point.coverage), json!(point.risk)];
            rows.extend(of.risk_coverage.iter().map(row));
        }
        Exhibit::figure(
            "risk-coverage",
            "Risk and coverage",
            "How much is lost on the answers that are kept, as fewer are. A score that knows falls to the left.",
            &plot,
            &borrowed(&self.series()),
            (vec!["model", "coverage", "risk"], rows),
        )
    }

    fn series(&self) -> Vec<(String, String)> {
        let models = self.details.models.iter().enumerate();
        models.map(|(at, of)| (format!("s{}", at % SERIES), of.model.clone())).collect()
    }
}

fn borrowed(legend: &[(String, String)]) -> Vec<(&str, &str)> {
    legend.iter().map(|(class, text)| (class.as_str(), text.as_str())).collect()
}
