//! Activations rounded to 8 bits.

use std::arch::x86_64::*;

use crate::activations::{CHUNK, Row};

/// Rounds a row to multiples of a 127th of its largest magnitude, block by block, and the blocks' sums behind it.
#[target_feature(enable = "avx2,fma")]
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
        let mut sum = _mm256_setzero_ps();
        for values in values.as_chunks::<8>().0 {
            sum = _mm256_add_ps(sum, load(values));
        }
        *total = lanes(sum).iter().sum();
    }
    let first = x.len() / size;
    for (index, values) in tail.chunks_exact(size).enumerate() {
        (scales[first + index], sums[first + index]) = block(values, (first + index) * size, codes);
    }
}

/// Rounds the block that begins at `column` and returns its scale and the sum of its codes, negated.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn block(values: &[f32], column: usize, codes: &mut [i8]) -> (f32, i32) {
    let sign = _mm256_set1_ps(-0.0);
    let mut most = _mm256_setzero_ps();
    for values in values.as_chunks::<8>().0 {
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, load(values)));
    }
    let most = lanes(most).into_iter().fold(0.0, f32::max);
    let inverse = _mm256_set1_ps(if most > 0.0 { 127.0 / most } else { 0.0 });
    let mut sum = _mm256_setzero_si256();
    // Packing works in halves of a vector: fours of codes come as 0 2 4 6 1 3 5 7.
    let fours = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let even_first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    for (part, values) in values.as_chunks::<32>().0.iter().enumerate() {
        let round = |at: usize| _mm256_cvtps_epi32(_mm256_mul_ps(load(&values[at..at + 8]), inverse));
        let [a, b, c, d] = [round(0), round(8), round(16), round(24)];
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)));
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let packed = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(packed, fours), even_first);
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        let at = Row::place(column + part * 32);
        store(&mut codes[at..at + 16], _mm256_castsi256_si128(packed));
        store(&mut codes[at + CHUNK / 2..at + CHUNK / 2 + 16], _mm256_extracti128_si256::<1>(packed));
    }
    (most / 127.0, -integers(sum).iter().sum::<i32>())
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(values: &[f32]) -> __m256 {
    debug_assert!(values.len() == 8);
    // SAFETY: callers pass 8 floats.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(codes: &mut [i8], values: __m128i) {
    debug_assert!(codes.len() == 16);
    // SAFETY: callers pass 16 bytes.
    unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), values) }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn lanes(vector: __m256) -> [f32; 8] {
    let mut values = [0.0; 8];
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), vector) };
    values
}

#[target_feature(enable = "avx2")]
#[inline]
fn integers(vector: __m256i) -> [i32; 8] {
    let mut values = [0; 8];
    // SAFETY: eight integers.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), vector) };
    values
}
