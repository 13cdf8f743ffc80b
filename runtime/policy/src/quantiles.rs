//! Quantiles of a stream of log-probabilities in constant memory: exact for short answers, on a grid for long ones.

use core::cell::Cell;

use heapless::Vec;

use crate::rule::Percent;

/// Answers of up to this many tokens have exact quantiles.
pub const EXACT_TOKENS: usize = 64;

/// Log-probabilities seen so far, so that any quantile can be read off.
///
/// The quantile is the one of nearest rank (Hyndman & Fan 1996, type 1; `inverted_cdf` in numpy): the
/// smallest log-probability such that at least the given share of all tokens lies at or below it. It is
/// always one that occurred.
///
/// Past [`EXACT_TOKENS`] the tokens are counted in cells, eight to the octave, and a quantile is its cell's
/// lower end. That never flatters: with `x` exact and `y` the estimate, `1.125 x <= y <= x` for
/// `-64 < x <= -2^-16`; for `x` nearer to zero `-2^-16 <= y <= x`; from -64 nats down `y` is the minimum of all tokens.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is no heap to box the larger one in")]
pub(crate) enum Quantiles {
    /// Their bits, in ascending order of the log-probabilities: largest magnitude first.
    Exact(Vec<u32, EXACT_TOKENS>),
    /// How many fell into each cell, nearest to zero first.
    Grid([u32; CELLS]),
}

/// Cells split each octave `2^k..2^(k+1)` of `-log_probability` by this many bits of the mantissa.
const MANTISSA_BITS: u32 = 3;
const SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - MANTISSA_BITS;
/// Key of 2^-16: the top bits of a positive `f32`, which sort like the number.
const LOWEST_KEY: u32 = (127 - 16) << MANTISSA_BITS;
/// Key of 2^6 = 64.
const HIGHEST_KEY: u32 = (127 + 6) << MANTISSA_BITS;
/// One cell below the grid and one above it.
const CELLS: usize = (HIGHEST_KEY - LOWEST_KEY) as usize + 2;

impl Quantiles {
    pub(crate) const fn new() -> Self {
        Self::Exact(Vec::new())
    }

    /// Adds a log-probability: finite and not above zero.
    pub(crate) fn insert(&mut self, log_probability: f32) {
        match self {
            Self::Exact(values) => {
                if values.push(log_probability.to_bits()).is_ok() {
                    sink_last(values);
                    return;
                }
                let mut cells = [0; CELLS];
                for &bits in values.iter() {
                    cells[cell(f32::from_bits(bits))] += 1;
                }
                *self = Self::Grid(cells);
                self.insert(log_probability);
            }
            Self::Grid(cells) => {
                let count = &mut cells[cell(log_probability)];
                *count = count.saturating_add(1);
            }
        }
    }

    /// The quantile if `count` tokens were seen, those not inserted yet being zero. `minimum` is that of all inserted.
    pub(crate) fn quantile(&self, level: Percent, count: u32, minimum: f32) -> f32 {
        let rank = level.rank(count);
        match self {
            Self::Exact(values) => values.get(rank as usize - 1).map_or(0.0, |&bits| f32::from_bits(bits)),
            Self::Grid(cells) => {
                let mut at_or_below: u32 = 0;
                for (index, count) in cells.iter().enumerate().rev() {
                    at_or_below = at_or_below.saturating_add(*count);
                    if at_or_below >= rank {
                        let end = lower_end(index);
                        return if end < minimum { minimum } else { end };
                    }
                }
                0.0
            }
        }
    }
}

/// Moves the last down to its place among the others, which descend.
fn sink_last(values: &mut [u32]) {
    let places = Cell::from_mut(values).as_slice_of_cells();
    let Some((mut place, others)) = places.split_last() else { return };
    let last = place.get();
    for other in others.iter().rev() {
        if other.get() >= last {
            break;
        }
        place.set(other.get());
        place = other;
    }
    place.set(last);
}

