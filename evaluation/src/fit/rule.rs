//! Rules on the confidence signals that a table records.

use serde::{Deserialize, Serialize};

use super::logistic;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Row;
use crate::pairing::RIGHT;

/// Log-odds that are linear in an answer's signals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearRule {
    /// Names of the signals, without the prefix of their columns.
    pub signals: Vec<String>,
    /// One for each signal, per unit of the signal.
    pub weights: Vec<f64>,
    /// Log-odds where all signals are 0.
    pub intercept: f64,
}

/// A deferral rule learned from outcomes; its score is higher for answers to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "rule")]
#[non_exhaustive]
pub enum LearnedRule {
    /// Log-odds that the small model is right: logistic regression on its signals, such as quantiles of its tokens'
    /// log-probabilities (Gupta et al., arXiv 2404.10136).
    PostHoc {
        /// Log-odds of the small model.
        small: LinearRule,
    },
    /// P(small model right) - P(large model right), both from the small model's signals: the Bayes rule defers where
    /// this is below minus the price of deferring (Jitkrittum et al., arXiv 2307.02764).
    Benefit {
        /// Log-odds of the small model.
        small: LinearRule,
        /// Log-odds of the large model.
        large: LinearRule,
    },
}

impl LinearRule {
    /// Logistic regression of whether answers are right on signals, which are standardised while fitting; `penalty` is
    /// the squared weight's, per squared standard deviation (the inverse of scikit-learn's `C`).
    fn fit(rows: &[Row<'_>], right: &[f64], signals: &[&str], penalty: f64) -> Result<Self> {
        let mut columns = Vec::with_capacity(signals.len());
        for signal in signals {
            let column: Result<Vec<f64>> = rows.iter().map(|row| row.needed_signal(signal)).collect();
            columns.push(Standardised::of(column?));
        }
        // A signal that is the same everywhere says nothing and keeps the weight 0.
        let row = |at: usize| -> logistic::Row {
            let said = columns.iter().enumerate().filter(|(_, column)| column.deviation > 0.0);
            said.map(|(feature, column)| (feature, column.values[at])).collect()
        };
        let features: Vec<logistic::Row> = (0..rows.len()).map(row).collect();
        let fitted = logistic::fit(&features, right, signals.len(), penalty)?;
        let weight = |(weight, column): (&f64, &Standardised)| {
            if column.deviation > 0.0 { weight / column.deviation } else { 0.0 }
        };
        let weights: Vec<f64> = fitted.weights.iter().zip(&columns).map(weight).collect();
        let shift: f64 = weights.iter().zip(&columns).map(|(weight, column)| weight * column.mean).sum();
        Ok(Self {
            signals: signals.iter().map(|signal| (*signal).to_owned()).collect(),
            weights,
            intercept: fitted.intercept - shift,
        })
    }

    /// Log-odds of an answer.
    ///
    /// # Errors
    /// [`ErrorKind::MissingValue`] with the column of a signal that the row lacks.
    pub fn log_odds<'a>(&self, row: impl Into<Row<'a>>) -> Result<f64> {
        let row = row.into();
        let mut sum = self.intercept;
        for (signal, weight) in self.signals.iter().zip(&self.weights) {
            sum += weight * row.needed_signal(signal)?;
        }
        Ok(sum)
    }
}

impl LearnedRule {
    /// The post-hoc rule from the small model's rows.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without signals, for a penalty that is not above 0, or if all answers are right or all
    /// are wrong; [`ErrorKind::MissingValue`] for a signal that a row lacks.
    pub fn post_hoc<'a, R: Into<Row<'a>> + Copy>(small: &[R], signals: &[&str], penalty: f64) -> Result<Self> {
        check(signals, penalty)?;
        let small = views(small);
        Ok(Self::PostHoc { small: LinearRule::fit(&small, &right(&small), signals, penalty)? })
    }

    /// The benefit rule from both models' rows, the same query at the same place.
    ///
    /// # Errors
    /// As [`LearnedRule::post_hoc`], for either model; [`ErrorKind::MissingPair`] if the queries are not the same.
    pub fn benefit<'a, R: Into<Row<'a>> + Copy>(
        small: &[R],
        large: &[R],
        signals: &[&str],
        penalty: f64,
    ) -> Result<Self> {
        check(signals, penalty)?;
        let (small, large) = (views(small), views(large));
        if small.len() != large.len() || small.iter().zip(&large).any(|(small, large)| small.query() != large.query()) {
            return Err(Error::new(ErrorKind::MissingPair, "the two models' rows are not about the same queries"));
        }
        Ok(Self::Benefit {
            small: LinearRule::fit(&small, &right(&small), signals, penalty)?,
            large: LinearRule::fit(&small, &right(&large), signals, penalty)?,
        })
    }

    /// The score of a small model's answer; higher means keep.
    ///
    /// # Errors
    /// [`ErrorKind::MissingValue`] with the column of a signal that the row lacks.
    pub fn score<'a>(&self, row: impl Into<Row<'a>>) -> Result<f64> {
        let row = row.into();
        match self {
            Self::PostHoc { small } => small.log_odds(row),
            Self::Benefit { small, large } => {
                Ok(logistic::sigmoid(small.log_odds(row)?) - logistic::sigmoid(large.log_odds(row)?))
            }
        }
    }
}

struct Standardised {
    mean: f64,
    deviation: f64,
    values: Vec<f64>,
}

impl Standardised {
    fn of(mut values: Vec<f64>) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        // Equal numbers have a deviation of a few units in the last place of their mean.
        let deviation = if deviation <= 1e-14 * mean.abs() { 0.0 } else { deviation };
        for value in &mut values {
            *value = if deviation > 0.0 { (*value - mean) / deviation } else { 0.0 };
        }
        Self { mean, deviation, values }
    }
}

fn views<'a, R: Into<Row<'a>> + Copy>(rows: &[R]) -> Vec<Row<'a>> {
    rows.iter().map(|row| (*row).into()).collect()
}

fn right(rows: &[Row<'_>]) -> Vec<f64> {
    rows.iter().map(|row| f64::from(u8::from(row.quality() >= RIGHT))).collect()
}

fn check(signals: &[&str], penalty: f64) -> Result<()> {
    if signals.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "a learned rule needs a signal"));
    }
    logistic::check_penalty(penalty)
}
