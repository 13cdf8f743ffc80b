//! Weight-only quantization: matrices in blocks along a row, each with its scale in half precision and, at 4 bits, its zero
//! point. Which numbers a block's codes stand for, and which code a weight becomes.

use std::fmt;
use std::str::FromStr;

mod blocks;
mod exact;
mod feedback;
mod fit;
mod grid;
mod mixed;
mod model;

pub(crate) use blocks::Quantized;
pub(crate) use feedback::Feedback;
pub(crate) use fit::{Fitted, fit};
use grid::Grid;
pub(crate) use mixed::{probe, promote};
pub(crate) use model::{Recipe, StoredMatrices};

/// How the weights of matrices are stored. Norms and biases stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, of which ONNX Runtime makes 32-bit ones when it loads the graph: half the file, not half the memory.
    F16,
    /// 8 bits, symmetric.
    Int8,
    /// 4 bits and a zero point for each block; matrices that a perplexity asks for in 8.
    Int4,
}

impl WeightFormat {
    /// Whether matrices stay floats.
    pub(crate) fn is_float(self) -> bool {
        self.scheme().is_none()
    }

    /// The blocks of a matrix, unless it stays in floats.
    pub(crate) fn scheme(self) -> Option<Scheme> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 => Some(Scheme::INT8),
            Self::Int4 => Some(Scheme::INT4),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::F16, Self::Int8, Self::Int4];
        let found = known.into_iter().find(|format| format.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is not one of f32, f16, int8, int4"))
    }
}

/// How a 4-bit code is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// The nearest of its block's grid.
    Nearest,
    /// GPTQ: the code that, with those before it, is the least wrong on calibration texts.
    #[default]
    Feedback,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Feedback => "gptq",
        })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Nearest, Self::Feedback].into_iter().find(|method| method.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is not one of nearest, gptq"))
    }
}

/// How one matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// Bits of a code: 4 with zero points, or 8 around zero.
    pub(crate) bits: usize,
    /// Weights that share a scale, a power of two from 16.
    pub(crate) block: usize,
}

impl Scheme {
    pub(crate) const INT8: Self = Self { bits: 8, block: 32 };
    pub(crate) const INT4: Self = Self { bits: 4, block: 32 };

    /// Whether the matrix `name` with rows of `columns` can be stored like this. Looking up an embedding needs whole blocks;
    /// without them it stays in floats, and so does the head that it is tied to.
    pub(crate) fn applies_to(self, name: &str, columns: usize) -> bool {
        name != EMBEDDING || columns.is_multiple_of(self.block)
    }

    /// Bytes of the codes, scales and zero points of a matrix `[rows, columns]`, with scales of so many bytes.
    pub(crate) fn bytes(self, [rows, columns]: [usize; 2], scale: usize) -> u64 {
        let blocks = columns.div_ceil(self.block);
        let zeros = if self.has_zero_points() { (blocks * self.bits).div_ceil(8) } else { 0 };
        (rows * (blocks * (self.block * self.bits / 8 + scale) + zeros)) as u64
    }

    fn has_zero_points(self) -> bool {
        self.bits == 4
    }

    fn grid(self, block: &[f32], importance: &[f32]) -> Grid {
        if self.has_zero_points() { Grid::search(block, importance) } else { Grid::symmetric(block) }
    }
}

/// The embedding's name in a checkpoint.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Numbers of a bell-like shape around `middle`: sums of three taken from a multiplicative generator.
#[cfg(test)]
fn bell(count: usize, middle: f32) -> Vec<f32> {
    let mut state = 7_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform() + middle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ratios are those of a few lines of NumPy that compute the same from the formulas.
    #[test]
    fn the_search_beats_rounding_to_nearest() {
        for (middle, expected) in [(0.0, 0.921_39), (0.4, 0.889_25), (2.0, 0.932_01)] {
            let values = bell(96 * 64, middle);
            let squared = |after: &[f32]| values.iter().zip(after).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
            let searched = squared(&Quantized::nearest(&values, 96, Scheme::INT4).dequantize());
            let even = [1.0; 32];
            let nearest: f32 = values.chunks(32).map(|block| Grid::nearest(block).error(block, &even)).sum();
            let ratio = searched / nearest;
            assert!((ratio - expected).abs() < 2e-3, "{middle}: {ratio} instead of {expected}");
        }
    }

    #[test]
    fn an_embedding_without_whole_blocks_stays_as_it_is() {
        assert!(!Scheme::INT4.applies_to(EMBEDDING, 48));
        assert!(Scheme::INT4.applies_to(EMBEDDING, 64) && Scheme::INT4.applies_to("lm_head.weight", 48));
    }
}
