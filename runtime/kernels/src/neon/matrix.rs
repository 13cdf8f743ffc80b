//! Many rows of activations: 16 rows of weights are unpacked once and used for all of them.

use std::arch::aarch64::*;

use super::dot::{dot_lane, widen as widen_four};
use crate::activations::{Activations, CHUNK, LANES, Row};
use crate::panel::Panel;

/// Vectors of four lanes that 16 rows of weights take.
const VECTORS: usize = LANES / 4;

/// Numbers of half precision, 4 at a time.
#[target_feature(enable = "neon")]
pub(super) fn widen(halves: &[[u16; LANES]], to: &mut [[f32; LANES]]) {
    for (halves, to) in
        halves.as_flattened().as_chunks::<4>().0.iter().zip(to.as_flattened_mut().as_chunks_mut::<4>().0)
    {
        // SAFETY: four of either.
        unsafe { vst1q_f32(to.as_mut_ptr(), widen_four(vld1_u16(halves.as_ptr()))) };
    }
}

/// Products of all rows of activations with both panels; `write` gets a row's index and its products.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn product(activations: &Activations, panels: &[Panel; 2], write: &mut dyn FnMut(usize, [[f32; LANES]; 2])) {
    let mut row = 0;
    while row + TILE <= activations.rows {
        let [first, second] = [tile::<TILE>(activations, row, &panels[0]), tile::<TILE>(activations, row, &panels[1])];
        for (index, sums) in first.into_iter().zip(second).enumerate() {
            write(row + index, sums.into());
        }
        row += TILE;
    }
    while row < activations.rows {
        let [[first], [second]] = [tile::<1>(activations, row, &panels[0]), tile::<1>(activations, row, &panels[1])];
        write(row, [first, second]);
        row += 1;
    }
}

/// Rows of activations at once: eight sums of integers and eight of floats, which leaves 16 registers of 32 for the operands.
const TILE: usize = 2;

/// Columns whose activations, evens and odds apart, two vectors hold.
const STEP: usize = 32;

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn tile<const M: usize>(activations: &Activations, first: usize, panel: &Panel) -> [[f32; LANES]; M] {
    let (blocks, stride) = (activations.blocks(), activations.stride());
    assert!(first + M <= activations.rows && panel.zeros.len() >= blocks);
    assert!(panel.codes.len() >= activations.columns * LANES && panel.scales.len() >= blocks);
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; M];
    // SAFETY: rows and panel are as long as was just checked, and every offset below is within a row.
    unsafe {
        let rows: [*const i8; M] = std::array::from_fn(|row| activations.codes.as_ptr().add((first + row) * stride));
        for block in 0..blocks {
            let mut products: [[int32x4_t; VECTORS]; M] = std::array::from_fn(|row| {
                let negated = *activations.sums.get_unchecked((first + row) * blocks + block);
                each(|v| vmulq_n_s32(vld1q_s32(panel.zeros[block].as_ptr().add(4 * v)), negated))
            });
            for column in (block * activations.size..(block + 1) * activations.size).step_by(STEP) {
                let at = Row::place(column);
                let mut codes = panel.codes.as_ptr().add(LANES * column).cast::<i8>();
                let fours = rows.map(|row| [vld1q_s8(row.add(at)), vld1q_s8(row.add(at + CHUNK / 2))]);
                // For each eight columns the even ones of all lanes, then the odd ones.
                macro_rules! eight {
                    ($lane:literal) => {
                        for half in 0..2 {
                            let weights = each(|v| vld1q_s8(codes.add(16 * v)));
                            for (products, fours) in products.iter_mut().zip(&fours) {
                                *products = each(|v| dot_lane::<$lane>(products[v], weights[v], fours[half]));
                            }
                            codes = codes.add(4 * LANES);
                        }
                    };
                }
                eight!(0);
                eight!(1);
                eight!(2);
                eight!(3);
            }
            let scales = each(|v| vld1q_f32(panel.scales[block].as_ptr().add(4 * v)));
            for (row, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = *activations.scales.get_unchecked((first + row) * blocks + block);
                *sums = each(|v| vfmaq_f32(sums[v], vcvtq_f32_s32(products[v]), vmulq_n_f32(scales[v], scale)));
            }
        }
    }
    sums.map(|sums| {
        let mut values = [0.0; LANES];
        for (values, sum) in values.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: four floats go where there is room for four.
            unsafe { vst1q_f32(values.as_mut_ptr(), sum) };
        }
        values
    })
}

/// The same for each vector of 16 lanes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn each<T>(of: impl Fn(usize) -> T) -> [T; VECTORS] {
    [of(0), of(1), of(2), of(3)]
}