/// Index of the cell of a log-probability.
fn cell(log_probability: f32) -> usize {
    let key = (log_probability.to_bits() & 0x7fff_ffff) >> SHIFT;
    match key {
        ..LOWEST_KEY => 0,
        LOWEST_KEY..HIGHEST_KEY => (key - LOWEST_KEY) as usize + 1,
        HIGHEST_KEY.. => CELLS - 1,
    }
}

/// The lower end of a cell: no log-probability in it is below.
fn lower_end(index: usize) -> f32 {
    if index == CELLS - 1 {
        return f32::MIN;
    }
    // The cell at `index` ends where the next begins, at the key LOWEST_KEY + index.
    -f32::from_bits((LOWEST_KEY + index as u32) << SHIFT)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn quantile(values: &[f32], percent: u8) -> f32 {
        let mut quantiles = Quantiles::new();
        values.iter().for_each(|&value| quantiles.insert(value));
        let minimum = values.iter().copied().fold(0.0, f32::min);
        quantiles.quantile(Percent::new(percent).unwrap(), values.len() as u32, minimum)
    }

    /// numpy 2.4, with `x = -(np.arange(1, 101) * 37 % 101) / 8`:
    /// `[np.quantile(x[:n], q / 100, method="inverted_cdf") for q in (0, 1, 10, 25, 50, 90, 100)]`.
    #[test]
    fn short_streams_agree_with_numpy() {
        let x: Vec<f32> = (1..101).map(|i| -((i * 37 % 101) as f32) / 8.0).collect();
        let levels = [0, 1, 10, 25, 50, 90, 100];
        let of = |n: usize| levels.map(|level| quantile(&x[..n], level));
        assert_eq!(of(7), [-10.5, -10.5, -10.5, -9.25, -5.875, -1.25, -1.25]);
        assert_eq!(of(64), [-12.5, -12.5, -11.25, -9.5, -6.25, -1.25, -0.25]);
        let exact = [-12.5, -12.5, -11.375, -9.5, -6.375, -1.375, -0.125];
        for (estimate, exact) in of(100).into_iter().zip(exact) {
            assert!((1.125 * exact..=exact).contains(&estimate), "{estimate} for {exact}");
        }
    }

    #[test]
    fn every_cell_holds_what_it_says() {
        for index in 1..CELLS - 1 {
            let (lower, upper) = (lower_end(index), lower_end(index - 1));
            assert_eq!(cell(lower.next_up()), index, "just above the lower end {lower}");
            assert_eq!(cell(upper), index, "the upper end {upper}");
            assert!(lower >= 1.125 * upper);
        }
        assert_eq!(cell(-0.0), 0);
        assert_eq!(cell(0.0), 0);
        assert_eq!((cell(-64.0_f32.next_down()), cell(-64.0), cell(f32::MIN)), (CELLS - 2, CELLS - 1, CELLS - 1));
        assert_eq!((lower_end(0), lower_end(CELLS - 2)), (-1.0 / 65536.0, -64.0));
    }

    proptest! {
        #[test]
        fn long_streams_keep_the_bound(
            magnitudes in prop::collection::vec(
                prop_oneof![0.0..80.0_f32, (-20..8).prop_map(|e| 2.0_f32.powi(e))],
                65..300,
            ),
            percent in 0..=100_u8,
        ) {
            let mut values: Vec<f32> = magnitudes.iter().map(|x| -x).collect();
            let estimate = quantile(&values, percent);
            values.sort_by(f32::total_cmp);
            let rank = (values.len() * usize::from(percent)).div_ceil(100).max(1);
            let exact = values[rank - 1];
            prop_assert!(estimate <= exact && estimate >= values[0], "{estimate} for {exact}");
            if exact > -1.0 / 65536.0 {
                prop_assert!(estimate >= -1.0 / 65536.0);
            } else if exact > -64.0 {
                prop_assert!(estimate >= 1.125 * exact, "{estimate} for {exact}");
            } else {
                prop_assert_eq!(estimate, values[0]);
            }
        }
    }
}
