//! A product in pieces that threads take, whatever the instructions.
//!
//! A piece is a strip of up to 32 outputs, which exactly one thread writes, for all rows of activations.
#![expect(unsafe_code, reason = "threads write disjoint strips of one output")]

use std::cell::RefCell;

use crate::activations::{Activations, FEW, LANES, Row, Scratch};
use crate::blocks::Blocks;
use crate::linear::Parallel;
use crate::panel::Panel;
use crate::pieces::Pieces;

/// The instructions of a kind of processor, and the proof that this one has them.
pub(crate) trait Kernel: Copy + Sync {
    /// Rounds a row of activations to multiples of a 127th of each block's largest magnitude, and, if they are wanted, the
    /// sums of its blocks behind it.
    fn quantize(self, x: &[f32], size: usize, to: Row<'_>);

    /// Products of `count` rows of weights, at most 16, with `M` rows of activations from `row` on, each as if it were alone.
    fn dots<const M: usize>(
        self,
        weights: &Blocks<'_>,
        activations: &Activations,
        first: usize,
        count: usize,
        row: usize,
    ) -> [[f32; LANES]; M];

    /// Numbers of half precision, 16 at a time.
    fn widen(self, halves: &[[u16; LANES]], to: &mut [[f32; LANES]]);

    /// Takes `count` rows of the matrix, at most 16, from `first` on.
    fn unpack(self, panel: &mut Panel, weights: &Blocks<'_>, first: usize, count: usize) {
        panel.reset(self, weights, first, count);
        panel.unpack(weights, first, count);
    }

    /// Products of all rows of activations with both panels; `write` gets a row's index and its products.
    fn product(self, activations: &Activations, panels: &[Panel; 2], write: &mut dyn FnMut(usize, [[f32; LANES]; 2]));

    /// `silu(gate) * up`, where `silu(v) = v / (1 + exp(-v))`.
    fn gated(self, gate: [f32; LANES], up: [f32; LANES]) -> [f32; LANES];
}

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

/// Strips of a single row of activations that a thread takes at once: about 10 microseconds of work. No less than [`FEW`].
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

    /// Computes the product with `rows` rows of activations.
    pub(crate) fn run<K: Kernel>(
        &self,
        kernel: K,
        x: &[f32],
        rows: usize,
        scratch: &mut Scratch,
        parallel: &dyn Parallel,
    ) {
        let Some(first) = self.weights.first() else { return };
        let activations = &mut scratch.activations;
        activations.reset(rows, first);
        match rows {
            0 => return,
            1..=FEW => {
                let (width, size, target) = (activations.inputs(), activations.size, activations.rows_mut());
                for row in 0..rows {
                    // SAFETY: nobody else has the rows.
                    kernel.quantize(&x[row * width..][..width], size, unsafe { target.row(row) });
                }
                activations.spread();
            }
            _ => quantize(kernel, activations, x, parallel),
        }
        let activations = &*activations;
        let strips = Pieces::new(self.strips);
        if rows <= FEW {
            parallel.run(&|| {
                while let Some(range) = strips.take(ROW_STRIPS / rows) {
                    for strip in range.map(|index| self.strip(index)) {
                        let mut row = 0;
                        while row + 4 <= rows {
                            self.dots::<K, 4>(kernel, activations, &strip, row);
                            row += 4;
                        }
                        if row + 2 <= rows {
                            self.dots::<K, 2>(kernel, activations, &strip, row);
                            row += 2;
                        }
                        if row < rows {
                            self.dots::<K, 1>(kernel, activations, &strip, row);
                        }
                    }
                }
            });
            return;
        }
        parallel.run(&|| {
            PANELS.with_borrow_mut(|panels| {
                while let Some(range) = strips.take(1) {
                    for strip in range.map(|index| self.strip(index)) {
                        for (panel, (matrix, first, count)) in panels.iter_mut().zip(strip.panels) {
                            kernel.unpack(panel, matrix, first, count);
                        }
                        kernel.product(activations, panels, &mut |row, sums| self.write(kernel, &strip, row, sums));
                    }
                }
            });
        });
    }

    /// A strip of `M` rows of activations from `row` on.
    fn dots<K: Kernel, const M: usize>(&self, kernel: K, activations: &Activations, strip: &Strip<'_>, row: usize) {
        let [first, second] =
            strip.panels.map(|(matrix, first, count)| kernel.dots::<M>(matrix, activations, first, count, row));
        for (index, sums) in first.into_iter().zip(second).enumerate() {
            self.write(kernel, strip, row + index, sums.into());
        }
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
        let panels = [(matrix, first, rows.min(LANES)), (matrix, first + rows.min(LANES), rows.saturating_sub(LANES))];
        Strip { panels, at: before + first }
    }

    /// Writes what the two panels gave for row `row` of the activations.
    fn write(&self, kernel: impl Kernel, strip: &Strip<'_>, row: usize, sums: [[f32; LANES]; 2]) {
        let at = row * self.outputs + strip.at;
        let [(_, _, first), (_, _, second)] = strip.panels;
        // SAFETY: the strip's outputs are inside the row, and nobody else writes them.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.out.add(at), if self.gated { first } else { first + second })
        };
        if self.gated {
            out.copy_from_slice(&kernel.gated(sums[0], sums[1])[..first]);
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

/// Rounds many rows, by many threads.
fn quantize(kernel: impl Kernel, activations: &mut Activations, x: &[f32], parallel: &dyn Parallel) {
    let (rows, width, size) = (activations.rows, activations.inputs(), activations.size);
    let target = activations.rows_mut();
    let pieces = Pieces::new(rows);
    parallel.run(&|| {
        while let Some(range) = pieces.take(QUANTIZE_ROWS) {
            for row in range {
                // SAFETY: every row is taken once.
                kernel.quantize(&x[row * width..][..width], size, unsafe { target.row(row) });
            }
        }
    });
}
