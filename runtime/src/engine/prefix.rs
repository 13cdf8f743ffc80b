//! What earlier prompts have in common with the next one is not computed again.
//!
//! The live sequence is cut back to the common beginning. A beginning that several prompts had is set aside when the live
//! sequence leaves it, and taken up again, up to a cap in bytes.

use std::collections::VecDeque;

use super::session::{Decoder, Snapshot};
use crate::error::Result;

/// Shortest beginning worth setting aside, in tokens: a shorter one is as quickly computed as copied.
const SHORTEST: usize = 32;

/// How many prompts are remembered, to see what the next one shares with them.
const REMEMBERED: usize = 16;

/// The beginnings of earlier prompts.
pub(super) struct PrefixCache {
    /// Most bytes of keys and values set aside; `None` computes every prompt from its first token.
    limit: Option<usize>,
    /// The least recently used first.
    snapshots: VecDeque<Snapshot>,
    recent: VecDeque<Vec<u32>>,
    /// Length of the live sequence's beginning that an earlier prompt had too, and no snapshot has.
    shared: usize,
}

impl PrefixCache {
    pub(super) fn new(limit: Option<usize>) -> Self {
        Self { limit, snapshots: VecDeque::new(), recent: VecDeque::new(), shared: 0 }
    }

    /// Leaves in `decoder` as much of the beginning of `prompt` as is known, always less than all of it, and returns its
    /// length.
    pub(super) fn resume(&mut self, decoder: &mut Decoder, prompt: &[u32]) -> Result<usize> {
        let Some(limit) = self.limit else {
            decoder.truncate(0)?;
            return Ok(0);
        };
        // The last token is computed anew, for its logits.
        let most = prompt.len().saturating_sub(1);
        let alike = common(decoder.tokens(), prompt);
        let live = alike.min(most);
        if self.shared > alike {
            self.set_aside(decoder.save(self.shared)?, limit);
            self.shared = 0;
        }
        let best = (0..self.snapshots.len())
            .map(|index| (common(self.snapshots[index].tokens(), prompt).min(most), index))
            .max()
            .filter(|(length, _)| *length > live);
        let resumed = match best.and_then(|(length, index)| Some((length, self.snapshots.remove(index)?))) {
            Some((length, snapshot)) => {
                decoder.restore(&snapshot, length)?;
                self.snapshots.push_back(snapshot);
                length
            }
            None => {
                decoder.truncate(live)?;
                live
            }
        };
        self.remember(prompt);
        Ok(resumed)
    }

    /// Bytes of keys and values set aside.
    fn bytes(&self) -> usize {
        self.snapshots.iter().map(Snapshot::bytes).sum()
    }

    fn remember(&mut self, prompt: &[u32]) {
        let shared = self.recent.iter().map(|earlier| common(earlier, prompt)).max().unwrap_or(0);
        let known = self.snapshots.iter().map(|snapshot| common(snapshot.tokens(), prompt)).max().unwrap_or(0);
        self.shared = if shared >= SHORTEST && shared > known { shared } else { 0 };
        let mut again =
            if self.recent.len() == REMEMBERED { self.recent.pop_front() } else { None }.unwrap_or_default();
        again.clear();
        again.extend_from_slice(prompt);
        self.recent.push_back(again);
    }

    fn set_aside(&mut self, snapshot: Snapshot, limit: usize) {
        // What it extends is of no more use.
        self.snapshots.retain(|old| !snapshot.tokens().starts_with(old.tokens()));
        if snapshot.tokens().len() < SHORTEST || snapshot.bytes() > limit {
            return;
        }
        self.snapshots.push_back(snapshot);
        while self.bytes() > limit {
            self.snapshots.pop_front();
        }
    }
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
