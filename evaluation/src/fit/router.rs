//! A router that looks at the prompt and nothing else: the small model need not run for what it sends away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::logistic::{self, Linear, Row};
use crate::error::{Error, ErrorKind, Result};

/// Most bits of a feature's number: a million weights.
pub const MAX_BITS: u32 = 20;

/// Logistic regression on hashed words and pairs of words of the prompt; its score is the log-odds that the small model
/// will be right, so higher means keep.
///
/// Words are runs of letters and digits in lower case. A feature's number is the low bits of the 32-bit FNV-1a hash of
/// the word, or of two words with a space between; features that fall together are added up (Weinberger et al., arXiv
/// 0902.2206, without signs). The vector of counts has length 1, so long prompts weigh no more than short ones.
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
    /// [`ErrorKind::Invalid`] for another number of prompts than answers, bits outside `1..=MAX_BITS`, a penalty that
    /// is not above 0, or answers that are all right or all wrong.
    pub fn fit(prompts: &[&str], right: &[bool], bits: u32, penalty: f64) -> Result<Self> {
        if prompts.len() != right.len() || !(1..=MAX_BITS).contains(&bits) {
            let message = format!("a router needs one answer for each prompt, and 1 to {MAX_BITS} bits");
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
}

fn features(prompt: &str, bits: u32) -> Row {
    let lower = prompt.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mask = (1u32 << bits) - 1;
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    for word in &words {
        *counts.entry(fnv1a([word.as_bytes()]) & mask).or_default() += 1.0;
    }
    for two in words.windows(2) {
        *counts.entry(fnv1a([two[0].as_bytes(), b" ", two[1].as_bytes()]) & mask).or_default() += 1.0;
    }
    let length = counts.values().map(|count| count * count).sum::<f64>().sqrt();
    counts.into_iter().map(|(at, count)| (at as usize, count / length)).collect()
}

/// The 32-bit hash of Fowler, Noll and Vo, variant 1a, of all parts one after the other.
fn fnv1a<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
