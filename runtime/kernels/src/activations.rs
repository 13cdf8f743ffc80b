//! Activations in 8 bits: where they lie, and the buffers that outlive a call.
#![expect(unsafe_code, reason = "threads write disjoint rows of the same buffers")]

use std::marker::PhantomData;
use std::slice;

use crate::blocks::Blocks;

/// Columns whose codes lie together: 64 even ones, then 64 odd ones, as the two halves of a byte of weights need them.
pub(crate) const CHUNK: usize = 128;

/// Sums of four products each that a vector of 512 bits holds.
pub(crate) const LANES: usize = 16;

/// Most rows that are multiplied as a single one is, each to the same bits: a row of a batch is then what it is alone. More are
/// worth unpacking the weights for.
pub(crate) const FEW: usize = 8;

/// Buffers that one product after another uses, so that a warm call allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) activations: Activations,
}

/// Rows of activations, rounded block by block: activation = code x scale.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Columns that share a scale: those of the weights.
    pub(crate) size: usize,
    /// Last columns, which are sums of the blocks before them.
    block_sums: usize,
    /// `[rows, chunks, CHUNK]`, zero past the last column.
    pub(crate) codes: Vec<i8>,
    /// `[rows, blocks]`.
    pub(crate) scales: Vec<f32>,
    /// `[rows, blocks]`: the sum of the codes, negated. A product takes it times the weights' zero point.
    pub(crate) sums: Vec<i32>,
    /// `[rows, block sums]`, not yet rounded.
    tails: Vec<f32>,
    /// Of up to [`FEW`] rows, for each of 16 lanes of each chunk: the scale of the lane's block, `[rows, chunks, 16]`.
    pub(crate) lane_scales: Vec<f32>,
    /// The same for the sums, in the first lane of each block.
    pub(crate) lane_sums: Vec<i32>,
}

/// Where one rounded row goes.
pub(crate) struct Row<'a> {
    pub(crate) codes: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [i32],
    /// What the row's own blocks sum up to; empty if that is not wanted.
    pub(crate) tail: &'a mut [f32],
}

/// Where all rows go, for threads that write different ones.
pub(crate) struct RowsMut<'a> {
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
    tails: *mut f32,
    rows: usize,
    stride: usize,
    blocks: usize,
    tail: usize,
    activations: PhantomData<&'a mut Activations>,
}

// SAFETY: whoever takes a row promises to be the only one.
unsafe impl Sync for RowsMut<'_> {}

impl Activations {
    pub(crate) fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    pub(crate) fn blocks(&self) -> usize {
        self.columns / self.size
    }

    /// Codes of one row.
    pub(crate) fn stride(&self) -> usize {
        self.chunks() * CHUNK
    }

    /// Columns that come from outside.
    pub(crate) fn inputs(&self) -> usize {
        self.columns - self.block_sums
    }

    /// Makes room for `rows` rows that a matrix like `weights` is multiplied with.
    pub(crate) fn reset(&mut self, rows: usize, weights: &Blocks<'_>) {
        (self.rows, self.columns, self.size, self.block_sums) =
            (rows, weights.columns, weights.size, weights.block_sums);
        let (codes, blocks, lanes) = (rows * self.stride(), rows * self.blocks(), rows.min(FEW) * self.lanes());
        // Codes past the last column must be zero; what a block covers is written anew.
        self.codes.clear();
        self.codes.resize(codes, 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        self.tails.resize(rows * self.block_sums, 0.0);
        self.lane_scales.resize(lanes, 0.0);
        self.lane_sums.resize(lanes, 0);
    }

    /// Lanes of one row.
    pub(crate) fn lanes(&self) -> usize {
        self.chunks() * LANES
    }

    /// Spreads scales and sums of all rows, which are few, over lanes.
    pub(crate) fn spread(&mut self) {
        let (blocks, lanes, of_block) = (self.blocks(), self.lanes(), LANES * self.size / CHUNK);
        self.lane_sums.fill(0);
        self.lane_scales.fill(0.0);
        for row in 0..self.rows {
            for block in 0..blocks {
                let (from, to) = (row * blocks + block, row * lanes + block * of_block);
                self.lane_scales[to..][..of_block].fill(self.scales[from]);
                self.lane_sums[to] = self.sums[from];
            }
        }
    }

    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        RowsMut {
            codes: self.codes.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            tails: self.tails.as_mut_ptr(),
            rows: self.rows,
            stride: self.stride(),
            blocks: self.blocks(),
            tail: self.block_sums,
            activations: PhantomData,
        }
    }
}

impl<'a> RowsMut<'a> {
    /// One row.
    ///
    /// # Safety
    /// Nobody else has this row.
    pub(crate) unsafe fn row(&self, row: usize) -> Row<'a> {
        assert!(row < self.rows);
        // SAFETY: the buffers are exclusively borrowed for 'a and have room for all rows; the caller alone has this one.
        unsafe {
            Row {
                codes: slice::from_raw_parts_mut(self.codes.add(row * self.stride), self.stride),
                scales: slice::from_raw_parts_mut(self.scales.add(row * self.blocks), self.blocks),
                sums: slice::from_raw_parts_mut(self.sums.add(row * self.blocks), self.blocks),
                tail: slice::from_raw_parts_mut(self.tails.add(row * self.tail), self.tail),
            }
        }
    }
}

impl Row<'_> {
    /// Place of the even ones among 32 columns from `column` on; that of the odd ones is half a chunk behind it.
    pub(crate) fn place(column: usize) -> usize {
        column / CHUNK * CHUNK + column % CHUNK / 2
    }
}
