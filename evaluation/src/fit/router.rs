//! A router that looks at the prompt and nothing else: the small model need not run for what it sends away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use margay_policy::{MAX_ROUTER_BITS, PromptFeatures};

use super::logistic::{self, Linear, Row};
use crate::error::{Error, ErrorKind, Result};

/// Logistic regression on the [`PromptFeatures`] of a prompt, hashed words and pairs of words; its score is the log-odds that
/// the small model will be right, so higher means keep.
///
/// The vector of counts has length 1, so long prompts weigh no more than short ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Router {
    bits: u32,
    intercept: f64,
    /// By the number of the feature; those that no prompt had are left out.
    weights: BTreeMap<u32, f64>,
}

impl Router {
    /// Fits a router with 2^`bits` features; `penalty` is the squared weight's (the inverse of scikit-learn's `C`).
    ///
    /// `right` says of each prompt whether the small model answered it well enough to keep.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for another number of prompts than answers, bits outside `1..=MAX_ROUTER_BITS`, a penalty that
    /// is not above 0, or answers that are all right or all wrong.
    pub fn fit(prompts: &[&str], right: &[bool], bits: u32, penalty: f64) -> Result<Self> {
        if prompts.len() != right.len() || !(1..=MAX_ROUTER_BITS).contains(&bits) {
            let message = format!("a router needs one answer for each prompt, and 1 to {MAX_ROUTER_BITS} bits");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        logistic::check_penalty(penalty)?;
        let rows: Vec<Row> = prompts.iter().map(|prompt| features(prompt, bits)).collect();
        let targets: Vec<f64> = right.iter().map(|right| f64::from(u8::from(*right))).collect();
        let Linear { weights, intercept } = logistic::fit(&rows, &targets, 1 << bits, penalty)?;
        let seen = (0u32..).zip(weights).filter(|(_, weight)| *weight != 0.0);
        Ok(Self { bits, intercept, weights: seen.collect() })
    }

    /// Log-odds that the small model answers this prompt right.
    #[must_use]
    pub fn score(&self, prompt: &str) -> f64 {
        let weight = |(at, value): &(usize, f64)| Some(self.weights.get(&u32::try_from(*at).ok()?)? * value);
        self.intercept + features(prompt, self.bits).iter().filter_map(weight).sum::<f64>()
    }

    /// This router for the runtime, its numbers rounded to 32 bits.
    #[must_use]
    pub fn to_policy(&self) -> DeployedRouter {
        let mut weights = vec![0.0; 1 << self.bits];
        for (at, weight) in &self.weights {
            weights[*at as usize] = *weight as f32;
        }
        DeployedRouter { intercept: self.intercept as f32, weights }
    }
}

fn features(prompt: &str, bits: u32) -> Row {
    let features = PromptFeatures::of(prompt, bits);
    let length = features.iter().map(|(_, count)| f64::from(count).powi(2)).sum::<f64>().sqrt();
    features.iter().map(|(at, count)| (at as usize, f64::from(count) / length)).collect()
}

/// A router as the runtime runs it, in 32 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployedRouter {
    intercept: f32,
    weights: Vec<f32>,
}

impl DeployedRouter {
    /// What scores prompts, here and in the runtime: choose its threshold on these scores.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for weights that 32 bits cannot hold.
    pub fn router(&self) -> Result<margay_policy::Router<'_>> {
        margay_policy::Router::new(self.intercept, &self.weights)
            .map_err(|fault| Error::new(ErrorKind::Invalid, fault.to_string()))
    }
}
