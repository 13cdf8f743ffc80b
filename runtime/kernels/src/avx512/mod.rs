//! AVX-512 with VNNI: four products of bytes to a lane, sixteen lanes to an instruction.
//!
//! Weights are unsigned codes, activations signed ones; the weights' zero points come in through the sums of the
//! activations. A piece of work is a strip of up to 32 outputs, which exactly one thread writes.
#![expect(
    unsafe_code,
    reason = "vector loads and stores take pointers, and threads write disjoint strips of one output"
)]

mod gate;
mod matrix;
mod quantize;
mod row;

use std::cell::RefCell;

use crate::activations::{Activations, LANES, Scratch};
use crate::blocks::Blocks;
use crate::linear::{Parallel, Pieces};
use matrix::Panel;

/// Proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel(());

/// A product to compute.
pub(crate) struct Job<'a> {
    weights: &'a [Blocks<'a>],
    residual: Option<&'a [f32]>,
    gated: bool,
    out: *mut f32,
    /// Length of a row of the output.
    outputs: usize,
    /// Strips of each row of activations.
    strips: usize,
}

// SAFETY: `out` is exclusively borrowed for 'a, and every strip of it is written by the one thread that took it.
unsafe impl Sync for Job<'_> {}

/// Up to 32 outputs: two panels of up to 16 rows of weights, and where their products go.
struct Strip<'a> {
    /// Matrix, its first row, and how many rows; none in a second panel that is not there.
    panels: [(&'a Blocks<'a>, usize, usize); 2],
    /// First output.
    at: usize,
}

/// Strips that a thread takes at once when there is one row of activations: about 10 microseconds of work.
const ROW_STRIPS: usize = 8;

/// Rows of activations that a thread rounds at once.
const QUANTIZE_ROWS: usize = 16;

impl<'a> Job<'a> {
    pub(crate) fn linear(
        weights: &'a [Blocks<'a>],
        residual: Option<&'a [f32]>,
        out: &'a mut [f32],
        outputs: usize,
    ) -> Self {
        let strips = weights.iter().map(|matrix| matrix.rows.div_ceil(2 * LANES)).sum();
        Self { weights, residual, gated: false, out: out.as_mut_ptr(), outputs, strips }
    }

    pub(crate) fn gated(weights: &'a [Blocks<'a>; 2], out: &'a mut [f32]) -> Self {
        let outputs = weights[0].rows;
        let strips = outputs.div_ceil(LANES);
        Self { weights, residual: None, gated: true, out: out.as_mut_ptr(), outputs, strips }
    }

    fn strip(&self, mut index: usize) -> Strip<'a> {
        if self.gated {
            let at = index * LANES;
            let rows = LANES.min(self.outputs - at);
            return Strip { panels: [(&self.weights[0], at, rows), (&self.weights[1], at, rows)], at };
        }
        let (mut matrix, mut before) = (&self.weights[0], 0);
        for next in self.weights {
            matrix = next;
            let strips = matrix.rows.div_ceil(2 * LANES);
            if index < strips {
                break;
            }
            index -= strips;
            before += matrix.rows;
        }
        let first = index * 2 * LANES;
        let rows = (2 * LANES).min(matrix.rows - first);
        let panels = [(matrix, first, rows.min(LANES)), (matrix, first + LANES, rows.saturating_sub(LANES))];
        Strip { panels, at: before + first }
    }

    /// Writes what the two panels gave for row `row` of the activations.
    fn write(&self, strip: &Strip<'_>, row: usize, sums: [[f32; LANES]; 2]) {
        let at = row * self.outputs + strip.at;
        let [(_, _, first), (_, _, second)] = strip.panels;
        // SAFETY: the strip's outputs are inside the row, and nobody else writes them.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.out.add(at), if self.gated { first } else { first + second })
        };
        if self.gated {
            // SAFETY: a job is run by a Kernel, which is made only where the features are.
            let gated = unsafe { gate::gated(sums[0], sums[1]) };
            out.copy_from_slice(&gated[..first]);
            return;
        }
        for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
            *out = *sum;
        }
        if let Some(residual) = self.residual {
            for (out, residual) in out.iter_mut().zip(&residual[at..]) {
                *out += residual;
            }
        }
    }
}

thread_local! {
    /// Sixteen rows of weights each, unpacked: of a size that stays in the nearest caches.
    static PANELS: RefCell<[Panel; 2]> = RefCell::default();
}

impl Kernel {
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }

    pub(crate) fn run(self, job: &Job<'_>, x: &[f32], rows: usize, scratch: &mut Scratch, parallel: &dyn Parallel) {
        let Some(first) = job.weights.first() else { return };
        let activations = &mut scratch.activations;
        activations.reset(rows, first.columns, first.size);
        match rows {
            0 => return,
            1 => {
                let Activations { size, codes, scales, sums, .. } = &mut *activations;
                // SAFETY: a Kernel is made only where the features are.
                unsafe { quantize::row(x, *size, codes, scales, sums) };
                activations.spread();
            }
            _ => quantize(activations, x, parallel),
        }
        let activations = &*activations;
        let strips = Pieces::new(job.strips);
        if rows == 1 {
            parallel.run(&|| {
                while let Some(range) = strips.take(ROW_STRIPS) {
                    for index in range {
                        let strip = job.strip(index);
                        // SAFETY: a Kernel is made only where the features are.
                        let sums = strip
                            .panels
                            .map(|(matrix, first, count)| unsafe { row::dots(matrix, activations, first, count) });
                        job.write(&strip, 0, sums);
                    }
                }
            });
            return;
        }
        parallel.run(&|| {
            PANELS.with_borrow_mut(|panels| {
                while let Some(range) = strips.take(1) {
                    for index in range {
                        let strip = job.strip(index);
                        for (panel, (matrix, first, count)) in panels.iter_mut().zip(strip.panels) {
                            // SAFETY: a Kernel is made only where the features are.
                            unsafe { panel.unpack(matrix, first, count) };
                        }
                        // SAFETY: as above.
                        unsafe { matrix::product(activations, panels, &mut |row, sums| job.write(&strip, row, sums)) };
                    }
                }
            });
        });
    }
}

/// Rounds many rows, by many threads.
fn quantize(activations: &mut Activations, x: &[f32], parallel: &dyn Parallel) {
    let (rows, columns, size) = (activations.rows, activations.columns, activations.size);
    let (stride, blocks) = (activations.stride(), activations.blocks());
    let target = Target {
        codes: activations.codes.as_mut_ptr(),
        scales: activations.scales.as_mut_ptr(),
        sums: activations.sums.as_mut_ptr(),
    };
    let pieces = Pieces::new(rows);
    parallel.run(&|| {
        let target = &target;
        while let Some(range) = pieces.take(QUANTIZE_ROWS) {
            for row in range {
                // SAFETY: every row is taken once, and the buffers have room for all rows. A Kernel is made only where
                // the features are.
                unsafe {
                    quantize::row(
                        &x[row * columns..][..columns],
                        size,
                        std::slice::from_raw_parts_mut(target.codes.add(row * stride), stride),
                        std::slice::from_raw_parts_mut(target.scales.add(row * blocks), blocks),
                        std::slice::from_raw_parts_mut(target.sums.add(row * blocks), blocks),
                    );
                }
            }
        }
    });
}

/// Buffers of which every thread writes other rows.
struct Target {
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
}

// SAFETY: the pointers are used for disjoint rows only.
unsafe impl Sync for Target {}
