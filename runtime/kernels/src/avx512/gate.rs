//! The gate of a feed-forward layer.

use std::arch::x86_64::*;

use crate::activations::LANES;

/// `silu(gate) * up`, where `silu(v) = v / (1 + exp(-v))`.
#[target_feature(enable = "avx512f")]
pub(super) fn gated(gate: [f32; LANES], up: [f32; LANES]) -> [f32; LANES] {
    let mut product = [0.0; LANES];
    // SAFETY: all three are sixteen floats.
    unsafe {
        let gate = _mm512_loadu_ps(gate.as_ptr());
        let below = _mm512_add_ps(_mm512_set1_ps(1.0), exp(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
        let silu = _mm512_div_ps(gate, below);
        _mm512_storeu_ps(product.as_mut_ptr(), _mm512_mul_ps(silu, _mm512_loadu_ps(up.as_ptr())));
    }
    product
}

/// `e^x` within 2 units in the last place; infinity above 88.7, zero far below.
///
/// `x = n ln 2 + r`, a polynomial for `e^r` (constants: `expf` of the Cephes library, Moshier 1984), and `2^n`.
#[target_feature(enable = "avx512f")]
#[inline]
fn exp(x: __m512) -> __m512 {
    let set = |value| _mm512_set1_ps(value);
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        x,
        set(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, set(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let mut p = set(1.987_569_1e-4);
    for next in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm512_fmadd_ps(p, r, set(next));
    }
    let p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, set(1.0)));
    _mm512_scalef_ps(p, n)
}
