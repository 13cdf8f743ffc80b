//! A router that looks at the prompt and nothing else: what it sends away, the small model need not answer first.
//!
//! Fitting is elsewhere; this is what runs. `f32`, a fixed order of operations: the same bits everywhere.

use core::fmt;

use heapless::index_map::FnvIndexMap;

use crate::rule::Score;
use crate::threshold::Threshold;
use crate::verdict::{Decision, Reason, Verdict};

/// Most bits of a feature's number: a million weights.
pub const MAX_ROUTER_BITS: u32 = 20;
/// Most distinct features of a prompt, some 250 words; those that come after are passed over.
pub const MAX_PROMPT_FEATURES: usize = 512;

/// Hashed words and pairs of words of a prompt, and how often each comes.
///
/// Words are runs of letters and digits (Unicode's alphabetic and numeric), in lower case letter by letter. A feature's number
/// is the low bits of the 32-bit FNV-1a hash of the word, or of two words with a space between; features that fall together
/// are added up (Weinberger et al., arXiv 0902.2206, without signs).
#[derive(Debug, Clone)]
pub struct PromptFeatures(FnvIndexMap<u32, u32, MAX_PROMPT_FEATURES>);

/// Logistic regression on [`PromptFeatures`]; its score is the log-odds that the small model will be right, so higher means
/// keep.
///
/// The vector of counts is brought to length 1, so long prompts weigh no more than short ones. The weights may lie anywhere: in
/// flash, or in a vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router<W> {
    bits: u32,
    intercept: f32,
    weights: W,
}

/// Why a router cannot be built. Whoever fitted it is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterError {
    /// The number of weights is not a power of two of 1 to [`MAX_ROUTER_BITS`] bits.
    Weights {
        /// How many there are.
        count: usize,
    },
    /// A number is infinite or NaN.
    NotFinite,
}

impl PromptFeatures {
    /// The features of a prompt, numbers having `bits` bits (32 at most).
    #[must_use]
    pub fn of(prompt: &str, bits: u32) -> Self {
        let mask = if bits < u32::BITS { (1 << bits) - 1 } else { u32::MAX };
        let mut features = Self(FnvIndexMap::new());
        // Hashes of the word so far, alone and after the word before it with a space.
        let (mut word, mut pair) = (None, None);
        for letter in prompt.chars().flat_map(char::to_lowercase).chain([' ']) {
            if letter.is_alphanumeric() {
                word = Some(fnv1a(word.unwrap_or(FNV_BASIS), letter));
                pair = pair.map(|pair| fnv1a(pair, letter));
            } else if let Some(whole) = word.take() {
                features.count(whole & mask);
                if let Some(pair) = pair {
                    features.count(pair & mask);
                }
                pair = Some(fnv1a(whole, ' '));
            }
        }
        features
    }

    /// Numbers and counts, in the order in which the features first come.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|(feature, count)| (*feature, *count))
    }

    /// Length of the vector of counts.
    #[must_use]
    pub fn length(&self) -> f32 {
        let squared: u64 = self.0.values().map(|count| u64::from(*count) * u64::from(*count)).sum();
        libm::sqrtf(squared as f32)
    }

    fn count(&mut self, feature: u32) {
        match self.0.get_mut(&feature) {
            Some(count) => *count = count.saturating_add(1),
            // Where there is no room the feature is passed over.
            None => _ = self.0.insert(feature, 1),
        }
    }
}

impl<W: AsRef<[f32]>> Router<W> {
    /// A router with one weight for each feature's number.
    ///
    /// # Errors
    /// [`RouterError`] for another number of weights than a power of two, or a number that is not finite.
    pub fn new(intercept: f32, weights: W) -> Result<Self, RouterError> {
        let all = weights.as_ref();
        let bits = all.len().trailing_zeros();
        if !all.len().is_power_of_two() || !(1..=MAX_ROUTER_BITS).contains(&bits) {
            return Err(RouterError::Weights { count: all.len() });
        }
        if !intercept.is_finite() || all.iter().any(|weight| !weight.is_finite()) {
            return Err(RouterError::NotFinite);
        }
        Ok(Self { bits, intercept, weights })
    }

