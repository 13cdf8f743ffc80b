//! Products of activations with 4-bit weights, in the instructions of the processor at hand.
//!
//! ```
//! use half::f16;
//! use margay_kernels::{Blocks, Linear, Scratch, Serial};
//!
//! // One matrix of 2 x 32: every code 9, zero point 8, scale 0.5 per block, so that every weight is 0.5.
//! let (codes, scales) = ([0x99; 32], [f16::from_f32(0.5).to_le_bytes(); 2]);
//! let weights = Blocks::new([2, 32], 32, &codes, &scales, None)?;
//! if let Some(linear) = Linear::new() {
//!     let mut out = [0.0; 2];
//!     linear.multiply(&[weights], None, &[1.0; 32], &mut out, &mut Scratch::default(), &Serial)?;
//!     assert_eq!(out, [16.0, 16.0]);
//! }
//! # Ok::<(), margay_kernels::ShapeError>(())
//! ```
//!
//! The weights lie as ONNX Runtime's `MatMulNBits` reads them, but for scales in half precision, and are used in place: nothing
//! is packed at load, no copy is kept. Activations are rounded to 8 bits, block by block, as `MatMulNBits` does at accuracy level 4.
//!
//! A row at a time ([`Linear`] with one row of activations: decode) streams the codes once, which is all that memory
//! allows. Many rows (prefill) unpack 16 rows of weights at a time into the order in which the product takes them, and
//! use them for every row of activations.
//!
//! | processor | instructions |
//! | --- | --- |
//! | x86-64 | AVX-512 with VNNI; AVX2 with FMA |
//! | aarch64 | NEON with the dot product |
//! | others | none yet: [`Linear::new`] gives `None` |

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod job;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
mod pieces;

pub use activations::Scratch;
pub use blocks::{Blocks, ShapeError};
pub use linear::{Linear, Parallel, Serial};
