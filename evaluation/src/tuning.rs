//! Rational tuning: thresholds of a chain from a model of how its models' confidences go together, instead of from counts.
//!
//! After Zellinger & Thomson, "Rational Tuning of LLM Cascades via Probabilistic Modeling" (arXiv 2501.09345): logistic
//! calibration of spread log-probabilities, beta-mixture marginals with lumps at their ends, a Gumbel copula between
//! neighbours, a Markov chain through all models, and thresholds that are optimal under it for a price of cost.

mod copula;
mod marginal;
mod search;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::chain::{Chain, ChainPoint};
use crate::error::{Error, ErrorKind, Result};
use crate::fit::{Calibrator, Spread};
use crate::pairing::RIGHT;

pub use copula::{Gumbel, kendall_tau};
pub use marginal::{Beta, Marginal};

use search::Tables;

/// Prices of cost at which thresholds are tuned, from 0 to where no model but the first is asked.
const PRICES: usize = 40;

/// The joint distribution of a chain's calibrated confidences.
///
/// A confidence is the probability that the model's answer is right. Neighbours are joined by their copula on whole
/// marginals, lumps included (Sklar); the authors' code fits what lies at the lumps apart. Beyond neighbours the chain is
/// Markov.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JointModel {
    /// Confidence of each model but the last, in the order in which they are asked.
    pub marginals: Vec<Marginal>,
    /// Dependence of each of these models on the one before; one less.
    pub copulas: Vec<Gumbel>,
    /// How good the last model is.
    pub last: Last,
    /// Mean cost of each model, without those before it.
    pub costs: Vec<f64>,
}

/// How often the last model is right, which keeps everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "known-by")]
pub enum Last {
    /// By its own confidence, as in the paper.
    Confidence {
        /// Its distribution.
        marginal: Marginal,
        /// Its dependence on the model before.
        copula: Gumbel,
    },
    /// Without one: logistic in the log-odds of the confidence of the model before.
    Before {
        /// Log-odds per unit of the other's.
        slope: f64,
        /// Log-odds where the other's are 0.
        intercept: f64,
    },
}

/// What thresholds are expected to give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Share of queries that the first model hands on.
    pub deferral_rate: f64,
    /// Probability of a right answer.
    pub quality: f64,
    /// Mean cost per query.
    pub cost: f64,
}

/// A chain's calibrators and joint model, fitted on its outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// From scores to confidences, for each model but the last, and for it if its scores can be calibrated.
    pub calibrators: Vec<Calibrator>,
    /// The model that thresholds are optimal under.
    pub model: JointModel,
    /// Optimal thresholds by rising price of cost, each once.
    pub points: Vec<TunedPoint>,
}

/// Thresholds that are optimal at one price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunedPoint {
    /// How much quality a unit of cost must buy.
    pub price: f64,
    /// On *confidences*: each model but the last keeps what it is surer of than this.
    pub thresholds: Vec<f64>,
    /// What the model expects of them.
    pub expected: Expected,
}

