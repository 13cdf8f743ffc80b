//! Resamples of queries as counts: how often each comes when as many are drawn with replacement as there are.
//!
//! Several resamples at a time, and in the cache: first how many draws fall into each block of queries, by binomial draws,
//! then where in the block, by uniform ones. So the counts are multinomial.

use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Binomial, Distribution as _};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

/// Resamples that are drawn, and swept, side by side.
pub(super) const LANES: usize = 16;
/// Queries of a block, by the bits of a place in it: 2048 of sixteen counts each are 32 KiB.
const PLACE_BITS: u32 = 11;
const BLOCK: usize = 1 << PLACE_BITS;

/// The counts of [`LANES`] resamples, one array for each query.
pub(super) struct Draws {
    counts: Vec<[u8; LANES]>,
}

impl Draws {
    /// Room for the counts of `queries` queries.
    pub(super) fn new(queries: usize) -> Self {
        Self { counts: vec![[0; LANES]; queries] }
    }

    /// Draws the first `lanes` of the resamples `LANES * group ..`; the others are empty. Each has a generator of its own,
    /// so the counts depend on nothing but the seed and the resample's number.
    pub(super) fn draw(&mut self, seed: u64, group: u64, lanes: usize) -> &[[u8; LANES]] {
        let stream = SplitMix64::seed_from_u64(seed).next_u64();
        let mut random: Vec<Xoshiro256PlusPlus> = (0..lanes.min(LANES) as u64)
            .map(|lane| Xoshiro256PlusPlus::seed_from_u64(stream.wrapping_add(LANES as u64 * group + lane)))
            .collect();
        let mut left = vec![self.counts.len() as u64; random.len()];
        let mut queries = self.counts.len();
        for counts in self.counts.chunks_mut(BLOCK) {
            counts.fill([0; LANES]);
            let share = counts.len() as f64 / queries as f64;
            for (lane, (random, left)) in random.iter_mut().zip(&mut left).enumerate() {
                // The last block takes what is left; and a share in (0, 1) is one that `Binomial` takes.
                let draws = match Binomial::new(*left, share) {
                    Ok(binomial) if counts.len() < queries => binomial.sample(random),
                    _ => *left,
                };
                *left -= draws;
                fill(counts, lane, draws, random);
            }
            queries -= counts.len();
        }
        &self.counts
    }
}

/// Spreads `draws` over a block.
fn fill(counts: &mut [[u8; LANES]], lane: usize, draws: u64, random: &mut Xoshiro256PlusPlus) {
    /// Places that 64 random bits give.
    const AT_ONCE: u32 = u64::BITS / PLACE_BITS;
    if let Ok(counts) = <&mut [[u8; LANES]; BLOCK]>::try_from(&mut *counts) {
        let mut one = |bits: u64, at: u32| {
            let count = &mut counts[(bits >> (PLACE_BITS * at)) as usize & (BLOCK - 1)][lane];
            *count = count.saturating_add(1);
        };
        for _ in 0..draws / u64::from(AT_ONCE) {
            let bits = random.next_u64();
            (0..AT_ONCE).for_each(|at| one(bits, at));
        }
        let bits = random.next_u64();
        (0..(draws % u64::from(AT_ONCE)) as u32).for_each(|at| one(bits, at));
        return;
    }
    // The last block, or the only one.
    for _ in 0..draws {
        let count = &mut counts[place(random.next_u64() >> 32, counts.len() as u64)][lane];
        // 256 draws of one query among 256 or more are less likely than one in 10^500.
        *count = count.saturating_add(1);
    }
}

/// A place below `places`, at most [`BLOCK`], from 32 random bits. The chances of two differ by less than one in a million.
fn place(bits: u64, places: u64) -> usize {
    ((bits * places) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(queries: usize, seed: u64, resample: u64) -> Vec<u8> {
        let mut draws = Draws::new(queries);
        let counts = draws.draw(seed, resample / LANES as u64, LANES);
        counts.iter().map(|count| count[resample as usize % LANES]).collect()
    }

    #[test]
    fn as_many_are_drawn_as_there_are() {
        for queries in [1, 2, 7, 255, 2047, 2048, 2049, 10_001] {
            let mut draws = Draws::new(queries);
            for group in 0..3 {
                let counts = draws.draw(5, group, LANES);
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
        let mut draws = Draws::new(5000);
        let (all, few) = (draws.draw(1, 2, LANES).to_vec(), draws.draw(1, 2, 3).to_vec());
        assert!(all.iter().zip(&few).all(|(all, few)| all[..3] == few[..3] && few[3..] == [0; LANES - 3]));
    }
}
