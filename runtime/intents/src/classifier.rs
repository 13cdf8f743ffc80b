//! The classifier: rows of 8-bit weights, added up.

use core::fmt;

use crate::grams::grams;

/// Most hidden units. With [`MAX_GRAMS`](crate::MAX_GRAMS) n-grams a unit is below 2^17 and a sum over all of them below 2^30.
pub const MAX_HIDDEN: usize = 64;

/// A classifier's weights, borrowed from wherever they lie: flash, or a file.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Names of the intents.
    pub intents: &'a [&'a str],
    /// Number of hidden units, at most [`MAX_HIDDEN`].
    pub hidden: usize,
    /// A row for each bucket, `[buckets, hidden]`, each byte the bits of an `i8`; a power of two of buckets.
    pub embedding: &'a [u8],
    /// What 1 in the embedding stands for.
    pub embedding_scale: f32,
    /// A row for each intent, `[intents, hidden]`, bytes as above.
    pub output: &'a [u8],
    /// What 1 in that intent's row stands for.
    pub output_scales: &'a [f32],
    /// What is added to each logit.
    pub biases: &'a [f32],
}

/// Says which of several intents an utterance has.
///
/// `logit_k = bias_k + scale_k (sum_j W_kj max(0, sum_g E_gj)) / N`, over the utterance's `N` n-grams `g`.
#[derive(Debug, Clone, Copy)]
pub struct Classifier<'a> {
    parts: Parts<'a>,
    buckets: u32,
}

/// Parts that do not fit together. Whoever made them is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// No hidden unit, or more than [`MAX_HIDDEN`].
    Hidden,
    /// Fewer than two intents, or rows, scales, biases or logits for another number of them.
    Intents,
    /// The embedding is no whole number of rows, or they are not a power of two.
    Buckets,
    /// A scale or bias is infinite or NaN.
    NotFinite,
}

impl<'a> Classifier<'a> {
    /// A classifier of these parts. `const`: in a `static` their faults are found by the compiler.
    ///
    /// # Errors
    /// [`ShapeError`] if they do not fit together.
    pub const fn new(parts: Parts<'a>) -> Result<Self, ShapeError> {
        if parts.hidden == 0 || parts.hidden > MAX_HIDDEN {
            return Err(ShapeError::Hidden);
        }
        let intents = parts.intents.len();
        if intents < 2
            || parts.output.len() != intents * parts.hidden
            || parts.output_scales.len() != intents
            || parts.biases.len() != intents
        {
            return Err(ShapeError::Intents);
        }
        let buckets = parts.embedding.len() / parts.hidden;
        if !parts.embedding.len().is_multiple_of(parts.hidden) || !buckets.is_power_of_two() || buckets > 1 << 24 {
            return Err(ShapeError::Buckets);
        }
        let mut intent = 0;
        while intent < intents {
            if !parts.output_scales[intent].is_finite() || !parts.biases[intent].is_finite() {
                return Err(ShapeError::NotFinite);
            }
            intent += 1;
        }
        if !parts.embedding_scale.is_finite() {
            return Err(ShapeError::NotFinite);
        }
        Ok(Self { parts, buckets: buckets as u32 })
    }

    /// Writes the logits of an utterance, one for each intent, and returns the likeliest intent (the first of equals). An
    /// utterance without a word has the biases for logits.
    ///
    /// # Errors
    /// [`ShapeError::Intents`] if there is not one place for each intent.
    pub fn classify(&self, text: &str, logits: &mut [f32]) -> Result<usize, ShapeError> {
        let Parts { intents, hidden, embedding, embedding_scale, output, output_scales, biases } = self.parts;
        if logits.len() != intents.len() {
            return Err(ShapeError::Intents);
        }
        let mut units = [0_i32; MAX_HIDDEN];
        let units = &mut units[..hidden];
        let count = grams(text, |hash| {
            let row = (hash & (self.buckets - 1)) as usize * hidden;
            for (unit, weight) in units.iter_mut().zip(&embedding[row..row + hidden]) {
                *unit += i32::from(*weight as i8);
            }
        });
        let count = count.max(1) as f32;
        let rows = output.chunks_exact(hidden).zip(output_scales).zip(biases);
        let mut likeliest = 0;
        for (intent, ((row, scale), bias)) in rows.enumerate() {
            let products = units.iter().zip(row).map(|(unit, weight)| (*unit).max(0) * i32::from(*weight as i8));
            let sum: i32 = products.sum();
            logits[intent] = bias + sum as f32 / count * (embedding_scale * scale);
            if logits[intent] > logits[likeliest] {
                likeliest = intent;
            }
        }
        Ok(likeliest)
    }

