//! A quantized matrix in the layout that ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized` both read.

use half::f16;
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

use super::Scheme;
use super::feedback::{Feedback, part};
use super::grid::Grid;

/// A quantized matrix. The value of code `q` is `(q - zero point) x scale`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantized {
    pub(crate) scheme: Scheme,
    /// Weights of a row.
    columns: usize,
    /// Further weights of a row, for the sum of each block's inputs: see `exact.rs`.
    block_sums: usize,
    /// `[rows, blocks, block bytes]`; at 4 bits the earlier column is in the lower half of a byte.
    pub(crate) codes: Vec<u8>,
    /// `[rows, blocks]`.
    pub(crate) scales: Vec<f16>,
    /// `[rows, bytes]`, packed like codes, every row beginning with a whole byte. Without them it is half the range.
    pub(crate) zero_points: Option<Vec<u8>>,
}

impl Quantized {
    /// Takes every weight to the nearest code of its block's best grid.
    pub(crate) fn nearest(values: &[f32], columns: usize, scheme: Scheme) -> Self {
        let even = vec![1.0; scheme.block];
        let rows = values.par_chunks(columns).map(|row| {
            let mut packed = PackedRow::new(columns, scheme);
            for block in row.chunks(scheme.block) {
                let grid = scheme.grid(block, &even[..block.len()]);
                packed.push(grid, block.iter().map(|&value| grid.code(value) as u8));
            }
            packed
        });
        Self::of_rows(rows.collect(), columns, 0, scheme)
    }

    /// GPTQ (Frantar et al., arXiv 2210.17323) in the form that QuIP proves equal to it (Chee et al., arXiv 2307.13304,
    /// theorem 6): from left to right, every weight first takes over what the errors to its left do to the product.
    pub(crate) fn with_feedback(values: &[f32], columns: usize, scheme: Scheme, feedback: &Feedback) -> Self {
        let rows = values.par_chunks(columns * ROWS_AT_ONCE).map(|rows| {
            let count = rows.len() / columns;
            let mut packed: Vec<_> = (0..count).map(|_| PackedRow::new(columns, scheme)).collect();
            let mut errors = Array2::<f32>::zeros((count, columns));
            for begin in (0..columns).step_by(scheme.block) {
                let end = columns.min(begin + scheme.block);
                let mut wanted =
                    Array2::from_shape_fn((count, end - begin), |(row, lane)| rows[row * columns + begin + lane]);
                let (left, ahead) = (part(&errors, 0..count, 0..begin), part(&feedback.matrix, 0..begin, begin..end));
                general_mat_mul(1.0, &left, &ahead, 1.0, &mut wanted);
                let shares: Vec<f32> = part(&feedback.matrix, begin..end, begin..end).iter().copied().collect();
                for (row, packed) in packed.iter_mut().enumerate() {
                    let own = &rows[row * columns + begin..row * columns + end];
                    // What the block would be if none of it were rounded: its grid is to fit that.
                    let mut ideal = wanted.row(row).to_vec();
                    for (lane, own) in own.iter().enumerate() {
                        let error = own - ideal[lane];
                        spread(&mut ideal, lane, error, &shares);
                    }
                    let grid = scheme.grid(&ideal, &feedback.importance[begin..end]);
                    let mut block = wanted.row(row).to_vec();
                    for (lane, own) in own.iter().enumerate() {
                        let code = grid.code(block[lane]);
                        let error = own - grid.value(code);
                        block[lane] = code;
                        errors[[row, begin + lane]] = error;
                        spread(&mut block, lane, error, &shares);
                    }
                    packed.push(grid, block.iter().map(|&code| code as u8));
                }
            }
            packed
        });
        Self::of_rows(rows.flatten_iter().collect(), columns, 0, scheme)
    }

    pub(super) fn of_rows(rows: Vec<PackedRow>, columns: usize, block_sums: usize, scheme: Scheme) -> Self {
        let (mut codes, mut scales, mut zero_points) = (vec![], vec![], vec![]);
        for row in rows {
            codes.extend(row.codes);
            scales.extend(row.scales);
            zero_points.extend(row.zero_points);
        }
        let zero_points = scheme.has_zero_points().then_some(zero_points);
        Self { scheme, columns, block_sums, codes, scales, zero_points }
    }

    /// How many columns follow a row's own: each is multiplied with the sum of the inputs of one block, the last ones, if
    /// there are more than blocks, with nothing.
    pub(crate) fn block_sums(&self) -> usize {
        self.block_sums
    }

    /// Rows and columns, without those for sums.
    pub(crate) fn shape(&self) -> [usize; 2] {
        let blocks = (self.columns + self.block_sums).div_ceil(self.scheme.block);
        [self.scales.len() / blocks.max(1), self.columns]
    }

