//! The findings and the method, in sentences.

use super::markup::{escape, flops, percent, rate};
use crate::summary::{ObjectiveSummary, Summary};

/// What came out, as a list: comparisons first, then each objective.
pub(super) fn in_short(summary: &Summary) -> String {
    let compared = summary.comparisons.iter().map(|comparison| escape(&comparison.sentence).replace(" %", "\u{a0}%"));
    let each = summary.objectives.iter().map(|(name, objective)| of_objective(name, objective));
    let items: String = compared.chain(each).map(|sentence| format!("<li>{sentence}</li>\n")).collect();
    format!("<ul>\n{items}</ul>\n")
}

fn of_objective(name: &str, objective: &ObjectiveSummary) -> String {
    let mut sentence = format!(
        "<b>{}</b>: the small model alone reaches {} accuracy, the large one {}.",
        escape(name),
        percent(objective.small_accuracy),
        percent(objective.large_accuracy),
    );
    if let Some(at) = objective.at_deferral.iter().find(|at| at.deferral_rate == 0.3) {
        let gap = objective.gap_closed_at_30.filter(|_| objective.large_accuracy > objective.small_accuracy);
        let gap = gap.map(|gap| format!(", closing {:.0}\u{a0}% of the gap,", 100.0 * gap)).unwrap_or_default();
        sentence += &format!(
            " Deferring {} of queries gives {}{gap} at {} of the large model’s cost.",
            rate(at.deferral_rate),
            percent(at.accuracy),
            share_of_large(at.mean_flops, objective),
        );
    }
    if let Some((cost, deferred)) = objective.cost_at_95.zip(objective.deferral_rate_at_95) {
        sentence += &format!(
            " 95\u{a0}% of the large model’s accuracy takes {} deferral, {} of its cost.",
            percent(deferred),
            share_of_large(cost, objective),
        );
    }
    let point = &objective.operating_point;
    sentence += &format!(
        " With the threshold chosen on calibration data, {} deferred {} of queries and answered {} right.",
        if point.measured { "the running cascade" } else { "the cascade would have" },
        percent(point.deferral_rate),
        percent(point.accuracy),
    );
    sentence
}

fn share_of_large(cost: f64, objective: &ObjectiveSummary) -> String {
    if objective.large_flops > 0.0 { percent(cost / objective.large_flops) } else { flops(cost) }
}

/// Data, rule, cost and intervals, as paragraphs and a list of facts.
pub(super) fn how_measured(summary: &Summary) -> String {
    let dataset = &summary.dataset;
    let bootstrap = &summary.bootstrap;
    let facts: String = summary
        .facts
        .iter()
        .map(|(name, fact)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(fact)))
        .collect();
    let facts = if facts.is_empty() { facts } else { format!("<dl class=\"facts\">\n{facts}</dl>\n") };
    format!(
        "<p>{queries} queries of {name}, split {split}. A query is kept if its score is at least the threshold; queries of equal score go together, and between two thresholds the tied ones are deferred at random. The small model is always paid, the large one only when a query is deferred to it.</p>\n<p>Intervals are {level:.0}\u{a0}% percentiles of {resamples} bootstrap resamples of queries, both models’ answers drawn together, seed {seed}. Each is read on its own, without a correction for their number. The ideal line belongs to an oracle that knows which model is right; the random line to deferring without looking.</p>\n{facts}",
        queries = dataset.queries,
        name = escape(&dataset.name),
        split = escape(&dataset.split),
        level = 100.0 * bootstrap.level,
        resamples = bootstrap.resamples,
        seed = bootstrap.seed,
    )
}
