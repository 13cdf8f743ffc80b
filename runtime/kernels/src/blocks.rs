//! A matrix of 4-bit weights as it lies in a file.

use std::fmt;

/// A matrix `[rows, columns]` in blocks along a row: weight = (code - zero point) x scale.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Weights that share a scale.
    pub(crate) size: usize,
    /// `[rows, columns / 2]`; the earlier column is in the lower half of a byte.
    pub(crate) codes: &'a [u8],
    /// `[rows, blocks]`.
    pub(crate) scales: &'a [f32],
    /// `[rows, ceil(blocks / 2)]`, packed like codes; without them every zero point is 8.
    pub(crate) zeros: Option<&'a [u8]>,
}

impl<'a> Blocks<'a> {
    /// Block sizes that the kernels know.
    pub const SIZES: [usize; 3] = [32, 64, 128];

    /// A matrix of `shape` `[rows, columns]` with `size` weights to a block.
    ///
    /// `codes` are `[rows, columns / 2]` bytes, the earlier column in the lower half; `scales` are `[rows, blocks]`;
    /// `zeros` are `[rows, ceil(blocks / 2)]` bytes, and 8 if absent.
    ///
    /// # Errors
    /// [`ShapeError`] if a length does not follow from the shape, or the columns are not whole blocks of a known size.
    pub fn new(
        [rows, columns]: [usize; 2],
        size: usize,
        codes: &'a [u8],
        scales: &'a [f32],
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
        Ok(Self { rows, columns, size, codes, scales, zeros })
    }

    /// Number of outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
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
