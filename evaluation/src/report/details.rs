//! What a page about a chain shows beyond its numbers: how scores are spread, how risk falls with coverage, and which
//! queries changed hands.

use std::collections::HashMap;

use serde::Serialize;

use crate::chain::Chain;
use crate::error::Result;
use crate::evaluation::{Evaluation, Options};
use crate::measures::{self, Bin};
use crate::outcome::{Row, Table};
use crate::pairing::RIGHT;
use crate::summary::{HistogramBin, histogram};

/// Bars of a reliability diagram, which few answers must fill.
const RELIABILITY_BINS: usize = 10;
/// Most points of a risk-coverage curve that are drawn.
const MAX_POINTS: usize = 201;
/// Most queries shown of each kind of change.
const MAX_CHANGES: usize = 12;
/// The deferral rate at which queries are shown if no goal chose a threshold.
const SHOWN_RATE: f64 = 0.3;

/// The details of an evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// Of each model with scores.
    pub models: Vec<OfModel>,
    /// Queries that deferring mends or spoils, two models only.
    pub changes: Option<Changes>,
}

/// The score of one model.
#[derive(Debug, Clone, Serialize)]
pub struct OfModel {
    /// Its name.
    pub model: String,
    /// Scores of right and wrong answers.
    pub histogram: Vec<HistogramBin>,
    /// Confidence against accuracy; empty if scores are no probabilities.
    pub reliability: Vec<Bin>,
    /// Mean loss of the answers kept when a share of them is, surest first.
    pub risk_coverage: Vec<RiskPoint>,
}

/// A point of the risk-coverage curve.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RiskPoint {
    /// Share of answers kept.
    pub coverage: f64,
    /// Their mean loss, 1 - quality.
    pub risk: f64,
}

/// What deferring did at one threshold.
#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// Where the threshold comes from, in words.
    pub threshold_in_words: String,
    /// Keep if score >= threshold.
    pub threshold: f64,
    /// Number of queries of each kind, by its name.
    pub counts: Vec<(&'static str, usize)>,
    /// Some of them, nearest to the threshold first.
    pub queries: Vec<Change>,
}

/// A query whose answer depends on who gives it.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// What became of it.
    pub kind: &'static str,
    /// Which query.
    pub query: String,
    /// Its task.
    pub task: Option<String>,
    /// The small model's score.
    pub score: f64,
    /// Quality of the small model's answer.
    pub small_quality: f64,
    /// Quality of the large model's answer.
    pub large_quality: f64,
}

/// What can become of a query on which the models differ, in the order shown.
const KINDS: [&str; 4] = ["mended by deferring", "spoilt by deferring", "kept though worse", "kept and better"];

impl Details {
    /// The details of an evaluation of the same table with the same options.
    ///
    /// # Errors
    /// As [`Evaluation::from_table`].
    pub fn of(table: &Table, models: &[&str], options: &Options<'_>, evaluation: &Evaluation) -> Result<Self> {
        let scored = || table.rows().filter(|row| options.scores(*row));
        let chain = Chain::join(scored(), models, &options.cost)?;
        let of_model = |at: usize| Some(OfModel::of(models[at], chain.scores(at)?, chain.quality(at)?, options));
        let changes = match models {
            [small, large] => Some(Changes::of(scored(), small, large, evaluation)),
            _ => None,
        };
        Ok(Self { models: (0..models.len()).filter_map(of_model).collect(), changes })
    }
}

impl OfModel {
    fn of(model: &str, scores: &[f64], qualities: &[f64], options: &Options<'_>) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let sorted: Vec<f64> = order.iter().map(|at| scores[*at]).collect();
        let right: Vec<bool> = order.iter().map(|at| qualities[*at] >= RIGHT).collect();
        let confidences = options.score.confidences(&sorted);
        let reliability = confidences.and_then(|p| measures::reliability(&p, &right, RELIABILITY_BINS));
        let (mut kept, mut lost) = (0.0, 0.0);
        let mut risk_coverage = Vec::new();
        for (place, at) in order.iter().enumerate().rev() {
            kept += 1.0;
            lost += 1.0 - qualities[*at];
            if place == 0 || sorted[place - 1] != sorted[place] {
                risk_coverage.push(RiskPoint { coverage: kept / scores.len() as f64, risk: lost / kept });
            }
        }
        if risk_coverage.len() > MAX_POINTS {
            let step = (risk_coverage.len() - 1) as f64 / (MAX_POINTS - 1) as f64;
            risk_coverage = (0..MAX_POINTS).map(|i| risk_coverage[(step * i as f64).round() as usize]).collect();
        }
        Self {
            model: model.to_owned(),
            histogram: histogram(&sorted, &right),
            reliability: reliability.unwrap_or_default(),
            risk_coverage,
        }
    }
}

impl Changes {
    fn of<'a>(
        scored: impl Iterator<Item = Row<'a>> + Clone,
        small: &str,
        large: &str,
        evaluation: &Evaluation,
    ) -> Self {
        let chosen = evaluation.certificates.iter().find_map(|goal| Some((goal, goal.guarantee.certified()?)));
        let (threshold, threshold_in_words) = match chosen {
            Some((goal, certified)) => (certified.threshold, format!("the threshold of the goal {}", goal.goal)),
            None => {
                let rate = |point: &&crate::chain::ChainPoint| point.deferral_rate <= SHOWN_RATE;
                let point = evaluation.points.iter().rev().find(rate);
                let threshold = point.and_then(|point| point.thresholds.first()).copied();
                (threshold.unwrap_or(f64::INFINITY), "a threshold that defers at most 30 % of these queries".to_owned())
            }
        };
        let of_large: HashMap<&str, f64> =
            scored.clone().filter(|row| row.model() == large).map(|row| (row.query(), row.quality())).collect();
        let mut of_kind: [Vec<(f64, Row<'a>, f64)>; KINDS.len()] = Default::default();
        for row in scored.filter(|row| row.model() == small) {
            let (Some(score), Some(large_quality)) = (row.score(), of_large.get(row.query())) else { continue };
            let kind = match (score < threshold, large_quality.partial_cmp(&row.quality())) {
                (true, Some(std::cmp::Ordering::Greater)) => 0,
                (true, Some(std::cmp::Ordering::Less)) => 1,
                (false, Some(std::cmp::Ordering::Greater)) => 2,
                (false, Some(std::cmp::Ordering::Less)) => 3,
                _ => continue,
            };
            of_kind[kind].push((score, row, *large_quality));
        }
        let counts = KINDS.into_iter().zip(of_kind.iter().map(Vec::len)).collect();
        let shown = KINDS.into_iter().zip(&mut of_kind).flat_map(|(kind, rows)| {
            let far = |score: f64| (score - threshold).abs();
            rows.sort_by(|(a, of_a, _), (b, of_b, _)| {
                far(*a).total_cmp(&far(*b)).then_with(|| of_a.query().cmp(of_b.query()))
            });
            rows.iter().take(MAX_CHANGES).map(move |(score, row, large_quality)| Change {
                kind,
                query: row.query().to_owned(),
                task: row.task().map(str::to_owned),
                score: *score,
                small_quality: row.quality(),
                large_quality: *large_quality,
            })
        });
        Self { threshold_in_words, threshold, counts, queries: shown.collect() }
    }
}
