//! The evenly spaced numbers that the codes of one block can stand for, and the search for the best of them.

use half::f16;

/// Code `q` stands for `(q - zero) x scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    /// A number that half precision holds, as it is stored.
    pub(super) scale: f32,
    /// Code of the number zero.
    pub(super) zero: f32,
    /// Highest code.
    pub(super) top: f32,
}

impl Grid {
    pub(super) fn code(self, value: f32) -> f32 {
        (value / self.scale + self.zero).clamp(0.0, self.top) + INTEGERS - INTEGERS
    }

    pub(super) fn value(self, code: f32) -> f32 {
        (code - self.zero) * self.scale
    }

    /// 8 bits around zero.
    pub(super) fn symmetric(block: &[f32]) -> Self {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        Self { scale: storable(largest / 127.0), zero: 128.0, top: 255.0 }
    }

    /// 4 bits from the least value to the greatest, zero among them: round to nearest.
    #[cfg(test)]
    pub(super) fn nearest(block: &[f32]) -> Self {
        let (low, high) = range(block);
        Self::between(low, high)
    }

    fn between(low: f32, high: f32) -> Self {
        let scale = storable((high - low) / 15.0);
        Self { scale, zero: (-low / scale).round().clamp(0.0, 15.0), top: 15.0 }
    }

    /// The 4-bit grid with the least squared error, `importance` times as much of every lane's, among ranges that give up a
    /// little at either end, each with the scale that least squares gives for its codes. Giving up an outlier makes every
    /// other weight of the block more exact.
    pub(super) fn search(block: &[f32], importance: &[f32]) -> Self {
        let (low, high) = range(block);
        let mut best = Self::between(low, high);
        let mut least = best.error(block, importance);
        for low in SHRINK.map(|part| low * part) {
            for high in SHRINK.map(|part| high * part) {
                let refitted = Self::between(low, high).refitted(block, importance);
                let error = refitted.error(block, importance);
                if error < least {
                    (best, least) = (refitted, error);
                }
            }
        }
        best
    }

    /// The same codes with the scale that is best for them: `sum m w c / sum m c c`, where `c` is code minus zero and `m` the
    /// importance.
    fn refitted(self, block: &[f32], importance: &[f32]) -> Self {
        let (mut products, mut squares) = (0.0, 0.0);
        for (&value, &weight) in block.iter().zip(importance) {
            let centred = self.code(value) - self.zero;
            products += weight * value * centred;
            squares += weight * centred * centred;
        }
        Self { scale: if products > 0.0 { storable(products / squares) } else { self.scale }, ..self }
    }

    /// Weighted squared error of a block.
    pub(super) fn error(self, block: &[f32], importance: &[f32]) -> f32 {
        let lanes = block.iter().zip(importance);
        lanes.map(|(&value, &weight)| weight * (value - self.value(self.code(value))).powi(2)).sum()
    }
}

/// The least and the greatest of some numbers and zero.
fn range(block: &[f32]) -> (f32, f32) {
    block.iter().fold((0.0, 0.0), |(low, high), &value| (value.min(low), value.max(high)))
}

/// Added to a small float and taken away again, it leaves the nearest integer: above it floats have no fractions. A call to
/// `round` for every candidate would take most of the export's time.
const INTEGERS: f32 = 12_582_912.0;

/// Parts of the range that the search tries at either end.
const SHRINK: [f32; 5] = [1.0, 0.93, 0.86, 0.79, 0.72];

/// The nearest scale that half precision holds. A block of zeros has no scale of its own.
fn storable(scale: f32) -> f32 {
    let stored = f16::from_f32(scale.min(f16::MAX.to_f32())).to_f32();
    if stored > 0.0 { stored } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_decides_which_lanes_stay_exact() {
        let mut block: Vec<f32> = (0..32).map(|lane| ((lane * 7 % 16) as f32 - 7.3) / 8.0).collect();
        block[5] = 2.9;
        let error = |grid: Grid, lane: usize| (block[lane] - grid.value(grid.code(block[lane]))).abs();
        let mut importance = [1.0; 32];
        let even = Grid::search(&block, &importance);
        importance[5] = 1e4;
        let outlier = Grid::search(&block, &importance);
        assert!(error(outlier, 5) < 0.1 * error(even, 5), "{even:?} {outlier:?}");
        importance[5] = 0.0;
        let others = Grid::search(&block, &importance);
        assert!(others.error(&block, &importance) < even.error(&block, &importance), "{even:?} {others:?}");
    }

    #[test]
    fn scales_are_numbers_of_half_precision() {
        for block in [[1e-9_f32, -3e-9], [0.1, -0.05], [1e9, 2e9], [0.0, 0.0]] {
            for grid in [Grid::symmetric(&block), Grid::nearest(&block), Grid::search(&block, &[1.0; 2])] {
                assert_eq!(f16::from_f32(grid.scale).to_f32(), grid.scale, "{block:?}");
                assert!(grid.scale > 0.0 && grid.scale.is_finite(), "{block:?}");
            }
        }
    }
}
