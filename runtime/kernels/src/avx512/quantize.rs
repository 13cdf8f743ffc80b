//! Activations rounded to 8 bits.

use std::arch::x86_64::*;

use crate::activations::{CHUNK, Row};

/// Rounds a row to multiples of a 127th of its largest magnitude, block by block, and the blocks' sums behind it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
        let mut sum = _mm512_setzero_ps();
        for values in values.as_chunks::<16>().0 {
            sum = _mm512_add_ps(sum, load(values));
        }
        *total = _mm512_reduce_add_ps(sum);
    }
    let first = x.len() / size;
    for (index, values) in tail.chunks_exact(size).enumerate() {
        (scales[first + index], sums[first + index]) = block(values, (first + index) * size, codes);
    }
}

/// Rounds the block that begins at `column` and returns its scale and the sum of its codes, negated.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn block(values: &[f32], column: usize, codes: &mut [i8]) -> (f32, i32) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    let mut most = _mm512_setzero_ps();
    for values in values.as_chunks::<16>().0 {
        most = _mm512_max_ps(most, _mm512_abs_ps(load(values)));
    }
    let most = _mm512_reduce_max_ps(most);
    let inverse = _mm512_set1_ps(if most > 0.0 { 127.0 / most } else { 0.0 });
    let mut sum = _mm512_setzero_si512();
    for (part, values) in values.as_chunks::<32>().0.iter().enumerate() {
        let (low, high) = values.split_at(16);
        let (low, high) = (load(low), load(high));
        let round = |picked| _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_permutex2var_ps(low, picked, high), inverse));
        let (evens, odds) = (round(even), round(odd));
        sum = _mm512_add_epi32(sum, _mm512_add_epi32(evens, odds));
        let at = Row::place(column + part * 32);
        store(&mut codes[at..at + 16], _mm512_cvtsepi32_epi8(evens));
        store(&mut codes[at + CHUNK / 2..at + CHUNK / 2 + 16], _mm512_cvtsepi32_epi8(odds));
    }
    (most / 127.0, -_mm512_reduce_add_epi32(sum))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(values: &[f32]) -> __m512 {
    debug_assert!(values.len() == 16);
    // SAFETY: callers pass 16 floats.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(codes: &mut [i8], values: __m128i) {
    debug_assert!(codes.len() == 16);
    // SAFETY: callers pass 16 bytes.
    unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), values) }
}
