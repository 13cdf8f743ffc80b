//! A matrix of 4-bit weights as it lies in a file.

use std::fmt;

use half::f16;

/// A matrix `[rows, columns]` in blocks along a row: weight = (code - zero point) x scale.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Weights that share a scale.
    pub(crate) size: usize,
    /// Last columns, which multiply the sums of the blocks of the input.
    pub(crate) block_sums: usize,
    /// `[rows, columns / 2]`; the earlier column is in the lower half of a byte.
    pub(crate) codes: &'a [u8],
    /// `[rows, blocks]`, half precision, little-endian.
    pub(crate) scales: &'a [[u8; 2]],
    /// `[rows, ceil(blocks / 2)]`, packed like codes; without them every zero point is 8.
    pub(crate) zeros: Option<&'a [u8]>,
}

impl<'a> Blocks<'a> {
    /// Block sizes that the kernels know.
    pub const SIZES: [usize; 3] = [32, 64, 128];

    /// A matrix of `shape` `[rows, columns]` with `size` weights to a block.
    ///
    /// `codes` are `[rows, columns / 2]` bytes, the earlier column in the lower half; `scales` are `[rows, blocks]` numbers of
    /// half precision, little-endian; `zeros` are `[rows, ceil(blocks / 2)]` bytes, and 8 if absent.
    ///
    /// # Errors
    /// [`ShapeError`] if a length does not follow from the shape, or the columns are not whole blocks of a known size.
    pub fn new(
        [rows, columns]: [usize; 2],
        size: usize,
        codes: &'a [u8],
        scales: &'a [[u8; 2]],
        zeros: Option<&'a [u8]>,
    ) -> Result<Self, ShapeError> {
        if !Self::SIZES.contains(&size) || columns == 0 || !columns.is_multiple_of(size) || columns > MAX_COLUMNS {
            return Err(ShapeError { what: "columns", expected: size, actual: columns });
        }
        let blocks = columns / size;
        expect("codes", rows.checked_mul(columns / 2), codes.len())?;
        expect("scales", rows.checked_mul(blocks), scales.len())?;
        if let Some(zeros) = zeros {
            expect("zero points", rows.checked_mul(blocks.div_ceil(2)), zeros.len())?;
        }
        Ok(Self { rows, columns, size, block_sums: 0, codes, scales, zeros })
    }

    /// The same matrix, whose last `count` columns multiply the sums of the input's blocks, in their order and then zeros:
    /// what a zero point that is no whole number needs. An input is then `count` columns narrower than the matrix.
    ///
    /// # Errors
    /// [`ShapeError`] if these are not whole blocks, or fewer than the input has.
    pub fn with_block_sums(self, count: usize) -> Result<Self, ShapeError> {
        let inputs = self.columns.saturating_sub(count);
        let enough = count == 0 || count >= inputs / self.size;
        if !count.is_multiple_of(self.size) || inputs == 0 || !enough {
            return Err(ShapeError { what: "sums of blocks", expected: inputs / self.size, actual: count });
        }
        Ok(Self { block_sums: count, ..self })
    }

    /// Number of outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns that an input has.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.columns - self.block_sums
    }

    /// The weights of one row, `[columns]`, as a lookup wants them.
    ///
    /// # Errors
    /// [`ShapeError`] if there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<(), ShapeError> {
        if row >= self.rows {
            return Err(ShapeError { what: "rows", expected: self.rows, actual: row });
        }
        expect("outputs", Some(self.columns), out.len())?;
        let codes = &self.codes[row * self.columns / 2..][..self.columns / 2];
        for (block, (out, codes)) in out.chunks_exact_mut(self.size).zip(codes.chunks_exact(self.size / 2)).enumerate()
        {
            let (scale, zero) = (self.scale(row, block), self.zero(row, block));
            let weight = |code: u8| (i32::from(code) - zero) as f32 * scale;
            for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                *pair = [weight(byte & 15), weight(byte >> 4)];
            }
        }
        Ok(())
    }

    pub(crate) fn blocks(&self) -> usize {
        self.columns / self.size
    }

    /// Bytes of zero points in a row.
    pub(crate) fn zero_bytes(&self) -> usize {
        self.blocks().div_ceil(2)
    }

    /// Zero point of a block.
    pub(crate) fn zero(&self, row: usize, block: usize) -> i32 {
        self.zeros.map_or(8, |zeros| i32::from(zeros[row * self.zero_bytes() + block / 2] >> (4 * (block % 2)) & 15))
    }

    /// Scale of a block.
    pub(crate) fn scale(&self, row: usize, block: usize) -> f32 {
        f16::from_le_bytes(self.scales[row * self.blocks() + block]).to_f32()
    }
}

/// Keeps offsets into 16 rows within the 32 bits that a gather takes.
const MAX_COLUMNS: usize = 1 << 24;

pub(crate) fn expect(what: &'static str, expected: Option<usize>, actual: usize) -> Result<(), ShapeError> {
    match expected {
        Some(expected) if expected == actual => Ok(()),
        _ => Err(ShapeError { what, expected: expected.unwrap_or(usize::MAX), actual }),
    }
}

/// Shapes that do not go together. The fault of whoever made the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeError {
    pub(crate) what: &'static str,
    pub(crate) expected: usize,
    pub(crate) actual: usize,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, expected, actual } = self;
        write!(f, "{actual} {what} where {expected}, or blocks of it, are needed")
    }
}

impl std::error::Error for ShapeError {}
