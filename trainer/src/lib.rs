//! Cascade-aware training of small language models.
//!
//! A small model that will sit on a device in front of a large one need not know everything: what neither of the
//! two can predict is noise to it, and what only the large one can is worth deferring. This crate trains it for that
//! place.
//!
//! ```
//! use margay_trainer::{Architecture, CausalLm, Device};
//!
//! let architecture = Architecture::llama(320, 32, 64, 1, 2, 1);
//! let model = CausalLm::random(&architecture, 7, &Device::flex())?;
//! let logits = model.logits(&[1, 2, 3]);
//! assert_eq!((logits.len(), logits[0].len()), (3, 320));
//! # Ok::<(), margay_trainer::Error>(())
//! ```
//!
//! ```text
//! files -> Corpus -> Encoded -> train(xent) -> large CausalLm -> Annotations --+
//!                       |                                                     v
//!                       +-------------------------------------------> train(cat-xent) -> small CausalLm -> Checkpoint
//! ```
//!
//! [`data`] reads and batches, [`Annotations`] is what the large model thinks of every target token,
//! [`objective`] has the formulas, [`training`] takes the steps, [`Recipe`] is a whole run in a file, and [`Checkpoint`]
//! the layout on disk, which Hugging Face transformers reads and writes.

pub mod annotate;
mod architecture;
mod checkpoint;
mod config;
mod conversation;
pub mod data;
mod error;
mod files;
mod gguf;
pub mod intents;
mod lora;
mod model;
pub mod objective;
mod parameters;
pub mod quality;
pub mod recipe;
mod rewrite;
mod shards;
mod tokenizer;
pub mod training;
mod weights;

pub use annotate::{Annotations, CacheInfo, Journal, LocalTeacher, Record, Spent, TeacherBatch};
pub use architecture::{Activation, Architecture, LayerType, Llama3Scaling, SlidingLayers};
pub use burn::tensor::Device;
pub use checkpoint::Checkpoint;
pub use conversation::Conversation;
pub use error::{Error, ErrorKind, Result};
pub use lora::LoraOptions;
pub use model::{Attention, CausalLm, Decoder, Layer, Mlp, Segments, TargetScore, argmax};
pub use objective::Objective;
pub use parameters::{MatrixHook, transposed};
pub use recipe::Recipe;
pub use rewrite::{Matrix, Moments};
pub use tokenizer::{CHAT_TEMPLATE, Tokenizer};
pub use training::{Session, StepReport, TrainOptions, Training, Work, train};
pub use weights::Weights;
