//! Intent classifiers for microcontrollers: hashed n-grams, one hidden layer, trained by plain gradient descent in `f32`.
//!
//! The n-grams are those of `margay_intents`, which computes the same with 8-bit weights where it is used. There is nothing
//! here for a tensor library: a step touches some dozen rows of one matrix.

mod file;
mod recipe;
mod training;

use std::collections::BTreeMap;

use crate::data::Example;
use crate::error::{Error, ErrorKind, Result};

pub use file::MAX_INTENTS;
pub use recipe::{IntentData, IntentOptions, IntentRecipe};

/// A classifier with 32-bit weights:
/// `logit_k = bias_k + (sum_j W_kj max(0, sum_g E_gj)) / N`, over an utterance's `N` n-grams `g`.
#[derive(Debug, Clone, PartialEq)]
pub struct IntentClassifier {
    pub(super) intents: Vec<String>,
    pub(super) hidden: usize,
    /// `[buckets, hidden]`.
    pub(super) embedding: Vec<f32>,
    /// `[intents, hidden]`.
    pub(super) output: Vec<f32>,
    /// `[intents]`.
    pub(super) biases: Vec<f32>,
}

impl IntentClassifier {
    /// Learns which intents there are and how they are uttered. The same rows, options and seed give the same bits.
    /// `report` hears each epoch's mean loss, in nats.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for options that make no sense; [`ErrorKind::Data`] for fewer than two intents or too many;
    /// [`ErrorKind::Diverged`].
    pub fn train(
        rows: &[Example],
        options: &IntentOptions,
        repeat: &BTreeMap<String, usize>,
        seed: u64,
        report: &mut dyn FnMut(usize, f64),
    ) -> Result<Self> {
        options.validate()?;
        training::train(rows, options, repeat, seed, report)
    }

    /// Names of the intents, in the order of the logits.
    #[must_use]
    pub fn intents(&self) -> &[String] {
        &self.intents
    }

    /// Number of hidden units.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Number of buckets.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.embedding.len() / self.hidden
    }

    /// Weights of shape `[buckets, hidden]`, `[intents, hidden]` and `[intents]`.
    #[must_use]
    pub fn weights(&self) -> (&[f32], &[f32], &[f32]) {
        (&self.embedding, &self.output, &self.biases)
    }

    /// The logits of an utterance, `[intents]`.
    #[must_use]
    pub fn logits(&self, utterance: &str) -> Vec<f32> {
        let mut units = vec![0.0; self.hidden];
        self.forward(&training::buckets(utterance, self.buckets()), &mut units)
    }

    /// Index of the likeliest intent, the first of equals.
    #[must_use]
    pub fn classify(&self, utterance: &str) -> usize {
        crate::model::argmax(&self.logits(utterance)) as usize
    }

    /// Share of these rows that get their intent.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] without a row.
    pub fn accuracy(&self, rows: &[Example]) -> Result<f64> {
        if rows.is_empty() {
            return Err(Error::new(ErrorKind::Data, "there is no row to measure on"));
        }
        let right = rows.iter().filter(|row| self.intents[self.classify(&row.input)] == row.target).count();
        Ok(right as f64 / rows.len() as f64)
    }

    /// Logits from buckets; leaves the mean of their rows, before ReLU, in `units`.
    pub(super) fn forward(&self, buckets: &[usize], units: &mut [f32]) -> Vec<f32> {
        units.fill(0.0);
        for bucket in buckets {
            let row = &self.embedding[bucket * self.hidden..][..self.hidden];
            units.iter_mut().zip(row).for_each(|(unit, weight)| *unit += weight);
        }
        let count = buckets.len().max(1) as f32;
        units.iter_mut().for_each(|unit| *unit /= count);
        let rows = self.output.chunks_exact(self.hidden).zip(&self.biases);
        rows.map(|(row, bias)| bias + row.iter().zip(&*units).map(|(weight, unit)| weight * unit.max(0.0)).sum::<f32>())
            .collect()
    }
}

#[cfg(test)]
mod tests;
