//! Many rows of activations: 16 rows of weights are unpacked once and used for all of them.

use std::arch::x86_64::*;

use crate::activations::{Activations, CHUNK, LANES};
use crate::blocks::Blocks;
use crate::panel::Panel;

/// Takes the codes of `count` rows of the matrix, at most 16, from `first` on, into a panel with room for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn unpack(panel: &mut Panel, weights: &Blocks<'_>, first: usize, count: usize) {
    if count == 0 {
        return;
    }
    let bytes = weights.columns / 2;
    let mask = u16::MAX >> (LANES - count);
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let (nibble, nothing) = (_mm512_set1_epi8(15), _mm512_setzero_si512());
    // SAFETY: lanes under the mask are rows of the matrix, whose lengths `Blocks::new` checked; 16 rows of at most
    // 2^24 columns stay within 32-bit offsets. The panel was sized above.
    unsafe {
        let rows = _mm512_mullo_epi32(lane, _mm512_set1_epi32(bytes as i32));
        let packed = weights.codes.as_ptr().add(first * bytes);
        for eight in 0..weights.columns / 8 {
            let eights = _mm512_mask_i32gather_epi32::<1>(nothing, mask, rows, packed.add(4 * eight).cast());
            let to = panel.codes.as_mut_ptr().add(8 * LANES * eight);
            _mm512_storeu_si512(to.cast(), _mm512_and_si512(eights, nibble));
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(eights), nibble);
            _mm512_storeu_si512(to.add(4 * LANES).cast(), high);
        }
    }
}

/// Numbers of half precision, 16 at a time.
#[target_feature(enable = "avx512f")]
pub(super) fn widen(halves: &[[u16; LANES]], to: &mut [[f32; LANES]]) {
    for (halves, to) in halves.iter().zip(to) {
        // SAFETY: sixteen of either.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()))) };
    }
}

/// Products of all rows of activations with both panels; `write` gets a row's index and its products.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn product(activations: &Activations, panels: &[Panel; 2], write: &mut dyn FnMut(usize, [[f32; LANES]; 2])) {
    let mut row = 0;
    while row + TILE <= activations.rows {
        tile::<TILE>(activations, row, panels, write);
        row += TILE;
    }
    while row + 2 <= activations.rows {
        tile::<2>(activations, row, panels, write);
        row += 2;
    }
    if row < activations.rows {
        tile::<1>(activations, row, panels, write);
    }
}

/// Rows of activations at once: 12 sums of integers and 12 of floats, which leaves 8 registers of 32 for the operands.
const TILE: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn tile<const M: usize>(
    activations: &Activations,
    first: usize,
    panels: &[Panel; 2],
    write: &mut dyn FnMut(usize, [[f32; LANES]; 2]),
) {
    let (blocks, stride) = (activations.blocks(), activations.stride());
    assert!(first + M <= activations.rows);
    for panel in panels {
        assert!(panel.codes.len() >= activations.columns * LANES && panel.scales.len() >= blocks);
    }
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: rows and panels are as long as was just checked, and every offset below is within a row.
    unsafe {
        let rows: [*const i8; M] = std::array::from_fn(|row| activations.codes.as_ptr().add((first + row) * stride));
        for block in 0..blocks {
            let column = block * activations.size;
            let at = column / CHUNK * CHUNK + column % CHUNK / 2;
            let zeros = both(|p| _mm512_loadu_si512(panels[p].zeros[block].as_ptr().cast()));
            let codes = both(|p| panels[p].codes.as_ptr().add(LANES * column));
            let mut products: [[__m512i; 2]; M] = std::array::from_fn(|row| {
                let negated = _mm512_set1_epi32(*activations.sums.get_unchecked((first + row) * blocks + block));
                both(|p| _mm512_dpwssd_epi32(_mm512_setzero_si512(), zeros[p], negated))
            });
            for eight in 0..activations.size / 8 {
                for (half, offset) in [(0, 0), (4 * LANES, CHUNK / 2)] {
                    let weights = both(|p| _mm512_loadu_si512(codes[p].add(8 * LANES * eight + half).cast()));
                    for (row, products) in rows.iter().zip(&mut products) {
                        let four = row.add(at + offset + 4 * eight).cast::<i32>().read_unaligned();
                        let four = _mm512_set1_epi32(four);
                        *products = both(|p| _mm512_dpbusd_epi32(products[p], weights[p], four));
                    }
                }
            }
            let scales = both(|p| _mm512_loadu_ps(panels[p].scales[block].as_ptr()));
            for (row, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = _mm512_set1_ps(*activations.scales.get_unchecked((first + row) * blocks + block));
                *sums = both(|p| {
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[p]), _mm512_mul_ps(scales[p], scale), sums[p])
                });
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let mut values = [[0.0; LANES]; 2];
        for (values, sum) in values.iter_mut().zip(sums) {
            // SAFETY: sixteen floats go where there is room for sixteen.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), *sum) };
        }
        write(first + row, values);
    }
}

/// The same for either panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn both<T>(of: impl Fn(usize) -> T) -> [T; 2] {
    [of(0), of(1)]
}
