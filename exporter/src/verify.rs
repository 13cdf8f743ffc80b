//! The proof that the graph computes what the trainer does: same logits, position by position.

use std::fmt;

use margay::bundle::Bundle;
use margay::{DeviceOptions, Engine};
use margay_trainer::{CausalLm, argmax};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::quantize::WeightFormat;

/// How far ONNX Runtime and the trainer are apart, over every position of every golden prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verification {
    /// Positions compared.
    pub positions: usize,
    /// Largest absolute difference of a logit, the whole prompt at once.
    pub max_abs_prefill: f32,
    /// Largest absolute difference of a logit, token by token through the cache.
    pub max_abs_decode: f32,
    /// Largest absolute difference of a logit between both, without the trainer.
    pub max_abs_incremental: f32,
    /// Mean of `KL(trainer || graph)` over positions, nats.
    pub mean_kl: f64,
    /// Share of positions at which both prefer the same token.
    pub argmax_agreement: f64,
    /// Largest absolute logit of the trainer's.
    pub largest_logit: f32,
}

/// Runs a bundle on `prompts` (token ids) and compares it with the trainer's model.
///
/// # Errors
/// [`ErrorKind::Bundle`] when the bundle does not load or run.
pub fn verify(bundle: &Bundle, model: &CausalLm, prompts: &[Vec<u32>]) -> Result<Verification> {
    let engine = Engine::load(bundle, DeviceOptions::default())?;
    compare(&engine, model, prompts.iter().map(Vec::as_slice), &mut |_| Ok(()))
}

/// What both sides made of one sequence: logits after each of its ids.
#[derive(Clone, Copy)]
pub(crate) struct Compared<'a> {
    /// Which of the sequences.
    pub(crate) index: usize,
    /// The trainer's.
    pub(crate) expected: &'a [Vec<f32>],
    /// The graph's, token by token.
    pub(crate) decoded: &'a [Vec<f32>],
}

/// [`verify`] with a loaded model; `compared` sees one sequence after the other.
pub(crate) fn compare<'a>(
    engine: &Engine,
    model: &CausalLm,
    sequences: impl Iterator<Item = &'a [u32]>,
    compared: &mut dyn FnMut(Compared<'_>) -> Result<()>,
) -> Result<Verification> {
    let (mut positions, mut agree, mut kl) = (0, 0, 0.0);
    let (mut max_abs_prefill, mut max_abs_decode, mut max_abs_incremental) = (0.0_f32, 0.0_f32, 0.0_f32);
    let mut largest_logit = 0.0_f32;
    for (index, ids) in sequences.enumerate() {
        let expected = model.logits(ids);
        let decoded = engine.decode_logits(ids)?;
        for (expected, actual) in expected.iter().zip(&decoded) {
            positions += 1;
            agree += usize::from(argmax(expected) == argmax(actual));
            kl += divergence(expected, actual);
            largest_logit = expected.iter().fold(largest_logit, |largest, logit| largest.max(logit.abs()));
            max_abs_decode = max_abs_decode.max(largest_difference(expected, actual));
        }
        if let Some((expected, decoded)) = expected.last().zip(decoded.last()) {
            let prefilled = engine.logits(ids)?;
            max_abs_prefill = max_abs_prefill.max(largest_difference(expected, &prefilled));
            max_abs_incremental = max_abs_incremental.max(largest_difference(decoded, &prefilled));
        }
        compared(Compared { index, expected: &expected, decoded: &decoded })?;
    }
    let count = positions.max(1) as f64;
    Ok(Verification {
        positions,
        max_abs_prefill,
        max_abs_decode,
        max_abs_incremental,
        mean_kl: kl / count,
        argmax_agreement: f64::from(agree as u32) / count,
        largest_logit,
    })
}

impl Verification {
    /// What rounding alone may do to a graph whose weights are stored like this: of floats, the last digits of a logit
    /// may differ; on quantized weights ONNX Runtime rounds activations to 8 bits too.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when there is more between graph and trainer, or something is not a number.
    pub(crate) fn require(&self, format: WeightFormat) -> Result<()> {
        let largest = self.max_abs_prefill.max(self.max_abs_decode).max(self.max_abs_incremental);
        let within = match format {
            WeightFormat::F32 | WeightFormat::F16 => largest <= TOLERANCE * self.largest_logit.max(1.0),
            WeightFormat::Int8 | WeightFormat::Int4 => largest.is_finite() && self.mean_kl <= QUANTIZED_TOLERANCE,
        };
        if within {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Mismatch, format!("graph and trainer differ by more than rounding: {self}")))
    }
}

/// Largest difference of a logit, in parts of the largest logit if that is above 1.
const TOLERANCE: f32 = 1e-4;

/// Largest mean KL divergence that 8-bit activations account for, nats.
const QUANTIZED_TOLERANCE: f64 = 0.02;

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} positions: largest logit difference {:.1e} (prefill), {:.1e} (decode) and {:.1e} (between both), mean KL {:.1e} nats, \
             argmax agrees at {:.1} %",
            self.positions,
            self.max_abs_prefill,
            self.max_abs_decode,
            self.max_abs_incremental,
            self.mean_kl,
            100.0 * self.argmax_agreement,
        )
    }
}

/// Infinite where one side is not a number or the lengths differ, so that no tolerance accepts it.
fn largest_difference(expected: &[f32], actual: &[f32]) -> f32 {
    if expected.len() != actual.len() {
        return f32::INFINITY;
    }
    let differences = expected.iter().zip(actual).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |largest, d| if d.is_nan() { f32::INFINITY } else { largest.max(d) })
}

/// `KL(p || q)` in nats of the softmax of two rows of logits.
pub(crate) fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    p.iter()
        .zip(q)
        .map(|(&x, &y)| {
            let (log_p, log_q) = (f64::from(x) - p_sum, f64::from(y) - q_sum);
            log_p.exp() * (log_p - log_q)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        // KL((1/2, 1/2) || (1/4, 3/4)) = ln(2 / sqrt 3).
        let quarter = [0.0, 3.0_f32.ln()];
        assert!((divergence(&[0.0, 0.0], &quarter) - (2.0 / 3.0_f64.sqrt()).ln()).abs() < 1e-7);
        assert!(divergence(&quarter, &quarter).abs() < 1e-12);
    }

    #[test]
    fn each_format_has_its_own_tolerance() {
        let exact = Verification {
            positions: 1,
            max_abs_prefill: 5e-4,
            max_abs_decode: 5e-4,
            max_abs_incremental: 5e-4,
            mean_kl: 0.001,
            argmax_agreement: 1.0,
            largest_logit: 10.0,
        };
        assert!(exact.require(WeightFormat::F32).is_ok());
        let small = Verification { largest_logit: 0.1, ..exact };
        assert_eq!(small.require(WeightFormat::F32).unwrap_err().kind(), ErrorKind::Mismatch);
        assert!(small.require(WeightFormat::Int4).is_ok());
        for wrong in [Verification { mean_kl: 0.1, ..exact }, Verification { max_abs_decode: f32::INFINITY, ..exact }] {
            assert_eq!(wrong.require(WeightFormat::Int4).unwrap_err().kind(), ErrorKind::Mismatch);
        }
        assert!(Verification { mean_kl: f64::NAN, ..exact }.require(WeightFormat::Int8).is_err());
    }

    #[test]
    fn what_is_not_a_number_is_never_close_enough() {
        assert_eq!(largest_difference(&[0.0], &[f32::NAN]), f32::INFINITY);
        assert_eq!(largest_difference(&[0.0], &[]), f32::INFINITY);
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
    }
}
