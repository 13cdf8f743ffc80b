//! Rows of weights as a product with many rows of activations takes them.

use crate::activations::LANES;
use crate::blocks::Blocks;
use crate::job::Kernel;

/// Sixteen rows of weights, unpacked, one to a lane. Rows that are not there are zeros.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    /// For each eight columns: 16 lanes of the four even ones, then of the four odd ones.
    pub(crate) codes: Vec<u8>,
    /// `[blocks, 16]`.
    pub(crate) scales: Vec<[f32; LANES]>,
    /// `[blocks, 16]`.
    pub(crate) zeros: Vec<[i32; LANES]>,
    /// The scales as they lie in the file.
    halves: Vec<[u16; LANES]>,
}

impl Panel {
    /// Makes room for rows of the matrix and takes the grids of `count` of them from `first` on. The codes are up to the
    /// caller.
    pub(crate) fn reset(&mut self, kernel: impl Kernel, weights: &Blocks<'_>, first: usize, count: usize) {
        let (blocks, zero_bytes) = (weights.blocks(), weights.zero_bytes());
        assert!(count <= LANES && first + count <= weights.rows);
        self.codes.resize(weights.columns * LANES, 0);
        self.scales.resize(blocks, [0.0; LANES]);
        self.zeros.resize(blocks, [0; LANES]);
        self.halves.clear();
        // Scales of zero make all products zero, whatever the codes.
        self.halves.resize(blocks, [0; LANES]);
        for row in 0..count {
            let scales = &weights.scales[(first + row) * blocks..][..blocks];
            for (halves, scale) in self.halves.iter_mut().zip(scales) {
                halves[row] = u16::from_le_bytes(*scale);
            }
            let Some(zeros) = weights.zeros else { continue };
            let zeros = &zeros[(first + row) * zero_bytes..][..zero_bytes];
            for (pair, byte) in self.zeros.chunks_mut(2).zip(zeros) {
                for (zeros, zero) in pair.iter_mut().zip([byte & 15, byte >> 4]) {
                    zeros[row] = zero.into();
                }
            }
        }
        if weights.zeros.is_none() {
            self.zeros.fill([8; LANES]);
        }
        kernel.widen(&self.halves, &mut self.scales);
    }

    /// Takes the codes of these rows too, four bytes at a time: for instructions that have no better way.
    pub(crate) fn unpack(&mut self, weights: &Blocks<'_>, first: usize, count: usize) {
        const LOW: u32 = 0x0f0f_0f0f;
        let bytes = weights.columns / 2;
        for row in 0..count {
            let fours = weights.codes[(first + row) * bytes..][..bytes].as_chunks::<4>().0;
            for (four, eight) in fours.iter().zip(self.codes.chunks_exact_mut(8 * LANES)) {
                let four = u32::from_le_bytes(*four);
                eight[4 * row..][..4].copy_from_slice(&(four & LOW).to_le_bytes());
                eight[4 * (LANES + row)..][..4].copy_from_slice(&(four >> 4 & LOW).to_le_bytes());
            }
        }
    }
}
