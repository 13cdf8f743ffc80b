//! Matrices whose blocks already lie on sixteen evenly spaced numbers, because their checkpoint was made from 4-bit blocks:
//! they are stored as they are, instead of being rounded a second time.

use half::f16;
use rayon::prelude::*;

use super::Scheme;
use super::blocks::{PackedRow, Quantized};
use super::grid::Grid;

impl Quantized {
    /// The matrix on its own grids, if every block has one.
    ///
    /// Such a grid need not pass through zero, and a zero point is a whole number of steps. What is left, a part of a step for
    /// each block, is times the sum of the block's inputs: those sums are further inputs, and the parts their weights, in
    /// further blocks of each row.
    pub(crate) fn exact(values: &[f32], columns: usize) -> Option<Self> {
        let scheme = Scheme::INT4;
        if !columns.is_multiple_of(scheme.block) {
            return None;
        }
        let blocks: Option<Vec<Block>> = values.par_chunks(scheme.block).map(Block::new).collect();
        let blocks = blocks?;
        let per_row = columns / scheme.block;
        let sums = blocks.iter().any(|block| block.offset.abs() > TOLERANCE * block.grid.scale);
        let further = if sums { per_row.next_multiple_of(scheme.block) } else { 0 };
        let rows = values.par_chunks(columns).zip(blocks.par_chunks(per_row)).map(|(row, blocks)| {
            let mut packed = PackedRow::new(columns + further, scheme);
            for (values, block) in row.chunks(scheme.block).zip(blocks) {
                packed.push(block.grid, values.iter().map(|value| block.grid.code(value - block.offset) as u8));
            }
            if further > 0 {
                let offsets: Vec<f32> = blocks.iter().map(|block| block.offset).collect();
                for offsets in offsets.chunks(scheme.block) {
                    let grid = Grid::search(offsets, &[1.0; Scheme::INT4.block][..offsets.len()]);
                    packed.push(grid, offsets.iter().map(|&offset| grid.code(offset) as u8));
                }
            }
            packed
        });
        Some(Self::of_rows(rows.collect(), columns, further, scheme))
    }
}

/// A block that lies on a grid.
struct Block {
    grid: Grid,
    /// What is added to every number of the grid.
    offset: f32,
}

impl Block {
    fn new(values: &[f32]) -> Option<Self> {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // A block need not use its outermost codes.
        (STEPS_AT_LEAST..=15_u8).rev().find_map(|steps| {
            let scale = f16::from_f32((high - low) / f32::from(steps)).to_f32();
            if !(scale > 0.0 && scale.is_finite()) {
                return None;
            }
            let grid = Grid { scale, zero: (-low / scale).round().clamp(0.0, 15.0), top: 15.0 };
            let offset = low + grid.zero * scale;
            let near =
                |value: &f32| (grid.value(grid.code(value - offset)) + offset - value).abs() <= TOLERANCE * scale;
            values.iter().all(near).then_some(Self { grid, offset })
        })
    }
}

/// Fewer steps between the least and the greatest number of a block are no sign of where it comes from.
const STEPS_AT_LEAST: u8 = 8;

/// Parts of a step that conversion to another float type may have moved a number.
const TOLERANCE: f32 = 0.02;

#[cfg(test)]
mod tests {
    use super::super::bell;
    use super::*;

    /// Blocks of 4-bit codes with a scale and the least number, as GGUF's Q4_1 has them.
    fn blocks(rows: usize, columns: usize, least: impl Fn(usize) -> f32) -> Vec<f32> {
        let code = |index: usize| ((index * 7 + index / 32 * 3) % 16) as f32;
        let scale = |block: usize| f16::from_f32(0.01 + 0.001 * (block % 9) as f32).to_f32();
        (0..rows * columns).map(|index| scale(index / 32) * (code(index) + least(index / 32))).collect()
    }

    #[test]
    fn blocks_on_a_grid_through_zero_are_stored_as_they_are() {
        let values = blocks(4, 96, |_| -8.0);
        let exact = Quantized::exact(&values, 96).unwrap();
        assert_eq!(exact.block_sums(), 0);
        for (before, after) in values.iter().zip(exact.dequantize()) {
            assert!((before - after).abs() < 1e-6, "{before} {after}");
        }
    }

    #[test]
    fn a_grid_beside_zero_takes_the_sums_of_blocks() {
        let values = blocks(4, 1120, |block| -5.0 - (block % 7) as f32 / 7.0);
        let exact = Quantized::exact(&values, 1120).unwrap();
        // 35 sums, in two blocks.
        assert_eq!(exact.block_sums(), 64);
        let error = |after: &[f32]| values.iter().zip(after).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
        let (exact, nearest) = (exact.dequantize(), Quantized::nearest(&values, 1120, Scheme::INT4).dequantize());
        assert_eq!(exact.len(), values.len());
        assert!(error(&exact) < 0.02 * error(&nearest), "{} {}", error(&exact), error(&nearest));
    }

    #[test]
    fn ordinary_weights_have_no_such_grid() {
        assert!(Quantized::exact(&bell(4 * 64, 0.0), 64).is_none());
        assert!(Quantized::exact(&blocks(4, 48, |_| -8.0), 48).is_none());
        let mut one = blocks(4, 64, |_| -8.0);
        one[100] += 0.004;
        assert!(Quantized::exact(&one, 64).is_none());
    }
}