impl JointModel {
    /// Fits marginals and copulas to confidences, by the order of queries: one list for each model but the last, the last's
    /// if it has one, and whether the last model is right.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without models, for lists of different lengths, or confidences that [`Marginal::fit`]
    /// refuses.
    pub fn fit(confidences: &[Vec<f64>], last: Option<&[f64]>, last_right: &[bool], costs: &[f64]) -> Result<Self> {
        let same = confidences.iter().all(|list| list.len() == last_right.len());
        let Some(before) = confidences.last().filter(|_| same && costs.len() == confidences.len() + 1) else {
            let message = "a joint model needs a cost for each model, and as many confidences of each as queries";
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        let last = match last {
            Some(last) => Last::Confidence { marginal: Marginal::fit(last)?, copula: Gumbel::fit(before, last) },
            None => Last::of_before(before, last_right)?,
        };
        Ok(Self {
            marginals: confidences.iter().map(|list| Marginal::fit(list)).collect::<Result<_>>()?,
            copulas: confidences.windows(2).map(|two| Gumbel::fit(&two[0], &two[1])).collect(),
            last,
            costs: costs.to_vec(),
        })
    }

    /// What thresholds on confidences give, one for each model but the last.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for another number of thresholds, or one that is NaN.
    pub fn expect(&self, thresholds: &[f64]) -> Result<Expected> {
        if thresholds.len() != self.marginals.len() || thresholds.iter().any(|threshold| threshold.is_nan()) {
            let message = format!("a chain of {} models takes {} thresholds", self.costs.len(), self.marginals.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Tables::of(self).expect(thresholds))
    }

    /// The thresholds that lose least at a price: least `1 - quality + price * cost`.
    ///
    /// Dynamic programming over a grid of each threshold finds the best grid point of all, which the chain's Markov
    /// property allows; golden sections from there, one threshold after the other, find the optimum between grid points.
    #[must_use]
    pub fn tune(&self, price: f64) -> TunedPoint {
        Tables::of(self).tune(price)
    }
}

impl Last {
    fn of_before(before: &[f64], right: &[bool]) -> Result<Self> {
        let log_odds: Vec<f64> = before.iter().map(|confidence| log_odds(*confidence)).collect();
        if right.iter().all(|one| *one == right[0]) {
            // Always right, or always wrong: nothing to regress on.
            return Ok(Self::Before { slope: 0.0, intercept: if right[0] { f64::MAX } else { f64::MIN } });
        }
        match Calibrator::platt(&log_odds, right)? {
            Calibrator::Platt { slope, intercept } => Ok(Self::Before { slope, intercept }),
            _ => Err(Error::new(ErrorKind::Invalid, "a logistic regression gives a line")),
        }
    }
}

impl Tuning {
    /// Calibrates, fits and tunes a chain on its own outcomes; score it on others with [`Tuning::on`].
    ///
    /// Scores are log-probabilities. An answer is right when its quality is at least [`RIGHT`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where scores cannot be calibrated ([`Calibrator::log_probability`]) or confidences have no
    /// distribution.
    pub fn of(chain: &Chain, spread: Spread) -> Result<Self> {
        let models = chain.models().len();
        let right = |model: usize| -> Vec<bool> {
            chain.quality(model).unwrap_or_default().iter().map(|quality| *quality >= RIGHT).collect()
        };
        let calibrator =
            |model: usize| Calibrator::log_probability(chain.scores(model).unwrap_or_default(), &right(model), spread);
        let mut calibrators = (0..models - 1).map(calibrator).collect::<Result<Vec<_>>>()?;
        // The last model needs no confidence; one that cannot be calibrated is none.
        calibrators.extend(calibrator(models - 1).ok());
        let mut confidences: Vec<Vec<f64>> = calibrators
            .iter()
            .enumerate()
            .map(|(model, calibrator)| {
                let scores = chain.scores(model).unwrap_or_default();
                scores.iter().map(|score| calibrator.probability(*score)).collect()
            })
            .collect();
        let last = (confidences.len() == models).then(|| confidences.pop()).flatten();
        let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len() as f64;
        let costs: Vec<f64> = (0..models).filter_map(|model| chain.cost(model).map(mean)).collect();
        let model = JointModel::fit(&confidences, last.as_deref(), &right(models - 1), &costs)?;
        let tables = Tables::of(&model);
        let mut points: Vec<TunedPoint> = prices(&costs).into_par_iter().map(|price| tables.tune(price)).collect();
        points.dedup_by(|later, earlier| later.thresholds == earlier.thresholds);
        Ok(Self { calibrators, model, points })
    }

    /// What the tuned thresholds give on a chain's outcomes, in the order of [`Tuning::points`]. The thresholds of these points
    /// are on confidences too, one unit in the last place higher: a chain keeps at its threshold.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a chain of another length.
    pub fn on(&self, chain: &Chain) -> Result<Vec<ChainPoint>> {
        let confident = chain.rescored(|model, score| {
            self.calibrators.get(model).map_or(score, |calibrator| calibrator.probability(score))
        });
        let above =
            |point: &TunedPoint| point.thresholds.iter().map(|threshold| threshold.next_up()).collect::<Vec<_>>();
        self.points.iter().map(|point| confident.at(&above(point))).collect()
    }
}

/// From free to dear: a price of 1 over the cost of all later models would pay them with a whole right answer.
fn prices(costs: &[f64]) -> Vec<f64> {
    let later: f64 = costs.iter().skip(1).sum();
    if later <= 0.0 {
        return vec![0.0];
    }
    let exponent = |at: usize| -4.0 + 5.0 * at as f64 / (PRICES - 1) as f64;
    std::iter::once(0.0).chain((0..PRICES).map(|at| 10f64.powf(exponent(at)) / later)).collect()
}

fn log_odds(probability: f64) -> f64 {
    let probability = probability.clamp(1e-12, 1.0 - 1e-12);
    probability.ln() - (-probability).ln_1p()
}

#[cfg(test)]
mod tests;
