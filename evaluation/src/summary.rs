//! What a run found, as the JSON that other programs read and the report shows.
//!
//! A number that is undefined on the data (see [`measures`](crate::measures)) is `null`.

mod comparison;
mod objective;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, Interval};
use crate::curve::Point;
use crate::error::{Error, ErrorKind, Result};
use crate::file::{read_json, write_json};
use crate::measures::Bin;

pub use comparison::{AtRate, Comparison};
pub use objective::{DEFERRED_SIGNAL, Options, ScoreKind, Served};

pub(crate) use objective::histogram;

/// The schema this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Deferral rates that a summary's table shows.
pub const DEFERRAL_RATES: [f64; 4] = [0.1, 0.2, 0.3, 0.5];
/// Most points of a curve in a summary; areas are computed from all points before.
pub const MAX_CURVE_POINTS: usize = 201;
/// Largest summary read, in bytes. A thousand objectives fit.
pub const MAX_SUMMARY_BYTES: u64 = 64 << 20;

/// All objectives of a run on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// What the run's randomness began with.
    pub seed: u64,
    /// The data that was scored.
    pub dataset: Dataset,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Facts for people: models, their sizes, times.
    pub facts: BTreeMap<String, String>,
    /// What each training objective gave, by name.
    pub objectives: BTreeMap<String, ObjectiveSummary>,
    /// Objectives compared on the same queries.
    pub comparisons: Vec<Comparison>,
}

/// The data that was scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Which split was scored.
    pub split: String,
    /// Number of queries scored.
    pub queries: usize,
}

/// A cascade of the small model trained with one objective, and the large model.
///
/// Accuracies are mean qualities in [0, 1], costs are mean floating-point operations per query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveSummary {
    /// Number of queries scored.
    pub queries: usize,
    /// Small model alone.
    pub small_accuracy: f64,
    /// Large model alone.
    pub large_accuracy: f64,
    /// Cost of the small model alone.
    pub small_flops: f64,
    /// Cost of the large model alone, without the small one before it.
    pub large_flops: f64,
    /// The deferral curve, at most [`MAX_CURVE_POINTS`] points.
    pub curve: Vec<CurvePoint>,
    /// The oracle's curve.
    pub ideal: Vec<CurvePoint>,
    /// Bootstrap interval of the curve's accuracy at evenly spaced deferral rates, each rate on its own.
    pub band: Vec<BandPoint>,
    /// Area under the deferral curve.
    pub audc: f64,
    /// The same for deferring at random.
    pub audc_random: f64,
    /// The same for the oracle.
    pub audc_ideal: f64,
    /// Average performance gap recovered.
    pub apgr: Option<f64>,
    /// Deferral performance between random (0) and oracle (1).
    pub s_d: Option<f64>,
    /// AUROC of the score as a detector of the small model's right answers.
    pub auroc: Option<f64>,
    /// AUROC of the negated score as a detector of queries that only the large model answers right.
    pub benefit_auroc: Option<f64>,
    /// Least cost that reaches 95 % of the large model's accuracy.
    pub cost_at_95: Option<f64>,
    /// The deferral rate of `cost_at_95`.
    pub deferral_rate_at_95: Option<f64>,
    /// Least cost that reaches 99 % of the large model's accuracy.
    pub cost_at_99: Option<f64>,
    /// The deferral rate of `cost_at_99`.
    pub deferral_rate_at_99: Option<f64>,
    /// The curve at [`DEFERRAL_RATES`].
    pub at_deferral: Vec<AtDeferral>,
    /// Share of the gap between the models closed at 30 % deferral.
    pub gap_closed_at_30: Option<f64>,
    /// Median latency per query at the operating point, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile of the same.
    pub p95_ms: Option<f64>,
    /// The threshold in use and what it did.
    pub operating_point: OperatingPoint,
    /// How well the score tells right answers from wrong ones.
    pub confidence: Confidence,
    /// Bars of the reliability diagram; empty if the score is no probability.
    pub reliability: Vec<Bin>,
    /// How scores are spread among right and wrong answers of the small model.
    pub histogram: Vec<HistogramBin>,
    /// Paired-bootstrap intervals by the name of the number they belong to.
    pub intervals: BTreeMap<String, Interval>,
}

/// A point of a deferral curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Mean quality.
    pub accuracy: f64,
    /// Mean floating-point operations per query.
    pub mean_flops: f64,
}

impl From<Point> for CurvePoint {
    fn from(point: Point) -> Self {
        Self { deferral_rate: point.deferral_rate, accuracy: point.quality, mean_flops: point.mean_flops }
    }
}

/// A bootstrap interval of the curve at one deferral rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BandPoint {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Interval of the accuracy.
    pub accuracy: Interval,
}

/// A column of the table: the cascade at one deferral rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtDeferral {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Mean quality.
    pub accuracy: f64,
    /// Bootstrap interval of the accuracy.
    pub interval: Option<Interval>,
    /// Mean floating-point operations per query.
    pub mean_flops: f64,
}

/// The threshold in use and what it did on the queries scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// Keep if score >= threshold.
    pub threshold: f64,
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Mean quality of the answers given.
    pub accuracy: f64,
    /// Mean floating-point operations per query.
    pub mean_flops: f64,
    /// Whether this was measured on a cascade that ran, or computed from both models' recorded outcomes.
    pub measured: bool,
}

/// Confidence measures of the score on the small model's answers; see [`measures`](crate::measures).
///
/// The last six need a score that is a probability, or becomes one ([`ScoreKind`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// False positive rate at 95 % true positive rate.
    pub fpr95: Option<f64>,
    /// Area under the risk-coverage curve.
    pub aurc: Option<f64>,
    /// Excess of `aurc` over the best order.
    pub e_aurc: Option<f64>,
    /// Area under the generalised risk-coverage curve.
    pub augrc: Option<f64>,
    /// Expected calibration error, 15 bins of equal width.
    pub ece_width: Option<f64>,
    /// Expected calibration error, 15 bins of equal mass.
    pub ece_mass: Option<f64>,
    /// Maximum calibration error, 15 bins of equal width.
    pub mce: Option<f64>,
    /// Brier score.
    pub brier: Option<f64>,
    /// Negative log-likelihood, nats.
    pub nll: Option<f64>,
}

/// A bar of the score histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HistogramBin {
    /// Lower edge of the score, inside the bin.
    pub low: f64,
    /// Upper edge of the score, outside the bin except in the last one.
    pub high: f64,
    /// Right answers of the small model.
    pub right: u64,
    /// Wrong ones.
    pub wrong: u64,
}

impl Summary {
    /// A summary without objectives yet.
    #[must_use]
    pub fn new(dataset: Dataset, bootstrap: Bootstrap) -> Self {
        Self {
            schema: SCHEMA,
            seed: bootstrap.seed,
            dataset,
            bootstrap,
            facts: BTreeMap::new(),
            objectives: BTreeMap::new(),
            comparisons: Vec::new(),
        }
    }

    /// Reads a summary.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::TooLarge`], or [`ErrorKind::Value`] if it is not a summary of this [`SCHEMA`].
    pub fn read(path: &Path) -> Result<Self> {
        let summary: Self = read_json(path, MAX_SUMMARY_BYTES, "a summary")?;
        if summary.schema != SCHEMA {
            let message = format!("has schema {}, this version reads {SCHEMA}", summary.schema);
            return Err(Error::new(ErrorKind::Value, message).at_path(path));
        }
        Ok(summary)
    }

    /// Writes the summary as JSON; the file is wholly there or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

#[cfg(test)]
pub(crate) mod tests;
