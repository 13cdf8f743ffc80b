//! Activations rounded to 8 bits.

use std::arch::aarch64::*;

use crate::activations::{CHUNK, Row};

/// Rounds a row to multiples of a 127th of its largest magnitude, block by block, and the blocks' sums behind it.
#[target_feature(enable = "neon")]
pub(super) fn row(x: &[f32], size: usize, to: Row<'_>) {
    let Row { codes, scales, sums, tail } = to;
    for (index, values) in x.chunks_exact(size).enumerate() {
        (scales[index], sums[index]) = block(values, index * size, codes);
    }
    if tail.is_empty() {
        return;
    }
    tail.fill(0.0);
    for (total, values) in tail.iter_mut().zip(x.chunks_exact(size)) {
        let mut sum = vdupq_n_f32(0.0);
        for values in values.as_chunks::<4>().0 {
            sum = vaddq_f32(sum, load(values));
        }
        *total = vaddvq_f32(sum);
    }
    let first = x.len() / size;
    for (index, values) in tail.chunks_exact(size).enumerate() {
        (scales[first + index], sums[first + index]) = block(values, (first + index) * size, codes);
    }
}

/// Rounds the block that begins at `column` and returns its scale and the sum of its codes, negated.
#[target_feature(enable = "neon")]
#[inline]
fn block(values: &[f32], column: usize, codes: &mut [i8]) -> (f32, i32) {
    let mut most = vdupq_n_f32(0.0);
    for values in values.as_chunks::<4>().0 {
        most = vmaxq_f32(most, vabsq_f32(load(values)));
    }
    let most = vmaxvq_f32(most);
    let inverse = vdupq_n_f32(if most > 0.0 { 127.0 / most } else { 0.0 });
    let mut sum = vdupq_n_s32(0);
    for (part, values) in values.as_chunks::<32>().0.iter().enumerate() {
        // Of eight numbers the even ones and the odd ones.
        let mut rounded = [[vdupq_n_s32(0); 4]; 2];
        for (index, eight) in values.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: eight floats.
            let float32x4x2_t(evens, odds) = unsafe { vld2q_f32(eight.as_ptr()) };
            for (rounded, values) in rounded.iter_mut().zip([evens, odds]) {
                rounded[index] = vcvtnq_s32_f32(vmulq_f32(values, inverse));
                sum = vaddq_s32(sum, rounded[index]);
            }
        }
        let at = Row::place(column + part * 32);
        for (offset, [a, b, c, d]) in [0, CHUNK / 2].into_iter().zip(rounded) {
            let low = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
            let high = vcombine_s16(vqmovn_s32(c), vqmovn_s32(d));
            store(&mut codes[at + offset..at + offset + 16], vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        }
    }
    (most / 127.0, -vaddvq_s32(sum))
}

#[target_feature(enable = "neon")]
#[inline]
fn load(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: four floats.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn store(codes: &mut [i8], values: int8x16_t) {
    debug_assert!(codes.len() == 16);
    // SAFETY: callers pass 16 bytes.
    unsafe { vst1q_s8(codes.as_mut_ptr(), values) }
}
