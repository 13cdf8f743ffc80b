//! The gate of a feed-forward layer.

use std::arch::x86_64::*;

use crate::activations::LANES;

/// `silu(gate) * up`, where `silu(v) = v / (1 + exp(-v))`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn gated(gate: [f32; LANES], up: [f32; LANES]) -> [f32; LANES] {
    let mut product = [0.0; LANES];
    for half in [0, LANES / 2] {
        // SAFETY: eight floats from either half on.
        unsafe {
            let gate = _mm256_loadu_ps(gate.as_ptr().add(half));
            let below = _mm256_add_ps(_mm256_set1_ps(1.0), exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
            let silu = _mm256_div_ps(gate, below);
            let up = _mm256_loadu_ps(up.as_ptr().add(half));
            _mm256_storeu_ps(product.as_mut_ptr().add(half), _mm256_mul_ps(silu, up));
        }
    }
    product
}

/// `e^x` within 2 units in the last place, for `x` held within -87..88: beyond that a sum with one does not change.
///
/// `x = n ln 2 + r`, a polynomial for `e^r` (constants: `expf` of the Cephes library, Moshier 1984), and `2^n`.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn exp(x: __m256) -> __m256 {
    let set = |value| _mm256_set1_ps(value);
    let x = _mm256_max_ps(_mm256_min_ps(x, set(88.0)), set(-87.0));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        set(std::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, set(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let mut p = set(1.987_569_1e-4);
    for next in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm256_fmadd_ps(p, r, set(next));
    }
    let p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, set(1.0)));
    let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    _mm256_mul_ps(p, _mm256_castsi256_ps(exponent))
}
