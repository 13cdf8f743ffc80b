//! The bundle's golden vectors beside the canary: the ids of a text, the trainer's largest logits at some of its positions,
//! and what both say next.

use margay::Engine;
use margay::bundle::manifest::{Golden, GoldenPosition, Greedy};
use margay_trainer::{Tokenizer, argmax};

use crate::canary::{margin, tolerance};
use crate::error::Result;
use crate::quantize::WeightFormat;
use crate::verify::Compared;

/// A golden prompt and what follows it.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The prompt's text, if the tokenizer alone makes its ids of it.
    pub(crate) text: Option<String>,
    /// The prompt, and behind it its continuation.
    pub(crate) ids: Vec<u32>,
    /// Ids of the prompt.
    pub(crate) prompt: usize,
}

/// Continues every prompt as the graph would. Whether the trainer would too shows when both are compared.
pub(crate) fn continued(engine: &Engine, prompts: &[(Option<String>, Vec<u32>)]) -> Result<Vec<Sequence>> {
    let continued = prompts.iter().map(|(text, ids)| {
        let continuation = engine.greedy(ids, CONTINUATION)?;
        Ok(Sequence { text: text.clone(), ids: [&ids[..], &continuation].concat(), prompt: ids.len() })
    });
    continued.collect()
}

/// The vector of a sequence that was compared.
pub(crate) fn vector(
    sequence: &Sequence,
    Compared { expected, decoded, .. }: Compared<'_>,
    format: WeightFormat,
    tokenizer: &Tokenizer,
) -> Result<Golden> {
    let (ids, continuation) = sequence.ids.split_at(sequence.prompt);
    let mut positions: Vec<GoldenPosition> = Vec::with_capacity(POSITIONS);
    let (mut largest, mut apart) = (0.0_f32, 0.0_f32);
    for part in 1..=POSITIONS {
        let Some(position) = (part * ids.len() / POSITIONS).checked_sub(1) else { continue };
        if positions.last().is_some_and(|last| last.position == position) {
            continue;
        }
        let top = largest_logits(&expected[position]);
        for (id, logit) in &top {
            largest = largest.max(logit.abs());
            apart = apart.max((logit - decoded[position][*id as usize]).abs());
        }
        positions.push(GoldenPosition { position, top });
    }
    let tolerance = tolerance(format, largest, apart);
    // Within twice the tolerance, a device that is right may prefer another token.
    let certain = continuation.iter().zip(&expected[ids.len() - 1..]);
    let certain = certain.take_while(|(id, logits)| argmax(logits) == **id && margin(logits) > 2.0 * tolerance).count();
    let greedy = match &continuation[..certain] {
        [] => None,
        ids => Some(Greedy { ids: ids.to_vec(), text: tokenizer.decode(ids)? }),
    };
    Ok(Golden { text: sequence.text.clone(), ids: ids.to_vec(), positions, tolerance, greedy })
}

/// Ids and values of the largest logits, the largest first; the lowest id wins a tie.
fn largest_logits(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all.truncate(TOP);
    all
}

/// Tokens of a continuation at most: enough that a mistake in the cache shows.
const CONTINUATION: usize = 12;

/// Positions of a prompt whose logits are kept, evenly spread, the last one among them.
const POSITIONS: usize = 3;

/// Logits that are kept of a position.
const TOP: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logits_come_first() {
        let mut logits = vec![0.0; 12];
        (logits[3], logits[7], logits[9]) = (2.0, 5.0, 2.0);
        let top = largest_logits(&logits);
        assert_eq!((top.len(), &top[..4]), (TOP, &[(7, 5.0), (3, 2.0), (9, 2.0), (0, 0.0)][..]));
    }
}
