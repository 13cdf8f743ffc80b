//! Which figures the page has: each an SVG, a legend, a caption, and its numbers.

use serde_json::json;

use super::markup::{escape, prefix};
use super::page;
use super::plot::{Axis, Line, Paint, Plot, SERIES};
use crate::error::Result;
use crate::summary::{CurvePoint, ObjectiveSummary, Summary};

/// All figures as HTML.
pub(super) fn all(summary: &Summary) -> Result<String> {
    if summary.objectives.is_empty() {
        return Ok("<p>No objective was measured.</p>\n".into());
    }
    let mut figures = deferral(summary)?;
    figures += &cost_quality(summary)?;
    for (name, objective) in &summary.objectives {
        figures += &histogram(name, objective)?;
    }
    if summary.objectives.values().any(|objective| !objective.reliability.is_empty()) {
        figures += &reliability(summary)?;
    }
    Ok(figures)
}

fn deferral(summary: &Summary) -> Result<String> {
    let accuracies = summary.objectives.values().flat_map(|objective| {
        let band = objective.band.iter().flat_map(|point| [point.accuracy.low, point.accuracy.high]);
        objective.ideal.iter().chain(&objective.curve).map(|point| point.accuracy).chain(band)
    });
    let y = Axis::around("accuracy", accuracies);
    let x = Axis::share("queries deferred");
    let mut plot = Plot::new(x, y);
    for (series, objective) in summary.objectives.values().enumerate() {
        let band = objective.band.iter().map(|point| (point.deferral_rate, point.accuracy.low, point.accuracy.high));
        plot.band(band.collect(), Paint::series(series));
    }
    for (series, objective) in summary.objectives.values().enumerate() {
        let xy = |points: &[CurvePoint]| points.iter().map(|at| (at.deferral_rate, at.accuracy)).collect::<Vec<_>>();
        plot.line(xy(&objective.ideal), Paint::series(series), Line::Dotted);
        let random = vec![(0.0, objective.small_accuracy), (1.0, objective.large_accuracy)];
        plot.line(random, Paint::series(series), Line::Dashed);
        plot.line(xy(&objective.curve), Paint::series(series), Line::Solid);
        let point = &objective.operating_point;
        plot.dot((point.deferral_rate, point.accuracy), Paint::series(series));
    }
    let mut legend = names(summary);
    legend.extend([key("dotted", "ideal"), key("dashed", "random"), key("ring", "threshold in use")]);
    let numbers = per_objective(
        summary,
        |objective| json!({ "curve": objective.curve, "band": objective.band, "ideal": objective.ideal }),
    );
    figure(
        "Deferral curve",
        "Accuracy as more queries go to the large model. The shaded band is the bootstrap interval at each deferral rate.",
        &plot,
        &legend,
        &numbers,
    )
}

fn cost_quality(summary: &Summary) -> Result<String> {
    let largest = summary.objectives.values().flat_map(|o| o.curve.iter().map(|at| at.mean_flops)).fold(0.0, f64::max);
    let (scale, prefix) = prefix(largest);
    let label = format!("mean {prefix}FLOPs per query");
    let accuracies = summary.objectives.values().flat_map(|o| o.curve.iter().map(|at| at.accuracy));
    let y = Axis::around("accuracy", accuracies);
    let mut plot = Plot::new(Axis::from_zero(&label, largest / scale), y);
    for (series, objective) in summary.objectives.values().enumerate() {
        let points = objective.curve.iter().map(|at| (at.mean_flops / scale, at.accuracy)).collect();
        plot.line(points, Paint::series(series), Line::Solid);
        plot.dot((objective.small_flops / scale, objective.small_accuracy), Paint::series(series));
        plot.dot((objective.large_flops / scale, objective.large_accuracy), Paint::Muted);
    }
    let mut legend = names(summary);
    legend.extend([key("ring", "small alone"), key("ring muted", "large alone, without the small one before it")]);
    let numbers = per_objective(summary, |objective| {
        json!({
            "curve": objective.curve,
            "small_alone": { "mean_flops": objective.small_flops, "accuracy": objective.small_accuracy },
            "large_alone": { "mean_flops": objective.large_flops, "accuracy": objective.large_accuracy },
        })
    });
    figure(
        "Cost and quality",
        "What accuracy costs. A cascade pays the small model on every query, so deferring everything costs more than the large model alone.",
        &plot,
        &legend,
        &numbers,
    )
}

