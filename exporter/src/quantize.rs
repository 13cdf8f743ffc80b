//! Weight-only quantization: matrices in blocks of 32 along a row, each with its scale and, at 4 bits, its zero point, in the
//! layout that ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized` both read.

use std::fmt;
use std::str::FromStr;

/// How the weights of matrices are stored. Norms and biases stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// 8 bits and a scale for each block, symmetric.
    Int8,
    /// 4 bits, a scale and a zero point for each block, both searched for the least squared error.
    Int4,
}

impl WeightFormat {
    /// Bits of one weight.
    #[must_use]
    pub fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Whether the matrix `name` with rows of `columns` is quantized. Looking up an embedding needs whole blocks;
    /// without them it stays in floats, and so does the head that it is tied to.
    pub(crate) fn applies_to(self, name: &str, columns: usize) -> bool {
        self != Self::F32 && (name != EMBEDDING || columns.is_multiple_of(BLOCK))
    }

    /// Replaces a matrix by what is left of it after quantization.
    pub(crate) fn round(self, name: &str, columns: usize, values: &mut [f32]) {
        if self.applies_to(name, columns) {
            values.copy_from_slice(&Quantized::new(values, columns, self).dequantize());
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::Int8, Self::Int4];
        let found = known.into_iter().find(|format| format.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is not one of f32, int8, int4"))
    }
}

/// The embedding's name in a checkpoint.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Weights that share a scale. ONNX Runtime's fastest kernels take 32; a smaller block costs more bytes than it wins.
pub(crate) const BLOCK: usize = 32;

/// A quantized matrix. The value of code `q` is `(q - zero point) x scale`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantized {
    pub(crate) bits: usize,
    columns: usize,
    /// `[rows, blocks, block bytes]`; at 4 bits the earlier column is in the lower half of a byte.
    pub(crate) codes: Vec<u8>,
    /// `[rows, blocks]`.
    pub(crate) scales: Vec<f32>,
    /// `[rows, bytes]`, packed like codes, every row beginning with a whole byte. Without them it is half the range.
    pub(crate) zero_points: Option<Vec<u8>>,
}

impl Quantized {
    /// Quantizes a matrix given row by row.
    pub(crate) fn new(values: &[f32], columns: usize, format: WeightFormat) -> Self {
        let bits = format.bits();
        let (blocks, asymmetric) = (columns.div_ceil(BLOCK), format == WeightFormat::Int4);
        let zero_bytes = (blocks * bits).div_ceil(8);
        let (mut codes, mut scales, mut zero_points) = (vec![], vec![], vec![]);
        for row in values.chunks(columns) {
            let zero_start = zero_points.len();
            zero_points.resize(zero_start + if asymmetric { zero_bytes } else { 0 }, 0_u8);
            for (index, block) in row.chunks(BLOCK).enumerate() {
                let grid = if asymmetric { Grid::search(block) } else { Grid::symmetric(block) };
                let code = |lane: usize| block.get(lane).map_or(grid.zero, |&value| grid.code(value)) as u8;
                if bits == 4 {
                    codes.extend((0..BLOCK).step_by(2).map(|lane| code(lane) | code(lane + 1) << 4));
                } else {
                    codes.extend((0..BLOCK).map(code));
                }
                scales.push(grid.scale);
                if asymmetric {
                    zero_points[zero_start + index / 2] |= (grid.zero as u8) << (4 * (index % 2));
                }
            }
        }
        Self { bits, columns, codes, scales, zero_points: asymmetric.then_some(zero_points) }
    }

    /// The numbers that the codes stand for, row by row.
    pub(crate) fn dequantize(&self) -> Vec<f32> {
        let blocks = self.columns.div_ceil(BLOCK);
        let zero_bytes = (blocks * self.bits).div_ceil(8);
        let at = |bytes: &[u8], index: usize| match self.bits {
            4 => bytes[index / 2] >> (4 * (index % 2)) & 15,
            _ => bytes[index],
        };
        let mut values = Vec::with_capacity(self.scales.len() * BLOCK);
        for (index, &scale) in self.scales.iter().enumerate() {
            let (row, block) = (index / blocks, index % blocks);
            let zero = match &self.zero_points {
                Some(zeros) => at(&zeros[row * zero_bytes..][..zero_bytes], block),
                None => 1 << (self.bits - 1),
            };
            let width = BLOCK.min(self.columns - block * BLOCK);
            let codes = &self.codes[index * BLOCK * self.bits / 8..];
            values.extend((0..width).map(|lane| (f32::from(at(codes, lane)) - f32::from(zero)) * scale));
        }
        values
    }
}

/// The evenly spaced numbers that a block's codes can stand for.
#[derive(Clone, Copy)]
struct Grid {
    scale: f32,
    /// Code of the number zero.
    zero: f32,
    /// Highest code.
    top: f32,
}

impl Grid {
    fn code(self, value: f32) -> f32 {
        (value / self.scale + self.zero).clamp(0.0, self.top) + INTEGERS - INTEGERS
    }

    /// 8 bits around zero.
    fn symmetric(block: &[f32]) -> Self {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        Self { scale: positive(largest / 127.0), zero: 128.0, top: 255.0 }
    }

    /// 4 bits from the least value to the greatest: round to nearest.
    fn nearest(low: f32, high: f32) -> Self {
        let scale = positive((high - low) / 15.0);
        Self { scale, zero: (-low / scale).round().clamp(0.0, 15.0), top: 15.0 }
    }

