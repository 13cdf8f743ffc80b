//! One row of activations at a time: every byte of the weights is read once, in the order of the file.

use std::arch::x86_64::*;

use super::quantize::lanes;
use crate::activations::{Activations, CHUNK, FEW, LANES};
use crate::blocks::Blocks;

/// How far ahead of the product codes are fetched, in bytes. The processor does not look beyond a page of 4096 by itself, and
/// in a mapped file every page is one of its own.
const AHEAD: usize = 4096;

/// Products of `count` rows of weights, at most 16, with one row of activations.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dots(
    weights: &Blocks<'_>,
    activations: &Activations,
    first: usize,
    count: usize,
    at: usize,
) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    let mut row = 0;
    while row + 4 <= count {
        sums[row..row + 4].copy_from_slice(&together::<4>(weights, activations, first + row, at));
        row += 4;
    }
    while row < count {
        sums[row..=row].copy_from_slice(&together::<1>(weights, activations, first + row, at));
        row += 1;
    }
    sums
}

/// `R` rows at once, which share the loads of the activations.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn together<const R: usize>(weights: &Blocks<'_>, activations: &Activations, row: usize, at: usize) -> [f32; R] {
    let (bytes, blocks, zero_bytes) = (weights.columns / 2, weights.blocks(), weights.zero_bytes());
    assert!(row + R <= weights.rows && activations.columns == weights.columns && activations.size == weights.size);
    assert!(at < activations.rows.min(FEW));
    let (code, lane) = (at * activations.stride(), at * activations.lanes());
    let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    // Half a chunk at a time: 32 bytes of weights, 64 columns. The block of each lane, counted from the half's first.
    let per_half = (CHUNK / 2).div_ceil(weights.size);
    let lane_block = match per_half {
        2 => _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1),
        _ => _mm256_setzero_si256(),
    };
    let zero_shift = _mm256_slli_epi32::<2>(lane_block);
    let mut sums = [_mm256_setzero_ps(); R];
    for half in 0..(2 * weights.columns).div_ceil(CHUNK) {
        let column = half * CHUNK / 2;
        let block = column / weights.size;
        let here = (weights.columns - column).min(CHUNK / 2);
        let scales_here = (blocks - block).min(per_half);
        let place = column / CHUNK * CHUNK + column % CHUNK / 2;
        // SAFETY: the lengths of all slices follow from the shapes that were checked when they were made (`Blocks::new`,
        // `Activations::reset`); what is past the end of a row is not loaded.
        unsafe {
            let codes = activations.codes.as_ptr().add(code + place);
            let evens = _mm256_loadu_si256(codes.cast());
            let odds = _mm256_loadu_si256(codes.add(CHUNK / 2).cast());
            let lane = lane + LANES / 2 * half;
            let scales = _mm256_loadu_ps(activations.lane_scales.as_ptr().add(lane));
            let negated = _mm256_loadu_si256(activations.lane_sums.as_ptr().add(lane).cast());
            for (index, sum) in sums.iter_mut().enumerate() {
                let row = row + index;
                let packed = weights.codes.as_ptr().add(row * bytes + column / 2);
                _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(AHEAD).cast());
                let packed = if here == CHUNK / 2 {
                    _mm256_loadu_si256(packed.cast())
                } else {
                    _mm256_zextsi128_si256(_mm_loadu_si128(packed.cast()))
                };
                let low = _mm256_and_si256(packed, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble);
                let zeros = match weights.zeros {
                    None => _mm256_set1_epi32(8),
                    Some(zeros) => {
                        let word = i32::from(zeros[row * zero_bytes + block / 2]) >> (4 * (block % 2));
                        let spread = _mm256_srlv_epi32(_mm256_set1_epi32(word), zero_shift);
                        _mm256_and_si256(spread, _mm256_set1_epi32(15))
                    }
                };
                let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, evens), _mm256_maddubs_epi16(high, odds));
                let product = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), _mm256_madd_epi16(zeros, negated));
                let scale = weights.scales.as_ptr().add(row * blocks + block).cast::<u16>();
                let second = if scales_here == 2 { *scale.add(1) } else { 0 };
                let scale = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(*scale) | i32::from(second) << 16));
                let scale = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(scale), lane_block);
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), _mm256_mul_ps(scale, scales), *sum);
            }
        }
    }
    sums.map(|sum| lanes(sum).iter().sum())
}
