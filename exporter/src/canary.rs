//! The bundle's golden vector: what the trainer answers to one prompt, so that every device can tell a model that
//! computes something else before it serves.

use margay::bundle::manifest::Canary;
use margay_trainer::{Architecture, CausalLm, argmax};

/// The greedy continuation of a prompt.
pub(crate) fn of_floats(model: &CausalLm, prompt: &[u32], stop: &[u32], architecture: &Architecture) -> Canary {
    decode(model, prompt, stop, architecture, |_| TOLERANCE)
}

/// The same for quantized weights, on which devices round activations in their own ways: the prompt whose first token is
/// the least in doubt, and its continuation until one is.
pub(crate) fn of_quantized(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    stop: &[u32],
    architecture: &Architecture,
) -> Canary {
    let lead = |prompt: &Vec<u32>| margin(&last_logits(model, prompt));
    let clearest = prompts.iter().max_by(|a, b| lead(a).total_cmp(&lead(b))).map_or(&[][..], Vec::as_slice);
    decode(model, clearest, stop, architecture, |logits| {
        let largest = logits.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        TOLERANCE.max(QUANTIZED_TOLERANCE * largest)
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
fn margin(logits: &[f32]) -> f32 {
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

/// Longest continuation: enough to pass through prefill and several decode steps.
const CONTINUATION: usize = 8;

/// How many logits the canary keeps.
const LOGITS: usize = 64;

/// A device's arithmetic may differ more than this machine's: wide enough for half precision, far below a wrong result.
const TOLERANCE: f32 = 0.05;

/// The same where activations are rounded to 8 bits, in parts of the largest logit.
const QUANTIZED_TOLERANCE: f32 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_between_the_two_largest() {
        assert_eq!(margin(&[1.0, 4.0, -2.0, 3.5]), 0.5);
        assert_eq!(margin(&[4.0, 4.0]), 0.0);
    }
}
