//! The likeliest tokens in the place of each that was chosen.

use margay_policy::TokenSignals;

use super::Engine;
use crate::error::Result;

/// A token that the model could have written in a place, and how likely it found that: of its own distribution, before any
/// sampling option or constraint.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Alternative {
    /// The token's id.
    pub id: u32,
    /// Its log-probability in nats.
    pub log_probability: f32,
}

/// The `count` likeliest ids, the likeliest first, the lower id first on a tie; `chosen` has these `signals`.
pub(super) fn likeliest(logits: &[f32], count: usize, chosen: u32, signals: &TokenSignals) -> Vec<Alternative> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return Vec::new();
    }
    for (id, logit) in (0..).zip(logits.iter().copied()) {
        if best.len() < count || best.last().is_some_and(|(least, _)| logit > *least) {
            let place = best.partition_point(|(better, _)| *better >= logit);
            best.insert(place, (logit, id));
            best.truncate(count);
        }
    }
    // log p = logit - ln sum exp, and the chosen token knows both of its own.
    let offset = f64::from(signals.log_probability) - f64::from(logits.get(chosen as usize).copied().unwrap_or(0.0));
    let probable = |logit: f32| (f64::from(logit) + offset).min(0.0) as f32;
    best.into_iter().map(|(logit, id)| Alternative { id, log_probability: probable(logit) }).collect()
}

impl Engine {
    /// What an id stands for in the midst of a text, special tokens by their names. Of a piece of a character it is U+FFFD.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Inference`] if the tokenizer cannot decode it.
    pub fn token_text(&self, id: u32) -> Result<String> {
        self.prompt.token(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_softmax_in_order() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
        let signals = TokenSignals::from_logits(&logits, 2).unwrap();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let found = likeliest(&logits, 3, 2, &signals);
        assert_eq!(found.iter().map(|alternative| alternative.id).collect::<Vec<_>>(), [1, 3, 4]);
        for alternative in found {
            let expected = f64::from(logits[alternative.id as usize]) - sum.ln();
            assert!((f64::from(alternative.log_probability) - expected).abs() < 1e-6);
        }
        assert!(likeliest(&logits, 0, 2, &signals).is_empty());
        assert_eq!(likeliest(&logits, 9, 2, &signals).len(), 5);
    }
}
