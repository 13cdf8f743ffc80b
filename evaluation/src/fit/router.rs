//! A router that looks at the prompt and nothing else: the small model need not run for what it sends away.

use std::collections::BTreeMap;

use margay_policy::{MAX_ROUTER_BITS, PromptFeatures, Threshold};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::logistic::{self, Linear, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::threshold;

/// Bits of a feature's number in a router that goes into a bundle: 64 KiB of weights, and less than half of the bytes that a
/// policy's file may have.
pub const ROUTER_BITS: u32 = 14;

/// Share of the prompts that a router's threshold is chosen on, and that it does not learn from: it scores those it has seen too
/// well.
const CHOOSING: f64 = 0.25;

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

    /// This router as the runtime runs it, its numbers rounded to 32 bits: choose its threshold on the scores of that.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for weights that 32 bits cannot hold.
    pub fn to_policy(&self) -> Result<DeployedRouter> {
        let mut weights = vec![0.0; 1 << self.bits];
        for (at, weight) in &self.weights {
            weights[*at as usize] = *weight as f32;
        }
        DeployedRouter::new(self.intercept as f32, weights)
            .map_err(|fault| Error::new(ErrorKind::Invalid, fault.to_string()))
    }
}

fn features(prompt: &str, bits: u32) -> Row {
    let features = PromptFeatures::of(prompt, bits);
    let length = features.iter().map(|(_, count)| f64::from(count).powi(2)).sum::<f64>().sqrt();
    features.iter().map(|(at, count)| (at as usize, f64::from(count) / length)).collect()
}

/// A router as the runtime runs it.
pub type DeployedRouter = margay_policy::Router<Vec<f32>>;

/// A router with the threshold under which it sends a prompt to the large model before the small one begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What scores a prompt.
    pub router: DeployedRouter,
    /// The small model answers if score >= threshold.
    pub threshold: Threshold,
    /// Share of prompts sent away, of those that the threshold was chosen on.
    pub deferral_rate: f64,
    /// How many these were.
    pub sample_size: usize,
}

impl Route {
    /// Fits a router that sends about a `share` of prompts away, those on which the small model is least likely to be right. A
    /// quarter of the prompts, drawn by a fixed seed, chooses the threshold and is not learned from.
    ///
    /// # Errors
    /// As [`Router::fit`]; [`ErrorKind::Invalid`] for a share outside [0, 1], or no prompt that could choose.
    pub fn fit(prompts: &[&str], right: &[bool], penalty: f64, share: f64) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(0);
        let asked = prompts.iter().copied().zip(right.iter().copied());
        let (choosing, learning): (Vec<_>, Vec<_>) = asked.partition(|_| random.random_bool(CHOOSING));
        let (learning, right): (Vec<&str>, Vec<bool>) = learning.into_iter().unzip();
        let router = Router::fit(&learning, &right, ROUTER_BITS, penalty)?.to_policy()?;
        let score = |prompt: &str| Some(f64::from(router.score(prompt)?.value()));
        let scores: Vec<f64> = choosing.iter().filter_map(|(prompt, _)| score(prompt)).collect();
        let choice = threshold::for_deferral_rate(&scores, share)?;
        // One of the scores, which are 32-bit, or infinite.
        let threshold = Threshold::new(choice.threshold as f32)
            .map_err(|fault| Error::new(ErrorKind::Invalid, fault.to_string()))?;
        Ok(Self { router, threshold, deferral_rate: choice.deferral_rate, sample_size: scores.len() })
    }

    /// Whether a prompt is sent away, as the runtime decides it.
    #[must_use]
    pub fn sends_away(&self, prompt: &str) -> bool {
        self.router.sends_away(prompt, self.threshold).is_some()
    }
}
