//! What an utterance wants: a classifier of hashed n-grams with 8-bit weights, for microcontrollers.
//!
//! ```
//! use margay_intents::{Classifier, Parts};
//!
//! // Four buckets, two hidden units, two intents; a trained one has thousands of buckets and lies in flash.
//! let classifier = Classifier::new(Parts {
//!     intents: &["turn on", "turn off"],
//!     hidden: 2,
//!     embedding: &[1, 255, 255, 1, 1, 255, 255, 1], // bytes of i8: 255 is -1
//!     embedding_scale: 0.5,
//!     output: &[1, 0, 0, 1],
//!     output_scales: &[1.0, 1.0],
//!     biases: &[0.0, 0.0],
//! })?;
//! let mut logits = [0.0; 2];
//! let intent = classifier.classify("lights on, please", &mut logits)?;
//! println!("{}: {logits:?}", classifier.intents()[intent]);
//! # Ok::<(), margay_intents::ShapeError>(())
//! ```
//!
//! ```text
//!  utterance         n-grams of words       hidden units, exact       logits
//!  UTF-8 bytes --> and of letters, hashed --> sums of 8-bit rows --> ReLU, 8-bit matrix --> one scale each
//!                     grams()                  i32 [hidden]            i32 [intents]       f32 [intents]
//! ```
//!
//! Everything before the logits is integers, and a logit is one conversion, one division, one multiplication and one addition
//! in `f32`: the same bits on every target. `margay_policy::TokenSignals` reads confidence off the logits. The trainer
//! learns on the same [`grams`], which is why they are here and not there.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod classifier;
mod grams;

pub use classifier::{Classifier, MAX_HIDDEN, Parts, ShapeError};
pub use grams::{MAX_GRAMS, grams};