fn histogram(name: &str, objective: &ObjectiveSummary) -> Result<String> {
    let bins = &objective.histogram;
    let tallest = bins.iter().map(|bin| bin.right + bin.wrong).max().unwrap_or(0) as f64;
    let edges = bins.iter().flat_map(|bin| [bin.low, bin.high]);
    let x = Axis::spanning("score of the small model’s answer", edges);
    let mut plot = Plot::new(x, Axis::from_zero("queries", tallest));
    for bin in bins {
        let (wrong, right) = (bin.wrong as f64, bin.right as f64);
        plot.bar((bin.low, 0.0), (bin.high, wrong), Paint::Wrong);
        plot.bar((bin.low, wrong), (bin.high, wrong + right), Paint::Right);
    }
    let threshold = objective.operating_point.threshold;
    plot.line(vec![(threshold, 0.0), (threshold, tallest)], Paint::Ink, Line::Dashed);
    let legend =
        [key("right", "right"), key("wrong", "wrong"), key("dashed ink", "threshold: queries left of it are deferred")];
    figure(
        &format!("Scores, {name}"),
        "How the small model’s scores are spread, its right answers stacked on its wrong ones.",
        &plot,
        &legend,
        &json!(bins),
    )
}

fn reliability(summary: &Summary) -> Result<String> {
    let mut plot = Plot::new(Axis::share("confidence"), Axis::share("share of right answers"));
    plot.line(vec![(0.0, 0.0), (1.0, 1.0)], Paint::Muted, Line::Dashed);
    for (series, objective) in summary.objectives.values().enumerate() {
        let filled = objective.reliability.iter().filter(|bin| bin.count > 0);
        let points: Vec<(f64, f64)> = filled.map(|bin| (bin.confidence, bin.accuracy)).collect();
        for point in &points {
            plot.dot(*point, Paint::series(series));
        }
        plot.line(points, Paint::series(series), Line::Solid);
    }
    let mut legend = names(summary);
    legend.push(key("dashed muted", "calibrated"));
    let numbers = per_objective(summary, |objective| json!(objective.reliability));
    figure(
        "Reliability",
        "Whether the small model is right as often as its confidence says. Under the diagonal it is too sure of itself.",
        &plot,
        &legend,
        &numbers,
    )
}

/// An entry of a legend: the classes of its swatch, and its text.
type Key = (String, String);

fn key(classes: &str, text: &str) -> Key {
    (classes.to_owned(), text.to_owned())
}

fn names(summary: &Summary) -> Vec<Key> {
    summary.objectives.keys().enumerate().map(|(series, name)| key(&format!("s{}", series % SERIES), name)).collect()
}

fn per_objective(summary: &Summary, numbers: impl Fn(&ObjectiveSummary) -> serde_json::Value) -> serde_json::Value {
    let map = summary.objectives.iter().map(|(name, objective)| (name.clone(), numbers(objective)));
    map.collect::<serde_json::Map<_, _>>().into()
}

fn figure(title: &str, caption: &str, plot: &Plot, legend: &[Key], numbers: &serde_json::Value) -> Result<String> {
    let drawing = page::drawing(title, caption, plot, legend.iter().map(|(classes, text)| (classes, text)))?;
    Ok(format!(
        "<figure>\n<h3>{title}</h3>\n{drawing}<figcaption>{caption}</figcaption>\n<details><summary>Numbers</summary><pre tabindex=\"0\">{numbers}</pre></details>\n</figure>\n",
        title = escape(title),
        numbers = escape(&numbers.to_string()),
    ))
}
