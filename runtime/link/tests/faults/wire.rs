//! A serial line that does everything to frames that a bad one does, the same every time.
//!
//! Shared by the test and by the example that stands in for a gateway.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One direction of a line.
pub(crate) struct Wire {
    random: ChaCha8Rng,
    /// Share of frames that something happens to.
    pub(crate) faults: f64,
    /// Frames that were overtaken, to be put on the line later.
    late: Vec<Vec<u8>>,
    pub(crate) counts: Faults,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u32,
    pub(crate) corrupted: u32,
    pub(crate) truncated: u32,
    pub(crate) duplicated: u32,
    pub(crate) reordered: u32,
}

impl Wire {
    pub(crate) fn new(seed: u64, faults: f64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), faults, late: Vec::new(), counts: Faults::default() }
    }

    /// What comes out at the other end when this frame goes in.
    pub(crate) fn carry(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let mut out = Vec::new();
        if self.random.random_bool(self.faults) {
            match self.random.random_range(0..5) {
                0 => {
                    self.counts.lost += 1;
                    frame.clear();
                }
                1 => {
                    self.counts.corrupted += 1;
                    for _ in 0..self.random.random_range(1..5) {
                        let at = self.random.random_range(0..frame.len());
                        frame[at] ^= self.random.random_range(1..=255_u8);
                    }
                }
                2 => {
                    // The line came back in the middle, or went away there: with the zero goes the next frame's beginning.
                    self.counts.truncated += 1;
                    let at = self.random.random_range(0..frame.len());
                    frame = if self.random.random() { frame.split_off(at) } else { frame[..at].to_vec() };
                }
                3 => {
                    self.counts.duplicated += 1;
                    out.extend_from_slice(&frame);
                }
                _ => {
                    self.counts.reordered += 1;
                    self.late.push(std::mem::take(&mut frame));
                }
            }
        }
        out.extend_from_slice(&frame);
        // At most a few frames are held back, and not for long.
        if !self.late.is_empty() && (self.late.len() > 4 || self.random.next_u32().is_multiple_of(4)) {
            let which = self.random.random_range(0..self.late.len());
            out.append(&mut self.late.swap_remove(which));
        }
        out
    }
}

impl Faults {
    pub(crate) fn total(self) -> u32 {
        self.lost + self.corrupted + self.truncated + self.duplicated + self.reordered
    }
}
