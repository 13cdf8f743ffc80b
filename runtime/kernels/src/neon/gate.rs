//! The gate of a feed-forward layer.

use std::arch::aarch64::*;

use crate::activations::LANES;

/// `silu(gate) * up`, where `silu(v) = v / (1 + exp(-v))`.
#[target_feature(enable = "neon")]
pub(super) fn gated(gate: [f32; LANES], up: [f32; LANES]) -> [f32; LANES] {
    let mut product = [0.0; LANES];
    for four in (0..LANES).step_by(4) {
        // SAFETY: four floats from each fourth on.
        unsafe {
            let gate = vld1q_f32(gate.as_ptr().add(four));
            let below = vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(gate)));
            let silu = vdivq_f32(gate, below);
            let up = vld1q_f32(up.as_ptr().add(four));
            vst1q_f32(product.as_mut_ptr().add(four), vmulq_f32(silu, up));
        }
    }
    product
}

/// `e^x` within 2 units in the last place, for `x` held within -87..88: beyond that a sum with one does not change.
///
/// `x = n ln 2 + r`, a polynomial for `e^r` (constants: `expf` of the Cephes library, Moshier 1984), and `2^n`.
#[target_feature(enable = "neon")]
#[inline]
fn exp(x: float32x4_t) -> float32x4_t {
    let set = |value| vdupq_n_f32(value);
    let x = vmaxq_f32(vminq_f32(x, set(88.0)), set(-87.0));
    let n = vrndnq_f32(vmulq_f32(x, set(std::f32::consts::LOG2_E)));
    let r = vfmsq_f32(x, n, set(0.693_359_4));
    let r = vfmsq_f32(r, n, set(-2.121_944_4e-4));
    let mut p = set(1.987_569_1e-4);
    for next in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = vfmaq_f32(set(next), p, r);
    }
    let p = vfmaq_f32(vaddq_f32(r, set(1.0)), p, vmulq_f32(r, r));
    let exponent = vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)));
    vmulq_f32(p, vreinterpretq_f32_s32(exponent))
}
