//! One row of activations, or a few that share the weights: every byte of these is read once, in the order of the file.

use std::arch::x86_64::*;

use crate::activations::{Activations, CHUNK, FEW, LANES};
use crate::blocks::Blocks;

/// How far ahead of the product codes are fetched, in bytes. The processor does not look beyond a page of 4096 by itself, and
/// in a mapped file every page is one of its own.
const AHEAD: usize = 4096;

/// Products of `count` rows of weights, at most 16, with `M` rows of activations from `at` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn dots<const M: usize>(
    weights: &Blocks<'_>,
    activations: &Activations,
    first: usize,
    count: usize,
    at: usize,
) -> [[f32; LANES]; M] {
    let mut sums = [[0.0; LANES]; M];
    let mut row = 0;
    // As many rows of weights as leave registers for the operands of all rows of activations.
    while M == 1 && row + 4 <= count {
        put(&mut sums, row, together::<4, M>(weights, activations, first + row, at));
        row += 4;
    }
    while row + 2 <= count {
        put(&mut sums, row, together::<2, M>(weights, activations, first + row, at));
        row += 2;
    }
    if row < count {
        put(&mut sums, row, together::<1, M>(weights, activations, first + row, at));
    }
    sums
}

fn put<const R: usize, const M: usize>(sums: &mut [[f32; LANES]; M], at: usize, some: [[f32; R]; M]) {
    for (sums, some) in sums.iter_mut().zip(some) {
        sums[at..at + R].copy_from_slice(&some);
    }
}

/// `R` rows of weights, which share the loads of the activations, and `M` rows of activations, which share the weights'.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn together<const R: usize, const M: usize>(
    weights: &Blocks<'_>,
    activations: &Activations,
    row: usize,
    at: usize,
) -> [[f32; R]; M] {
    let (bytes, blocks, zero_bytes) = (weights.columns / 2, weights.blocks(), weights.zero_bytes());
    assert!(row + R <= weights.rows && activations.columns == weights.columns && activations.size == weights.size);
    assert!(at + M <= activations.rows.min(FEW));
    let (stride, lanes) = (activations.stride(), activations.lanes());
    let (nibble, nothing) = (_mm512_set1_epi8(15), _mm512_setzero_si512());
    let per_chunk = CHUNK / weights.size;
    // The block of each lane within a chunk: a lane has four even and four odd columns.
    let lane_block = match per_chunk {
        4 => _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
        2 => _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
        _ => _mm512_setzero_si512(),
    };
    let zero_shift = _mm512_slli_epi32::<2>(lane_block);
    let mut sums = [[_mm512_setzero_ps(); M]; R];
    for row in row..row + R {
        // A prefetch of what is not there does nothing.
        let scales = weights.scales.as_ptr().wrapping_add((row + AHEAD.div_ceil(bytes)) * blocks);
        for line in (0..blocks).step_by(2 * LANES) {
            _mm_prefetch::<_MM_HINT_T0>(scales.wrapping_add(line).cast());
        }
    }
    for chunk in 0..activations.chunks() {
        let block = per_chunk * chunk;
        let here = (blocks - block).min(per_chunk);
        let byte_mask = u64::MAX >> (CHUNK / 2 - here * weights.size / 2);
        let scale_mask = (1_u8 << here) - 1;
        let (mut evens, mut odds, mut negated) = ([nothing; M], [nothing; M], [nothing; M]);
        let mut scales = [_mm512_setzero_ps(); M];
        // SAFETY: the lengths of all slices follow from the shapes that were checked when they were made (`Blocks::new`,
        // `Activations::reset`); masks leave out what is past the end of a row.
        unsafe {
            for m in 0..M {
                let codes = activations.codes.as_ptr().add((at + m) * stride + CHUNK * chunk);
                let lane = (at + m) * lanes + LANES * chunk;
                evens[m] = _mm512_loadu_si512(codes.cast());
                odds[m] = _mm512_loadu_si512(codes.add(CHUNK / 2).cast());
                scales[m] = _mm512_loadu_ps(activations.lane_scales.as_ptr().add(lane));
                negated[m] = _mm512_loadu_si512(activations.lane_sums.as_ptr().add(lane).cast());
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let row = row + index;
                let packed = weights.codes.as_ptr().add(row * bytes + CHUNK / 2 * chunk);
                _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(AHEAD).cast());
                let packed = _mm512_maskz_loadu_epi8(byte_mask, packed.cast());
                let low = _mm512_and_si512(packed, nibble);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), nibble);
                let zeros = match weights.zeros {
                    None => _mm512_set1_epi32(8),
                    Some(zeros) => {
                        let zeros = zeros.as_ptr().add(row * zero_bytes + block / 2);
                        let mut word = i32::from(*zeros) >> (4 * (block % 2));
                        if here > 2 {
                            word |= i32::from(*zeros.add(1)) << 8;
                        }
                        let spread = _mm512_srlv_epi32(_mm512_set1_epi32(word), zero_shift);
                        _mm512_and_si512(spread, _mm512_set1_epi32(15))
                    }
                };
                let scale = _mm_maskz_loadu_epi16(scale_mask, weights.scales.as_ptr().add(row * blocks + block).cast());
                let scale = _mm512_cvtph_ps(_mm256_zextsi128_si256(scale));
                let scale = _mm512_permutexvar_ps(lane_block, scale);
                for m in 0..M {
                    let product = _mm512_dpwssd_epi32(nothing, zeros, negated[m]);
                    let product = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(product, low, evens[m]), high, odds[m]);
                    let scale = _mm512_mul_ps(scale, scales[m]);
                    sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, sums[m]);
                }
            }
        }
    }
    let mut totals = [[0.0; R]; M];
    for (index, sums) in sums.into_iter().enumerate() {
        for (totals, sum) in totals.iter_mut().zip(sums) {
            totals[index] = _mm512_reduce_add_ps(sum);
        }
    }
    totals
}
