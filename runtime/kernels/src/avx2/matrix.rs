//! Many rows of activations: 16 rows of weights are unpacked once and used for all of them.

use std::arch::x86_64::*;

use crate::activations::{Activations, CHUNK, LANES, Row};
use crate::panel::Panel;

/// Numbers of half precision, 8 at a time.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen(halves: &[[u16; LANES]], to: &mut [[f32; LANES]]) {
    for (halves, to) in
        halves.as_flattened().as_chunks::<8>().0.iter().zip(to.as_flattened_mut().as_chunks_mut::<8>().0)
    {
        // SAFETY: eight of either.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) };
    }
}

/// Products of all rows of activations with both panels; `write` gets a row's index and its products.
#[target_feature(enable = "avx2,fma")]
pub(super) fn product(activations: &Activations, panels: &[Panel; 2], write: &mut dyn FnMut(usize, [[f32; LANES]; 2])) {
    let mut row = 0;
    while row + TILE <= activations.rows {
        let [first, second] = [tile::<TILE>(activations, row, &panels[0]), tile::<TILE>(activations, row, &panels[1])];
        for (index, sums) in first.into_iter().zip(second).enumerate() {
            write(row + index, sums.into());
        }
        row += TILE;
    }
    if row < activations.rows {
        let [[first], [second]] = [tile::<1>(activations, row, &panels[0]), tile::<1>(activations, row, &panels[1])];
        write(row, [first, second]);
    }
}

/// Rows of activations at once: four sums of integers and four of floats, which leaves 8 registers of 16 for the operands.
const TILE: usize = 2;

/// Columns whose products, two of eight to a lane of 16 bits, do not overflow: 8 x 2 x 15 x 127 is below 2^15.
const STEP: usize = 32;

#[target_feature(enable = "avx2,fma")]
#[inline]
fn tile<const M: usize>(activations: &Activations, first: usize, panel: &Panel) -> [[f32; LANES]; M] {
    let (blocks, stride) = (activations.blocks(), activations.stride());
    assert!(first + M <= activations.rows && panel.zeros.len() >= blocks);
    assert!(panel.codes.len() >= activations.columns * LANES && panel.scales.len() >= blocks);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: rows and panel are as long as was just checked, and every offset below is within a row.
    unsafe {
        let rows: [*const i8; M] = std::array::from_fn(|row| activations.codes.as_ptr().add((first + row) * stride));
        for block in 0..blocks {
            let zeros = halves(|h| _mm256_loadu_si256(panel.zeros[block].as_ptr().add(8 * h).cast()));
            let mut products: [[__m256i; 2]; M] = std::array::from_fn(|row| {
                let negated = _mm256_set1_epi32(*activations.sums.get_unchecked((first + row) * blocks + block));
                halves(|h| _mm256_madd_epi16(zeros[h], negated))
            });
            for column in (block * activations.size..(block + 1) * activations.size).step_by(STEP) {
                let (codes, at) = (panel.codes.as_ptr().add(LANES * column), Row::place(column));
                let mut pairs = [[_mm256_setzero_si256(); 2]; M];
                for eight in 0..STEP / 8 {
                    for (odd, offset) in [(0, 0), (4 * LANES, CHUNK / 2)] {
                        let weights =
                            halves(|h| _mm256_loadu_si256(codes.add(8 * LANES * eight + odd + 32 * h).cast()));
                        for (row, pairs) in rows.iter().zip(&mut pairs) {
                            let four = row.add(at + offset + 4 * eight).cast::<i32>().read_unaligned();
                            let four = _mm256_set1_epi32(four);
                            *pairs = halves(|h| _mm256_add_epi16(pairs[h], _mm256_maddubs_epi16(weights[h], four)));
                        }
                    }
                }
                for (products, pairs) in products.iter_mut().zip(pairs) {
                    *products = halves(|h| _mm256_add_epi32(products[h], _mm256_madd_epi16(pairs[h], ones)));
                }
            }
            let scales = halves(|h| _mm256_loadu_ps(panel.scales[block].as_ptr().add(8 * h)));
            for (row, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = _mm256_set1_ps(*activations.scales.get_unchecked((first + row) * blocks + block));
                *sums = halves(|h| {
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[h]), _mm256_mul_ps(scales[h], scale), sums[h])
                });
            }
        }
    }
    sums.map(|sums| {
        let mut values = [0.0; LANES];
        for (values, sum) in values.chunks_exact_mut(8).zip(sums) {
            // SAFETY: eight floats go where there is room for eight.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), sum) };
        }
        values
    })
}

/// The same for either half of 16 lanes.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn halves<T>(of: impl Fn(usize) -> T) -> [T; 2] {
    [of(0), of(1)]
}
