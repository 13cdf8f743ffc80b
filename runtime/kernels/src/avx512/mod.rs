//! AVX-512 with VNNI: four products of bytes to a lane, sixteen lanes to an instruction.
//!
//! Weights are unsigned codes, activations signed ones; the weights' zero points come in through the sums of the
//! activations.
#![expect(
    unsafe_code,
    reason = "vector loads and stores take pointers, and instructions need a processor that has them"
)]

mod gate;
mod matrix;
mod quantize;
mod row;

use crate::activations::{Activations, LANES, Row};
use crate::blocks::Blocks;
use crate::job::Kernel;
use crate::panel::Panel;

/// Proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }
}

impl Kernel for Avx512 {
    fn quantize(self, x: &[f32], size: usize, to: Row<'_>) {
        // SAFETY: an Avx512 is made only where the features are; so below.
        unsafe { quantize::row(x, size, to) }
    }

    fn dots<const M: usize>(
        self,
        weights: &Blocks<'_>,
        activations: &Activations,
        first: usize,
        count: usize,
        row: usize,
    ) -> [[f32; LANES]; M] {
        // SAFETY: as above.
        unsafe { row::dots(weights, activations, first, count, row) }
    }

    fn widen(self, halves: &[[u16; LANES]], to: &mut [[f32; LANES]]) {
        // SAFETY: as above.
        unsafe { matrix::widen(halves, to) }
    }

    fn unpack(self, panel: &mut Panel, weights: &Blocks<'_>, first: usize, count: usize) {
        panel.reset(self, weights, first, count);
        // SAFETY: as above.
        unsafe { matrix::unpack(panel, weights, first, count) }
    }

    fn product(self, activations: &Activations, panels: &[Panel; 2], write: &mut dyn FnMut(usize, [[f32; LANES]; 2])) {
        // SAFETY: as above.
        unsafe { matrix::product(activations, panels, write) }
    }

    fn gated(self, gate: [f32; LANES], up: [f32; LANES]) -> [f32; LANES] {
        // SAFETY: as above.
        unsafe { gate::gated(gate, up) }
    }
}
