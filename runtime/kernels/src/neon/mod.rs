//! NEON with the dot product: four products of signed bytes to a lane, four lanes to an instruction.
//!
//! Weights are codes below 16, which a signed byte holds as well as an unsigned one; their zero points come in through the sums
//! of the activations. The instruction itself is written down as such: Rust has no stable name for it.
#![expect(
    unsafe_code,
    reason = "vector loads and stores take pointers, and instructions need a processor that has them"
)]

mod dot;
mod gate;
mod matrix;
mod quantize;
mod row;

use std::arch::is_aarch64_feature_detected;

use crate::activations::{Activations, LANES, Row};
use crate::blocks::Blocks;
use crate::job::Kernel;
use crate::panel::Panel;

/// Proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        let all = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        all.then_some(Self(()))
    }
}

impl Kernel for Neon {
    fn quantize(self, x: &[f32], size: usize, to: Row<'_>) {
        // SAFETY: a Neon is made only where the features are; so below.
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