    /// Log-odds that the small model answers this prompt right; `None` if they would not be finite.
    #[must_use]
    pub fn score(&self, prompt: &str) -> Option<Score> {
        let (features, weights) = (PromptFeatures::of(prompt, self.bits), self.weights.as_ref());
        let weighted = features.iter().fold(0.0, |sum, (feature, count)| {
            sum + weights.get(feature as usize).copied().unwrap_or_default() * count as f32
        });
        let length = features.length();
        let score = if length > 0.0 { self.intercept + weighted / length } else { self.intercept };
        Score::of(score)
    }

    /// The decision to send a prompt to the large model at once, because its score is below `threshold`; `None` is the small
    /// model's to answer.
    #[must_use]
    pub fn sends_away(&self, prompt: &str, threshold: Threshold) -> Option<Decision> {
        let score = self.score(prompt)?;
        let decision = Decision { verdict: Verdict::Defer(Reason::Routed), score: Some(score), threshold };
        (!threshold.keeps(score)).then_some(decision)
    }

    /// Log-odds of a prompt without any feature.
    #[must_use]
    pub fn intercept(&self) -> f32 {
        self.intercept
    }

    /// One for each number of a feature.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        self.weights.as_ref()
    }
}

/// The hash of Fowler, Noll and Vo, variant 1a, of nothing.
const FNV_BASIS: u32 = 0x811c_9dc5;

/// The hash one letter on, in UTF-8.
fn fnv1a(hash: u32, letter: char) -> u32 {
    let mut bytes = [0; 4];
    let bytes = letter.encode_utf8(&mut bytes).bytes();
    bytes.fold(hash, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for RouterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights { count } => {
                write!(f, "{count} weights are not a power of two of 1 to {MAX_ROUTER_BITS} bits")
            }
            Self::NotFinite => f.write_str("a weight is not a finite number"),
        }
    }
}

impl core::error::Error for RouterError {}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn features_are_hashed_words_and_pairs() {
        // FNV-1a of "a", "b" and "a b", by the published parameters.
        let of = |text: &str| text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let found: Vec<(u32, u32)> = PromptFeatures::of("  A, b! a\u{df}B-b", 32).iter().collect();
        let expected = [("a", 1), ("b", 2), ("a b", 1), ("a\u{df}b", 1), ("b a\u{df}b", 1), ("a\u{df}b b", 1)];
        assert_eq!(found.len(), expected.len());
        for (text, count) in expected {
            assert!(found.contains(&(of(text), count)), "{text}");
        }
        assert_eq!(of("a"), 0xe40c_292c, "the published hash of `a`");
        assert_eq!(PromptFeatures::of("", 8).iter().count(), 0);
        assert!(PromptFeatures::of("one two three", 4).iter().all(|(feature, _)| feature < 16));
    }

    #[test]
    fn a_score_by_hand() {
        let mut weights = [0.0; 256];
        let features: Vec<(u32, u32)> = PromptFeatures::of("yes yes", 8).iter().collect();
        // The word twice, the pair once: (2 * 3 + 1 * -1) / sqrt(5).
        assert_eq!(features.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1]);
        (weights[features[0].0 as usize], weights[features[1].0 as usize]) = (3.0, -1.0);
        let router = Router::new(0.5, &weights).unwrap();
        assert_eq!(router.score("yes, YES").unwrap().value(), 0.5 + 5.0 / 5.0_f32.sqrt());
        assert_eq!(router.score("...").unwrap().value(), 0.5, "nothing is known of it");
    }

    #[test]
    fn a_long_prompt_is_read_as_far_as_there_is_room() {
        let long: String = (0..2000).map(|n| std::format!("w{n} ")).collect();
        let features = PromptFeatures::of(&long, 32);
        assert_eq!(features.iter().count(), MAX_PROMPT_FEATURES);
        assert_eq!(features.iter().next(), PromptFeatures::of("w0", 32).iter().next());
    }

    #[test]
    fn what_is_no_router_is_refused() {
        for count in [0, 1, 3, 1 << 21] {
            let weights = std::vec![0.0; count];
            assert_eq!(Router::new(0.0, &weights), Err(RouterError::Weights { count }));
        }
        assert_eq!(Router::new(f32::NAN, &[0.0, 0.0]), Err(RouterError::NotFinite));
        assert_eq!(Router::new(0.0, &[0.0, f32::INFINITY]), Err(RouterError::NotFinite));
        assert_eq!(Router::new(0.0, &[f32::MAX; 2]).unwrap().score("a b c d e f g h"), None);
    }
}
