//! The bundle's golden vector: what the trainer answers to one prompt, so that every device can tell a model that
//! computes something else before it serves.

use margay::bundle::manifest::Canary;
use margay_trainer::{Architecture, CausalLm, argmax};

use crate::quantize::WeightFormat;

/// The canary of a model: the first prompt and its greedy continuation. On quantized weights devices round activations in
/// their own ways: there it is the prompt whose first token is the least in doubt, and any logits will do until [`measured`].
pub(crate) fn of(
    model: &CausalLm,
    prompts: &[(Option<String>, Vec<u32>)],
    stop: &[u32],
    architecture: &Architecture,
    format: WeightFormat,
) -> Canary {
    let prompts = prompts.iter().map(|(_, ids)| ids.as_slice());
    let lead = |prompt: &[u32]| margin(&last_logits(model, prompt));
    if format.is_float() {
        return decode(model, prompts.into_iter().next().unwrap_or_default(), stop, architecture, |_| TOLERANCE);
    }
    let leads = prompts.map(|prompt| (lead(prompt), prompt));
    let (_, prompt) = leads.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or_default();
    decode(model, prompt, stop, architecture, |_| f32::MAX)
}

/// The same canary, now that its logits were found to be so far `apart` on this device: with what they may differ by on
/// another, and continued until a token is in doubt.
pub(crate) fn measured(
    canary: &Canary,
    model: &CausalLm,
    stop: &[u32],
    architecture: &Architecture,
    format: WeightFormat,
    apart: f32,
) -> Canary {
    decode(model, &canary.prompt, stop, architecture, |logits| {
        tolerance(format, logits.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs())), apart)
    })
}

fn decode(
    model: &CausalLm,
    prompt: &[u32],
    stop: &[u32],
    architecture: &Architecture,
    tolerance: impl Fn(&[f32]) -> f32,
) -> Canary {
    let room = architecture.max_position_embeddings.min(prompt.len() + CONTINUATION);
    let mut ids = prompt.to_vec();
    let first = last_logits(model, &ids);
    let tolerance = tolerance(&first);
    let mut logits = first.clone();
    loop {
        let best = argmax(&logits);
        ids.push(best);
        if ids.len() >= room || stop.contains(&best) {
            break;
        }
        logits = last_logits(model, &ids);
        // Within twice the tolerance, a device that is right may prefer another token.
        if margin(&logits) <= 2.0 * tolerance {
            break;
        }
    }
    let continuation = ids.split_off(prompt.len());
    let logits = first.into_iter().take(LOGITS).collect();
    Canary { prompt: ids, continuation, logits, tolerance }
}

fn last_logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    model.logits(ids).pop().unwrap_or_default()
}

/// How far the largest logit is above the next.
pub(crate) fn margin(logits: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > first {
            (first, second) = (logit, first);
        } else if logit > second {
            second = logit;
        }
    }
    first - second
}

/// What logits may differ by on another device, the largest of them being so large, and so far `apart` on this one.
pub(crate) fn tolerance(format: WeightFormat, largest: f32, apart: f32) -> f32 {
    if format.is_float() { TOLERANCE } else { TOLERANCE.max(QUANTIZED_TOLERANCE * largest).max(ROOM * apart) }
}

/// Longest continuation: enough to pass through prefill and several decode steps.
const CONTINUATION: usize = 8;

/// How many logits the canary keeps.
const LOGITS: usize = 64;

/// A device's arithmetic may differ more than this machine's: wide enough for half precision, far below a wrong result.
const TOLERANCE: f32 = 0.05;

/// The same where activations are rounded to 8 bits, in parts of the largest logit.
const QUANTIZED_TOLERANCE: f32 = 0.05;

/// Another device may round activations differently: by so many times what they are off here.
const ROOM: f32 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_between_the_two_largest() {
        assert_eq!(margin(&[1.0, 4.0, -2.0, 3.5]), 0.5);
        assert_eq!(margin(&[4.0, 4.0]), 0.0);
    }
}