    /// The numbers that the codes stand for, row by row.
    pub(crate) fn dequantize(&self) -> Vec<f32> {
        let Scheme { bits, block } = self.scheme;
        let stored = self.columns + self.block_sums;
        let blocks = stored.div_ceil(block);
        let zero_bytes = (blocks * bits).div_ceil(8);
        let at = |bytes: &[u8], index: usize| match bits {
            4 => bytes[index / 2] >> (4 * (index % 2)) & 15,
            _ => bytes[index],
        };
        let mut values = Vec::with_capacity(self.scales.len() / blocks * self.columns);
        for (row, scales) in self.scales.chunks(blocks).enumerate() {
            let value = |column: usize| {
                let zero = match &self.zero_points {
                    Some(zeros) => at(&zeros[row * zero_bytes..][..zero_bytes], column / block),
                    None => 1 << (bits - 1),
                };
                let code = at(&self.codes, row * blocks * block + column);
                (f32::from(code) - f32::from(zero)) * scales[column / block].to_f32()
            };
            let offset = |column: usize| if self.block_sums > 0 { value(self.columns + column / block) } else { 0.0 };
            values.extend((0..self.columns).map(|column| value(column) + offset(column)));
        }
        values
    }
}

/// Adds to the lanes behind one what its error does to them.
fn spread(block: &mut [f32], lane: usize, error: f32, shares: &[f32]) {
    let shares = &shares[lane * block.len()..];
    block.iter_mut().zip(shares).skip(lane + 1).for_each(|(later, share)| *later += error * share);
}

/// Rows whose errors one product takes to a block: enough to be worth its preparation.
const ROWS_AT_ONCE: usize = 64;

/// One row on its way into the layout.
pub(super) struct PackedRow {
    scheme: Scheme,
    codes: Vec<u8>,
    scales: Vec<f16>,
    zero_points: Vec<u8>,
}

impl PackedRow {
    pub(super) fn new(columns: usize, scheme: Scheme) -> Self {
        let blocks = columns.div_ceil(scheme.block);
        let zero_bytes = if scheme.has_zero_points() { (blocks * scheme.bits).div_ceil(8) } else { 0 };
        Self {
            scheme,
            codes: Vec::with_capacity(blocks * scheme.block * scheme.bits / 8),
            scales: Vec::with_capacity(blocks),
            zero_points: vec![0; zero_bytes],
        }
    }

    /// Appends a block; a short one is filled with zeros.
    pub(super) fn push(&mut self, grid: Grid, codes: impl Iterator<Item = u8>) {
        let Scheme { bits, block } = self.scheme;
        let mut codes = codes.chain(std::iter::repeat(grid.zero as u8)).take(block);
        while let Some(code) = codes.next() {
            self.codes.push(if bits == 4 { code | codes.next().unwrap_or_default() << 4 } else { code });
        }
        if self.scheme.has_zero_points() {
            let index = self.scales.len();
            self.zero_points[index / 2] |= (grid.zero as u8) << (4 * (index % 2));
        }
        self.scales.push(f16::from_f32(grid.scale));
    }
}

#[cfg(test)]
mod tests {
    use super::super::bell;
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        bits: usize,
        block: usize,
        columns: usize,
        data: Vec<u8>,
        scales: Vec<f32>,
        zero_points: Option<Vec<u8>>,
        values: Vec<f32>,
    }

    #[test]
    fn codes_stand_for_what_onnx_runtime_takes_them_for() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/packing.json")).unwrap();
        assert_eq!(cases.len(), 4);
        for Case { bits, block, columns, data, scales, zero_points, values } in cases {
            let scales = scales.into_iter().map(f16::from_f32).collect();
            let quantized =
                Quantized { scheme: Scheme { bits, block }, columns, block_sums: 0, codes: data, scales, zero_points };
            for (ours, theirs) in quantized.dequantize().iter().zip(&values) {
                assert!((ours - theirs).abs() < 1e-6, "{bits} bits: {ours} {theirs}");
            }
            assert_eq!(quantized.dequantize().len(), values.len());
        }
    }

    #[test]
    fn no_value_moves_by_more_than_half_a_step() {
        for columns in [16, 32, 80, 96] {
            let values = bell(3 * columns, 0.0);
            let quantized = Quantized::nearest(&values, columns, Scheme::INT8);
            // All values are within 1.5, so a step is at most 1.5 / 127, and a scale is rounded by up to a 2048th of itself.
            for (before, after) in values.iter().zip(quantized.dequantize()) {
                assert!((before - after).abs() <= 1.5 / 127.0 / 2.0 + 1.5 / 2048.0, "{columns}: {before} {after}");
            }
            assert_eq!(quantized.codes.len(), 3 * columns.div_ceil(32) * 32);
        }
    }

    #[test]
    fn zeros_stay_zeros_and_ends_of_rows_do_not_mix() {
        let mut values = vec![0.0; 2 * 40];
        values[40..].fill(-3.0);
        for scheme in [Scheme::INT8, Scheme::INT4] {
            let after = Quantized::nearest(&values, 40, scheme).dequantize();
            assert!(after[..40].iter().all(|&value| value == 0.0), "{scheme:?}");
            assert!(after[40..].iter().all(|&value| (value + 3.0).abs() < 3.0 / 1024.0), "{scheme:?}");
        }
    }
}
