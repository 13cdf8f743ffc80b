//! AVX2 with FMA: pairs of products of bytes to 16 bits, then to 32.
//!
//! Weights are unsigned codes below 16, activations signed ones: eight such products fit in 16 bits.
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
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let all =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    fn quantize(self, x: &[f32], size: usize, to: Row<'_>) {
        // SAFETY: an Avx2 is made only where the features are; so below.
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
        unsafe { std::array::from_fn(|index| row::dots(weights, activations, first, count, row + index)) }
    }

    fn widen(self, halves: &[[u16; LANES]], to: &mut [[f32; LANES]]) {
        // SAFETY: as above.
        unsafe { matrix::widen(halves, to) }
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
