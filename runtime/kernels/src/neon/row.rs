//! One row of activations at a time: every byte of the weights is read once, in the order of the file.

use std::arch::aarch64::*;

use super::dot::{dot, widen};
use crate::activations::{Activations, CHUNK, LANES, Row};
use crate::blocks::Blocks;

/// Products of `count` rows of weights, at most 16, with one row of activations.
#[target_feature(enable = "neon,dotprod")]
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

/// Columns whose weights, two to a byte, a vector holds.
const STEP: usize = 32;

/// `R` rows at once, which share the loads of the activations.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn together<const R: usize>(weights: &Blocks<'_>, activations: &Activations, row: usize, at: usize) -> [f32; R] {
    let (bytes, blocks) = (weights.columns / 2, weights.blocks());
    assert!(row + R <= weights.rows && activations.columns == weights.columns && activations.size == weights.size);
    assert!(at < activations.rows);
    let nibble = vdupq_n_u8(15);
    let mut sums = [vdupq_n_f32(0.0); R];
    for block in 0..blocks {
        let (scale, negated) = (activations.scales[at * blocks + block], activations.sums[at * blocks + block]);
        // What the zero points take away is one lane's.
        let mut products: [int32x4_t; R] = std::array::from_fn(|index| {
            vsetq_lane_s32::<0>(weights.zero(row + index, block) * negated, vdupq_n_s32(0))
        });
        for column in (block * weights.size..(block + 1) * weights.size).step_by(STEP) {
            // SAFETY: the lengths of all slices follow from the shapes that were checked when they were made (`Blocks::new`,
            // `Activations::reset`); blocks are whole steps.
            unsafe {
                let codes = activations.codes.as_ptr().add(at * activations.stride() + Row::place(column));
                let (evens, odds) = (vld1q_s8(codes), vld1q_s8(codes.add(CHUNK / 2)));
                for (index, products) in products.iter_mut().enumerate() {
                    let packed = vld1q_u8(weights.codes.as_ptr().add((row + index) * bytes + column / 2));
                    let low = vreinterpretq_s8_u8(vandq_u8(packed, nibble));
                    let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(packed));
                    *products = dot(dot(*products, low, evens), high, odds);
                }
            }
        }
        for (index, (sum, products)) in sums.iter_mut().zip(products).enumerate() {
            let half = u16::from_le_bytes(weights.scales[(row + index) * blocks + block]);
            let both = vmulq_n_f32(widen(vdup_n_u16(half)), scale);
            *sum = vfmaq_f32(*sum, vcvtq_f32_s32(products), both);
        }
    }
    sums.map(|sum| vaddvq_f32(sum))
}
