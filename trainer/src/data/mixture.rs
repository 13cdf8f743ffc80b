//! Which rows an epoch has: every row once, or each data set by its share of the mixture.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::DataSet;

/// Data sets and their shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    parts: Vec<Part>,
    rows: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Part {
    first: usize,
    rows: usize,
    /// Share of the draws; `None` is every row once.
    share: Option<f64>,
}

impl Mixture {
    /// Every one of `rows` rows once an epoch.
    #[must_use]
    pub fn whole(rows: usize) -> Self {
        Self { parts: vec![Part { first: 0, rows, share: None }], rows }
    }

    /// Data sets by their weights, or by `rows^(1 / temperature)` (Raffel et al., arXiv 1910.10683, section 3.5.2), or
    /// every row once. An epoch draws as many rows as there are.
    #[must_use]
    pub fn of(sets: &[DataSet], temperature: Option<f64>) -> Self {
        let weight = |set: &DataSet| match temperature {
            _ if set.rows.is_empty() => Some(0.0),
            Some(temperature) => Some((set.rows.len() as f64).powf(1.0 / temperature)),
            None => set.weight,
        };
        let sum: f64 = sets.iter().filter_map(weight).sum();
        let share = |set: &DataSet| weight(set).filter(|_| sum > 0.0).map(|weight| weight / sum);
        let part = |set: &DataSet| Part { first: set.rows.start, rows: set.rows.len(), share: share(set) };
        Self { parts: sets.iter().map(part).collect(), rows: sets.iter().map(|set| set.rows.len()).sum() }
    }

    /// How many rows every epoch draws, up to rounding.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows of one epoch, in no particular order. A data set is gone through in a shuffled order, then in another
    /// one, across epochs: no row comes a second time before every other one has come once.
    #[must_use]
    pub fn epoch(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut drawn = Vec::with_capacity(self.rows);
        for (number, part) in self.parts.iter().enumerate() {
            let Some(share) = part.share else {
                drawn.extend(part.first..part.first + part.rows);
                continue;
            };
            if part.rows == 0 {
                continue;
            }
            let until = |epoch: u64| (share * self.rows as f64 * epoch as f64).round() as usize;
            let (mut at, end) = (until(epoch), until(epoch + 1));
            while at < end {
                let pass = at / part.rows;
                let order = shuffled(part.rows, seed, number, pass);
                let stop = end.min((pass + 1) * part.rows);
                drawn.extend(order[at % part.rows..][..stop - at].iter().map(|row| part.first + row));
                at = stop;
            }
        }
        drawn
    }
}

fn shuffled(rows: usize, seed: u64, part: usize, pass: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    let stream = (part as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (pass as u64).wrapping_mul(0xA076_1D64_78BD_642F);
    order.shuffle(&mut StdRng::seed_from_u64(seed ^ stream ^ 0x4D49_5854));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sizes: &[(usize, Option<f64>)]) -> Vec<DataSet> {
        let mut first = 0;
        let set = |&(rows, weight): &(usize, Option<f64>)| {
            first += rows;
            DataSet { task: "t".into(), rows: first - rows..first, weight }
        };
        sizes.iter().map(set).collect()
    }

    fn share(rows: &[usize], of: std::ops::Range<usize>) -> f64 {
        rows.iter().filter(|row| of.contains(row)).count() as f64 / rows.len() as f64
    }

    #[test]
    fn without_weights_an_epoch_is_every_row_once() {
        let mut rows = Mixture::of(&sets(&[(30, None), (70, None)]), None).epoch(1, 3);
        rows.sort_unstable();
        assert_eq!(rows, (0..100).collect::<Vec<_>>());
        assert_eq!(Mixture::whole(100).epoch(1, 3), rows);
    }

    #[test]
    fn weights_and_temperature_give_the_shares() {
        let weighted = Mixture::of(&sets(&[(900, Some(1.0)), (100, Some(3.0))]), None).epoch(1, 0);
        assert!((share(&weighted, 900..1000) - 0.75).abs() < 1e-3);
        let sized = [(900, None), (100, None)];
        let at = |temperature| share(&Mixture::of(&sets(&sized), Some(temperature)).epoch(1, 0), 900..1000);
        assert!((at(1.0) - 0.1).abs() < 1e-3);
        assert!((at(2.0) - 0.25).abs() < 1e-3);
        assert!((at(1e9) - 0.5).abs() < 1e-3);
    }

    #[test]
    fn a_small_set_is_gone_through_before_a_row_comes_again() {
        let mixture = Mixture::of(&sets(&[(93, Some(1.0)), (7, Some(1.0))]), None);
        let mut seen = [0_usize; 7];
        for epoch in 0..5 {
            for row in mixture.epoch(9, epoch).into_iter().filter(|row| *row >= 93) {
                seen[row - 93] += 1;
                assert!(seen.iter().max().unwrap() - seen.iter().min().unwrap() <= 1);
            }
        }
        assert_eq!(seen.iter().sum::<usize>(), 250);
        assert_eq!(mixture.epoch(9, 2), mixture.epoch(9, 2));
        assert_ne!(mixture.epoch(9, 2), mixture.epoch(10, 2));
    }
}