    /// Names of the intents, in the order of the logits.
    #[must_use]
    pub const fn intents(&self) -> &'a [&'a str] {
        self.parts.intents
    }

    /// What it is made of.
    #[must_use]
    pub const fn parts(&self) -> Parts<'a> {
        self.parts
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden => write!(f, "there must be 1 to {MAX_HIDDEN} hidden units"),
            Self::Intents => {
                f.write_str("there must be two intents or more, and a row, scale, bias and logit for each")
            }
            Self::Buckets => {
                f.write_str("an embedding has a power of two of rows, each with a byte for every hidden unit")
            }
            Self::NotFinite => f.write_str("a scale or bias is not a finite number"),
        }
    }
}

impl core::error::Error for ShapeError {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::grams::MAX_GRAMS;

    const INTENTS: &[&str] = &["on", "off"];

    fn parts<'a>(embedding: &'a [u8], output: &'a [u8]) -> Parts<'a> {
        Parts {
            intents: INTENTS,
            hidden: 2,
            embedding,
            embedding_scale: 0.5,
            output,
            output_scales: &[2.0, 0.25],
            biases: &[1.0, -1.0],
        }
    }

    #[test]
    fn logits_by_hand() {
        // One bucket: every n-gram counts (3, -2), so the mean is that and the second unit is cut off by ReLU.
        let classifier = Classifier::new(parts(&[3, 254], &[1, 100, 252, 100])).unwrap();
        let mut logits = [0.0; 2];
        assert_eq!(classifier.classify("turn it on", &mut logits), Ok(0));
        assert_eq!(logits, [1.0 + 3.0 * 0.5 * 2.0, -1.0 - 4.0 * 3.0 * 0.5 * 0.25]);
        assert_eq!(classifier.classify("", &mut logits), Ok(0));
        assert_eq!(logits, [1.0, -1.0]);
        assert_eq!(classifier.classify("on", &mut [0.0; 3]), Err(ShapeError::Intents));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = |change: fn(&mut Parts<'_>)| {
            let mut parts = parts(&[0; 8], &[0; 4]);
            change(&mut parts);
            Classifier::new(parts).unwrap_err()
        };
        assert_eq!(error(|parts| parts.hidden = 0), ShapeError::Hidden);
        assert_eq!(error(|parts| parts.hidden = 65), ShapeError::Hidden);
        assert_eq!(error(|parts| parts.intents = &["on"]), ShapeError::Intents);
        assert_eq!(error(|parts| parts.output = &[0; 5]), ShapeError::Intents);
        assert_eq!(error(|parts| parts.biases = &[0.0]), ShapeError::Intents);
        assert_eq!(error(|parts| parts.embedding = &[0; 6]), ShapeError::Buckets);
        assert_eq!(error(|parts| parts.embedding = &[0; 7]), ShapeError::Buckets);
        assert_eq!(error(|parts| parts.embedding = &[]), ShapeError::Buckets);
        assert_eq!(error(|parts| parts.embedding_scale = f32::NAN), ShapeError::NotFinite);
        assert_eq!(error(|parts| parts.output_scales = &[1.0, f32::INFINITY]), ShapeError::NotFinite);
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let embedding = [127; MAX_HIDDEN];
        let output = [[128; MAX_HIDDEN], [127; MAX_HIDDEN]].concat();
        let large = Parts { hidden: MAX_HIDDEN, ..parts(&embedding, &output) };
        let mut logits = [0.0; 2];
        let text = "word ".repeat(MAX_GRAMS as usize);
        assert_eq!(Classifier::new(large).unwrap().classify(&text, &mut logits), Ok(1));
        assert_eq!(logits[0], 1.0 - 64.0 * 128.0 * 127.0);
    }

    proptest! {
        /// The same in double precision, to the rounding of a few operations.
        #[test]
        fn it_computes_its_formula(
            text in "[a-z ]{0,60}",
            embedding in prop::collection::vec(any::<i8>(), 32),
            output in prop::collection::vec(any::<i8>(), 4),
        ) {
            let bytes = |weights: &[i8]| weights.iter().map(|weight| *weight as u8).collect::<Vec<_>>();
            let (embedding_bytes, output_bytes) = (bytes(&embedding), bytes(&output));
            let classifier = Classifier::new(parts(&embedding_bytes, &output_bytes)).unwrap();
            let mut logits = [0.0; 2];
            classifier.classify(&text, &mut logits).unwrap();
            let mut units = [0.0_f64; 2];
            let count = crate::grams(&text, |hash| {
                let row = (hash % 16) as usize * 2;
                (0..2).for_each(|unit| units[unit] += f64::from(embedding[row + unit]));
            });
            for intent in 0..2 {
                let sum: f64 = (0..2).map(|unit| units[unit].max(0.0) * f64::from(output[2 * intent + unit])).sum();
                let exact = [1.0, -1.0][intent] + [2.0, 0.25][intent] * 0.5 * sum / f64::from(count.max(1));
                prop_assert!((f64::from(logits[intent]) - exact).abs() <= 1e-6 * (2.0 + exact.abs()));
            }
        }
    }
}
