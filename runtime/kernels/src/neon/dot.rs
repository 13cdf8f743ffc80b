//! Instructions without a stable name in Rust.

use std::arch::aarch64::*;
use std::arch::asm;

/// Adds to each lane the sum of four products of bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn dot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone, and the processor has the instruction.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Adds to each lane the sum of four products of bytes with the four of one lane of `b`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn dot_lane<const LANE: i32>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone, and the processor has the instruction.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Four numbers of half precision, in the lower halves of the lanes.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: registers alone; every processor with NEON has the instruction.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = out(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}
