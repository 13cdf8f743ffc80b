//! How likely the model finds a given text: log-probabilities of its ids, computed inside the graph where it scores.

use margay_policy::TokenSignals;

use super::Engine;
use super::generation::not_a_distribution;
use super::interrupt::Interrupt;
use super::options::Overflow;
use crate::error::Result;

/// Logits that exist at once while a text is scored: 32 MB of them.
const SCORED_LOGITS: usize = 8 << 20;

impl Engine {
    /// Log-probability, in nats, of each of `ids` but the first, given all ids before it: `[ids - 1]`.
    ///
    /// A text is taken in pieces, so memory does not grow with its length but for the cache. Minus the mean of these is
    /// the cross-entropy, whose exponential is the perplexity.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn log_probabilities(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check_not_empty(ids)?;
        self.check_fits(ids.len())?;
        let (contexts, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let mut turn = self.queue.turn(None)?;
        let sequence = turn.sequence()?;
        let interrupt = Interrupt::never()?;
        sequence.begin(ids.len())?;
        let mut scores = Vec::with_capacity(targets.len());
        if self.manifest.model.scoring {
            let piece = (SCORED_LOGITS / self.manifest.model.vocabulary_size).clamp(1, sequence.piece());
            for (contexts, targets) in contexts.chunks(piece).zip(targets.chunks(piece)) {
                scores.extend(sequence.score(contexts, targets, interrupt.run())?);
            }
        } else {
            for (id, target) in contexts.iter().zip(targets) {
                let logits = sequence.append(*id, Overflow::Error, &mut 0, interrupt.run())?;
                let signals = TokenSignals::from_logits(logits, *target as usize);
                scores.push(signals.map_err(not_a_distribution)?.log_probability);
            }
        }
        Ok(scores)
    }
}
