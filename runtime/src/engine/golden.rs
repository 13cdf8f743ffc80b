//! A loaded model held against the golden vectors of its manifest: more than the canary, for whoever takes the time.

use std::fmt;

use serde::Serialize;

use super::Engine;
use super::generation::argmax;
use super::interrupt::Interrupt;
use super::options::Overflow;
use crate::bundle::manifest::Golden;
use crate::error::{Error, ErrorKind, Result};

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct GoldenReport {
    /// Sequences.
    pub sequences: usize,
    /// Positions of them at which logits were compared.
    pub positions: usize,
    /// Sequences whose text was tokenized again.
    pub tokenized: usize,
    /// Tokens of greedy continuations that were the most likely ones again.
    pub continued: usize,
    /// Largest absolute difference of a logit.
    pub largest_difference: f32,
}

impl Engine {
    /// The most likely token after `ids`, then the most likely one after that, until there are `count`, a stop token (which
    /// is the last) or the context is full.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn greedy(&self, ids: &[u32], count: usize) -> Result<Vec<u32>> {
        self.check_not_empty(ids)?;
        self.check_fits(ids.len())?;
        let count = count.min(self.manifest.model.context_length - ids.len());
        let mut turn = self.queue.turn(None)?;
        let sequence = turn.sequence()?;
        let interrupt = Interrupt::never()?;
        let mut next = argmax(sequence.read(ids, count, interrupt.run())?)?;
        let mut continuation = Vec::with_capacity(count);
        while continuation.len() < count {
            continuation.push(next);
            if continuation.len() == count || self.manifest.prompt.stop_tokens.contains(&next) {
                break;
            }
            next = argmax(sequence.append(next, Overflow::Error, &mut 0, interrupt.run())?)?;
        }
        Ok(continuation)
    }

    /// Computes the logits of each sequence, at once and token by token, continues it greedily, and tokenizes its text
    /// again.
    ///
    /// # Errors
    /// [`ErrorKind::Inference`] naming the sequence and position if a logit differs by more than the vector's tolerance,
    /// another token is the most likely, or a text has other ids.
    pub fn check_golden(&self, vectors: &[Golden]) -> Result<GoldenReport> {
        let mut report = GoldenReport::default();
        for (index, golden) in vectors.iter().enumerate() {
            if let Some(text) = &golden.text {
                report.tokenized += 1;
                if self.prompt.encode_text(text)? != golden.ids {
                    let message = format!("golden[{index}]: the tokenizer gives other ids for its text");
                    return Err(Error::new(ErrorKind::Inference, message));
                }
            }
            let greedy = golden.greedy.as_ref().map_or(&[][..], |greedy| &greedy.ids);
            let ids = [&golden.ids[..], greedy.split_last().map_or(&[][..], |(_, before)| before)].concat();
            let decoded = self.decode_logits(&ids)?;
            for (at, (expected, logits)) in
                greedy.iter().zip(decoded.iter().skip(golden.ids.len().saturating_sub(1))).enumerate()
            {
                let id = argmax(logits)?;
                if id != *expected {
                    let message = format!("golden[{index}]: token {at} behind it is {id} instead of {expected}");
                    return Err(Error::new(ErrorKind::Inference, message));
                }
                report.continued += 1;
            }
            if let Some(greedy) = &golden.greedy
                && self.prompt.decode(&greedy.ids)? != greedy.text
            {
                let message = format!("golden[{index}]: the tokenizer gives another text for what follows it");
                return Err(Error::new(ErrorKind::Inference, message));
            }
            for at in &golden.positions {
                let (position, most) = (at.position, golden.tolerance);
                let (Some(prompt), Some(decoded)) = (golden.ids.get(..=position), decoded.get(position)) else {
                    return Err(Error::new(
                        ErrorKind::InvalidRequest,
                        format!("golden[{index}] has no position {position}"),
                    ));
                };
                for logits in [decoded, &self.logits(prompt)?] {
                    let largest = largest_difference(&at.top, logits);
                    if largest > most {
                        let message = format!(
                            "golden[{index}]: logits at position {position} differ by {largest}, more than {most}"
                        );
                        return Err(Error::new(ErrorKind::Inference, message));
                    }
                    report.largest_difference = report.largest_difference.max(largest);
                }
                report.positions += 1;
            }
            report.sequences += 1;
        }
        Ok(report)
    }
}

/// Infinite where something is not a number or not in the vocabulary, so that no tolerance accepts it.
fn largest_difference(top: &[(u32, f32)], logits: &[f32]) -> f32 {
    let difference = |(id, expected): &(u32, f32)| {
        let difference = logits.get(*id as usize).map_or(f32::INFINITY, |logit| (logit - expected).abs());
        if difference.is_nan() { f32::INFINITY } else { difference }
    };
    top.iter().map(difference).fold(0.0, f32::max)
}

impl fmt::Display for GoldenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequences, positions, tokenized, continued, largest_difference } = self;
        write!(
            f,
            "{sequences} golden vectors: logits at {positions} positions within {largest_difference:.1e}, prefilled and decoded; \
             {continued} tokens behind them the same; {tokenized} texts tokenized alike"
        )
    }
}
