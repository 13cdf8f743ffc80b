//! The key-values of several sequences in one set of buffers, a row each, and the decode step of all of them.
//!
//! The attention mask says how long each sequence is, as it does for a single one. Rows without a sequence are computed along
//! with the others: what they hold is nobody's.

use std::fmt;
use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::super::dimensions::{Dimensions, past_name, present_name};
use super::super::gate::Gate;
use super::super::interrupt::Interrupt;
use super::super::session::{Decoder, inference};
use crate::error::{Error, ErrorKind, Result};

/// What a row computes in a step: the token it is given, and how many it has before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    pub(super) token: u32,
    pub(super) before: usize,
}

impl Input {
    /// Of a row without a sequence.
    pub(super) const NOBODY: Self = Self { token: 0, before: 0 };
}

/// A sequence that keeps its key-values when rows are arranged anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) tokens: usize,
}

pub(super) struct Rows {
    session: Arc<Gate<Session>>,
    dimensions: Dimensions,
    binding: IoBinding,
    /// A step belongs to several requests, so none of them ends it.
    never: Interrupt,
    /// `[rows, heads, room, head size]` each: of every layer the keys, then the values.
    buffers: Vec<Tensor<f32>>,
    /// `input_ids`, `[rows, 1]`.
    tokens: Tensor<i64>,
    /// `[rows, 1, vocabulary]`.
    logits: Tensor<f32>,
    rows: usize,
    /// Tokens that each row has room for.
    room: usize,
}

impl Rows {
    /// No rows yet, on the session of `decoder`.
    pub(super) fn new(decoder: &Decoder) -> Result<Self> {
        let session = Arc::clone(decoder.session());
        let (binding, dimensions) = (session.run(|session| session.create_binding()), decoder.dimensions().clone());
        Ok(Self {
            binding: binding.map_err(inference)?,
            never: Interrupt::never()?,
            buffers: Vec::new(),
            tokens: tensor([0, 1])?,
            logits: tensor([0, 1, dimensions.vocabulary])?,
            rows: 0,
            room: 0,
            session,
            dimensions,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Makes it `rows` rows with room for `room` tokens each, and moves what is kept.
    ///
    /// Buffer by buffer, so that there is never more than one twice. When memory runs out on the way there are no rows.
    pub(super) fn arrange(&mut self, rows: usize, room: usize, kept: &[Kept]) -> Result<()> {
        let (old_rows, old_room, old) = (self.rows, self.room, std::mem::take(&mut self.buffers));
        (self.rows, self.room) = (0, 0);
        self.binding.clear();
        self.tokens = tensor([rows, 1])?;
        self.logits = tensor([rows, 1, self.dimensions.vocabulary])?;
        // First of all outputs: ort returns them in the order of binding.
        self.binding.bind_output("logits", &mut self.logits).map_err(inference)?;
        self.binding.bind_input("input_ids", &self.tokens).map_err(inference)?;
        if self.dimensions.scoring {
            self.binding.bind_input("targets", &tensor::<i64, 2>([rows, 0])?).map_err(inference)?;
            self.binding.bind_output("log_probabilities", &mut tensor::<f32, 2>([rows, 0])?).map_err(inference)?;
        }
        let shape = [rows, self.dimensions.key_value_heads, room, self.dimensions.head_size];
        let names = self.dimensions.caches(past_name).zip(self.dimensions.caches(present_name));
        let mut old = old.into_iter();
        for (past, present) in names {
            let mut buffer = tensor::<f32, 4>(shape)?;
            if let Some(old) = old.next() {
                let (_, from) = old.try_extract_tensor::<f32>().map_err(inference)?;
                let (_, to) = buffer.try_extract_tensor_mut::<f32>().map_err(inference)?;
                for kept in kept.iter().filter(|kept| kept.from < old_rows && kept.to < rows) {
                    self.dimensions.copy((from, kept.from, old_room), (to, kept.to, room), kept.tokens);
                }
            }
            self.binding.bind_input(past, &buffer).map_err(inference)?;
            self.binding.bind_output(present, &mut buffer).map_err(inference)?;
            self.buffers.push(buffer);
        }
        (self.rows, self.room) = (rows, room);
        Ok(())
    }

    /// Makes the sequence of `decoder` that of `row`, which has room for it.
    pub(super) fn take(&mut self, row: usize, decoder: &Decoder) -> Result<()> {
        let (Some((from, from_room)), true) = (decoder.shared(), decoder.tokens().len() <= self.room) else {
            return Err(Error::new(ErrorKind::Inference, "a sequence does not fit its row"));
        };
        for (from, to) in from.iter().zip(&mut self.buffers) {
            let (_, from) = from.try_extract_tensor::<f32>().map_err(inference)?;
            let (_, to) = to.try_extract_tensor_mut::<f32>().map_err(inference)?;
            self.dimensions.copy((from, 0, from_room), (to, row, self.room), decoder.tokens().len());
        }
        Ok(())
    }

    /// Appends one token to each row. Rows that have none to append compute something that the next step writes over.
    pub(super) fn step(&mut self, inputs: &[Input]) -> Result<()> {
        let longest = inputs.iter().map(|input| input.before + 1).max().unwrap_or(0);
        if inputs.len() != self.rows || longest == 0 || longest > self.room {
            let message =
                format!("{} tokens in {} rows do not fit {} of {}", longest, inputs.len(), self.rows, self.room);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        let (_, tokens) = self.tokens.try_extract_tensor_mut::<i64>().map_err(inference)?;
        let mut mask = vec![0_i64; self.rows * longest];
        for ((input, token), mask) in inputs.iter().zip(tokens).zip(mask.chunks_exact_mut(longest)) {
            *token = i64::from(input.token);
            mask[..=input.before].fill(1);
        }
        let mask = Tensor::from_array(([self.rows, longest], mask)).map_err(inference)?;
        self.binding.bind_input("attention_mask", &mask).map_err(inference)?;
        let (binding, never) = (&self.binding, self.never.run());
        self.session.run(|session| session.run_binding_with_options(binding, never).map(drop)).map_err(inference)
    }

    /// After the last step, `[vocabulary]`.
    pub(super) fn logits(&self, row: usize) -> Result<&[f32]> {
        let (_, logits) = self.logits.try_extract_tensor::<f32>().map_err(inference)?;
        let size = self.dimensions.vocabulary;
        logits.get(row * size..(row + 1) * size).ok_or_else(|| Error::new(ErrorKind::Inference, "there is no such row"))
    }
}

fn tensor<T: PrimitiveTensorElementType + fmt::Debug, const N: usize>(shape: [usize; N]) -> Result<Tensor<T>> {
    Tensor::new(&Allocator::default(), shape).map_err(inference)
}
