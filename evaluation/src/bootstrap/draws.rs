//! Resamples of queries as counts: how often each comes when as many are drawn with replacement as there are.
//!
//! Eight resamples at a time, and in the cache: first how many draws fall into each block of queries, then where in the
//! block. Both are uniform draws, so the counts are multinomial.

use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

/// Resamples that are drawn, and swept, side by side.
pub(super) const LANES: usize = 8;
/// Queries of a block, by the bits of a place in it: 2048 of eight counts each are 16 KiB.
const PLACE_BITS: u32 = 11;
const BLOCK: usize = 1 << PLACE_BITS;

/// The counts of [`LANES`] resamples, one array for each query.
pub(super) struct Draws {
    counts: Vec<[u8; LANES]>,
    /// Draws in each block.
    tallies: Vec<[u32; LANES]>,
}

impl Draws {
    /// Room for the counts of `queries` queries.
    pub(super) fn new(queries: usize) -> Self {
        Self { counts: vec![[0; LANES]; queries], tallies: vec![[0; LANES]; queries.div_ceil(BLOCK)] }
    }

    /// Draws the resamples `LANES * group ..`. Each has a generator of its own, so the counts depend on nothing but the
    /// seed and the resample's number.
    pub(super) fn draw(&mut self, seed: u64, group: u64) -> &[[u8; LANES]] {
        let queries = self.counts.len() as u64;
        let stream = SplitMix64::seed_from_u64(seed).next_u64();
        let mut random: [Xoshiro256PlusPlus; LANES] = std::array::from_fn(|lane| {
            let resample = LANES as u64 * group + lane as u64;
            Xoshiro256PlusPlus::seed_from_u64(stream.wrapping_add(resample))
        });
        self.tallies.fill([0; LANES]);
        for (lane, random) in random.iter_mut().enumerate() {
            for draw in 0..queries.div_ceil(2) {
                let bits = random.next_u64();
                self.tallies[place(bits >> 32, queries) >> PLACE_BITS][lane] += 1;
                if 2 * draw + 1 < queries {
                    self.tallies[place(bits & 0xffff_ffff, queries) >> PLACE_BITS][lane] += 1;
                }
            }
        }
        self.counts.fill([0; LANES]);
        for (counts, tally) in self.counts.chunks_mut(BLOCK).zip(&self.tallies) {
            for lane in 0..LANES {
                fill(counts, lane, tally[lane], &mut random[lane]);
            }
        }
        &self.counts
    }
}

/// Spreads `draws` over a block.
fn fill(counts: &mut [[u8; LANES]], lane: usize, draws: u32, random: &mut Xoshiro256PlusPlus) {
    /// Places that 64 random bits give.
    const AT_ONCE: u32 = u64::BITS / PLACE_BITS;
    if let Ok(counts) = <&mut [[u8; LANES]; BLOCK]>::try_from(&mut *counts) {
        let mut left = draws;
        while left > 0 {
            let bits = random.next_u64();
            for at in 0..AT_ONCE.min(left) {
                let count = &mut counts[(bits >> (PLACE_BITS * at)) as usize & (BLOCK - 1)][lane];
                *count = count.saturating_add(1);
            }
            left = left.saturating_sub(AT_ONCE);
        }
        return;
    }
    // The last block, or the only one.
    for _ in 0..draws {
        let count = &mut counts[place(random.next_u64() >> 32, counts.len() as u64)][lane];
        // 256 draws of one query among 256 or more are less likely than one in 10^500.
        *count = count.saturating_add(1);
    }
}

/// A place below `places` from 32 random bits. The chances of two blocks differ by less than one in a hundred thousand.
fn place(bits: u64, places: u64) -> usize {
    ((bits * places) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(queries: usize, seed: u64, resample: u64) -> Vec<u8> {
        let mut draws = Draws::new(queries);
        let counts = draws.draw(seed, resample / LANES as u64);
        counts.iter().map(|count| count[resample as usize % LANES]).collect()
    }

    #[test]
    fn as_many_are_drawn_as_there_are() {
        for queries in [1, 2, 7, 255, 2047, 2048, 2049, 10_001] {
            let mut draws = Draws::new(queries);
            for group in 0..3 {
                let counts = draws.draw(5, group);
                for lane in 0..LANES {
                    let all: u32 = counts.iter().map(|count| u32::from(count[lane])).sum();
                    assert_eq!(all as usize, queries);
                }
            }
        }
    }

    #[test]
    fn counts_are_those_of_a_multinomial_draw() {
        // With n large a count is Poisson of mean 1: none in exp(-1) of queries, two in exp(-1) / 2.
        let queries = 200_000;
        let counts = column(queries, 1, 3);
        for (times, chance) in [(0, 0.367879), (1, 0.367879), (2, 0.183940), (3, 0.061313)] {
            let found = counts.iter().filter(|count| **count == times).count() as f64 / queries as f64;
            assert!((found - chance).abs() < 4.0 * (chance / queries as f64).sqrt(), "{times}: {found}");
        }
        // Blocks are as likely as they are large: chi-squared of 98 blocks, mean 97, deviation 14.
        let squares = counts.chunks(BLOCK).map(|block| {
            let drawn: f64 = block.iter().map(|count| f64::from(*count)).sum();
            (drawn - block.len() as f64).powi(2) / block.len() as f64
        });
        let squared: f64 = squares.sum();
        assert!((40.0..160.0).contains(&squared), "{squared}");
    }

    #[test]
    fn every_resample_is_another_and_always_the_same() {
        assert_eq!(column(5000, 1, 9), column(5000, 1, 9));
        let all: Vec<Vec<u8>> = (0..16).map(|resample| column(300, 1, resample)).collect();
        assert!(all.iter().enumerate().all(|(at, one)| all[..at].iter().all(|other| other != one)));
        assert_ne!(column(300, 1, 0), column(300, 2, 0));
    }
}
