//! Activations in 8 bits: where they lie, and the buffers that outlive a call.

/// Columns whose codes lie together: 64 even ones, then 64 odd ones, as the two halves of a byte of weights need them.
pub(crate) const CHUNK: usize = 128;

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
    /// `[rows, chunks, CHUNK]`, zero past the last column.
    pub(crate) codes: Vec<i8>,
    /// `[rows, blocks]`.
    pub(crate) scales: Vec<f32>,
    /// `[rows, blocks]`: the sum of the codes, negated. A product takes it times the weights' zero point.
    pub(crate) sums: Vec<i32>,
    /// Of a single row, for each of 16 lanes of each chunk: the scale of the lane's block.
    pub(crate) lane_scales: Vec<f32>,
    /// The same for the sums, in the first lane of each block.
    pub(crate) lane_sums: Vec<i32>,
}

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

    /// Makes room for `rows` rows.
    pub(crate) fn reset(&mut self, rows: usize, columns: usize, size: usize) {
        (self.rows, self.columns, self.size) = (rows, columns, size);
        let (codes, blocks, lanes) = (rows * self.stride(), rows * self.blocks(), self.chunks() * LANES);
        // Codes past the last column must be zero; what a block covers is written anew.
        self.codes.clear();
        self.codes.resize(codes, 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        self.lane_scales.resize(lanes, 0.0);
        self.lane_sums.resize(lanes, 0);
    }

    /// Spreads scales and sums of the first row over lanes.
    pub(crate) fn spread(&mut self) {
        let lanes = LANES * self.size / CHUNK;
        self.lane_sums.fill(0);
        self.lane_scales.fill(0.0);
        for block in 0..self.blocks() {
            self.lane_scales[block * lanes..][..lanes].fill(self.scales[block]);
            self.lane_sums[block * lanes] = self.sums[block];
        }
    }
}

/// Sums of four products each that a vector of 512 bits holds.
pub(crate) const LANES: usize = 16;