    /// The 4-bit grid with the least squared error among ranges that give up a little at either end, each with the scale that
    /// least squares gives for its codes. Giving up an outlier makes every other weight of the block more exact.
    fn search(block: &[f32]) -> Self {
        let low = block.iter().copied().fold(0.0, f32::min);
        let high = block.iter().copied().fold(0.0, f32::max);
        let mut best = Self::nearest(low, high);
        let mut least = best.error(block);
        for low in SHRINK.map(|part| low * part) {
            for high in SHRINK.map(|part| high * part) {
                let refitted = Self::nearest(low, high).refitted(block);
                let error = refitted.error(block);
                if error < least {
                    (best, least) = (refitted, error);
                }
            }
        }
        best
    }

    /// The same codes with the scale that is best for them: `sum w c / sum c c`, where `c` is code minus zero.
    fn refitted(self, block: &[f32]) -> Self {
        let (mut products, mut squares) = (0.0, 0.0);
        for &value in block {
            let centred = self.code(value) - self.zero;
            products += value * centred;
            squares += centred * centred;
        }
        Self { scale: if products > 0.0 { positive(products / squares) } else { self.scale }, ..self }
    }

    fn error(self, block: &[f32]) -> f32 {
        block.iter().map(|&value| (value - (self.code(value) - self.zero) * self.scale).powi(2)).sum()
    }
}

/// Added to a small float and taken away again, it leaves the nearest integer: above it floats have no fractions. A call to
/// `round` for every candidate would take most of the export's time.
const INTEGERS: f32 = 12_582_912.0;

/// Parts of the range that the search tries at either end.
const SHRINK: [f32; 5] = [1.0, 0.93, 0.86, 0.79, 0.72];

/// A block of zeros has no scale of its own.
fn positive(scale: f32) -> f32 {
    if scale > f32::MIN_POSITIVE { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        bits: usize,
        columns: usize,
        data: Vec<u8>,
        scales: Vec<f32>,
        zero_points: Option<Vec<u8>>,
        values: Vec<f32>,
    }

    #[test]
    fn codes_stand_for_what_onnx_runtime_takes_them_for() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../tests/fixtures/packing.json")).unwrap();
        assert_eq!(cases.len(), 3);
        for Case { bits, columns, data, scales, zero_points, values } in cases {
            let quantized = Quantized { bits, columns, codes: data, scales, zero_points };
            for (ours, theirs) in quantized.dequantize().iter().zip(&values) {
                assert!((ours - theirs).abs() < 1e-6, "{bits} bits: {ours} {theirs}");
            }
            assert_eq!(quantized.dequantize().len(), values.len());
        }
    }

    /// Numbers of a bell-like shape around `middle`: sums of three taken from a multiplicative generator.
    fn bell(count: usize, middle: f32) -> Vec<f32> {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        };
        (0..count).map(|_| uniform() + uniform() + uniform() + middle).collect()
    }

    #[test]
    fn no_value_moves_by_more_than_half_a_step() {
        for columns in [16, 32, 80, 96] {
            let values = bell(3 * columns, 0.0);
            let quantized = Quantized::new(&values, columns, WeightFormat::Int8);
            // All values are within 1.5, so a step is at most 1.5 / 127.
            for (before, after) in values.iter().zip(quantized.dequantize()) {
                assert!((before - after).abs() <= 1.5 / 127.0 / 2.0 + 1e-6, "{columns}: {before} {after}");
            }
            assert_eq!(quantized.codes.len(), 3 * columns.div_ceil(BLOCK) * BLOCK);
        }
    }

    /// The ratios are those of a few lines of NumPy that compute the same from the formulas.
    #[test]
    fn the_search_beats_rounding_to_nearest() {
        for (middle, expected) in [(0.0, 0.921_39), (0.4, 0.889_25), (2.0, 0.932_01)] {
            let values = bell(96 * 64, middle);
            let squared = |after: &[f32]| values.iter().zip(after).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
            let searched = squared(&Quantized::new(&values, 96, WeightFormat::Int4).dequantize());
            let nearest: f32 = values
                .chunks(BLOCK)
                .map(|block| {
                    let low = block.iter().copied().fold(0.0, f32::min);
                    Grid::nearest(low, block.iter().copied().fold(0.0, f32::max)).error(block)
                })
                .sum();
            let ratio = searched / nearest;
            assert!((ratio - expected).abs() < 5e-4, "{middle}: {ratio} instead of {expected}");
        }
    }

    #[test]
    fn zeros_stay_zeros_and_ends_of_rows_do_not_mix() {
        let mut values = vec![0.0; 2 * 40];
        values[40..].fill(-3.0);
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let after = Quantized::new(&values, 40, format).dequantize();
            assert!(after[..40].iter().all(|&value| value == 0.0), "{format}");
            assert!(after[40..].iter().all(|&value| (value + 3.0).abs() < 1e-5), "{format}");
        }
    }

    #[test]
    fn an_embedding_without_whole_blocks_stays_as_it_is() {
        let values = bell(48, 0.0);
        let mut rounded = values.clone();
        WeightFormat::Int4.round(EMBEDDING, 48, &mut rounded);
        assert_eq!(rounded, values);
        WeightFormat::Int4.round("lm_head.weight", 48, &mut rounded);
        assert_ne!(rounded, values);
    }
}
