//! The sequence of one request: read the prompt, reuse what is known of it, append, and slide when the context is full.

use ort::session::RunOptions;

use super::interrupt::Interrupt;
use super::options::Overflow;
use super::prefix::PrefixCache;
use super::session::Decoder;
use crate::error::{Error, ErrorKind, Result};

/// The decoder with its memory of earlier prompts; a request has it for its turn.
pub(super) struct Sequence {
    decoder: Decoder,
    prefixes: PrefixCache,
    context: usize,
    /// Most tokens that are read at once.
    piece: usize,
}

impl Sequence {
    pub(super) fn new(decoder: Decoder, prefixes: PrefixCache, context: usize, piece: usize) -> Self {
        Self { decoder, prefixes, context, piece }
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Most tokens that are read at once, so that others have their turn in between.
    pub(super) fn piece(&self) -> usize {
        self.piece
    }

    /// Forgets everything and makes room for `tokens` tokens.
    pub(super) fn begin(&mut self, tokens: usize) -> Result<()> {
        self.decoder.truncate(0)?;
        self.decoder.reserve(tokens)
    }

    /// Computes one step on the first of `ids`, for its side effects only: what ONNX Runtime prepares in a first one.
    pub(super) fn warm_up(&mut self, ids: &[u32]) -> Result<()> {
        self.read(&ids[..ids.len().min(1)], 0, Interrupt::never()?.run())?;
        self.truncate(0)
    }

    /// Forgets everything and reads `ids`, computed in one call if that is not too many at once; room is made for `more` tokens
    /// after them.
    pub(super) fn read(&mut self, ids: &[u32], more: usize, run: &RunOptions) -> Result<&[f32]> {
        self.begin(ids.len() + more)?;
        self.append_all(ids, run)
    }

    /// Appends `ids` and returns the log-probability of each of `targets`, as [`Decoder::score`] does.
    pub(super) fn score(&mut self, ids: &[u32], targets: &[u32], run: &RunOptions) -> Result<Vec<f32>> {
        self.decoder.score(ids, targets, run)
    }

    /// Begins a sequence with `prompt`, of which the known beginning is not computed again; returns that beginning's length.
    /// Room is made for `more` tokens after it, as far as the context goes. The logits come from [`Sequence::finish`].
    pub(super) fn resume(&mut self, prompt: &[u32], more: usize) -> Result<usize> {
        let cached = self.prefixes.resume(&mut self.decoder, prompt)?;
        self.decoder.reserve(prompt.len().saturating_add(more).min(self.context))?;
        Ok(cached)
    }

    /// Computes what is missing of `prompt`, which [`Sequence::resume`] began with, and returns the logits after it.
    pub(super) fn finish(&mut self, prompt: &[u32], run: &RunOptions) -> Result<&[f32]> {
        let known = self.decoder.tokens().len();
        self.append_all(&prompt[known..], run)
    }

    /// Appends `ids`, so many at once as may be, and returns the logits after the last of them.
    fn append_all(&mut self, ids: &[u32], run: &RunOptions) -> Result<&[f32]> {
        let last = ids.len().saturating_sub(1) / self.piece * self.piece;
        for piece in ids[..last].chunks(self.piece) {
            self.decoder.append(piece, run)?;
        }
        self.decoder.append(&ids[last..], run)
    }

    /// Appends one token and returns the logits after it, `[vocabulary]`.
    ///
    /// When the context is full, the oldest tokens are forgotten first, if `overflow` says so, and their number is added to
    /// `forgotten`. Those behind them take new positions, so they are read again.
    pub(super) fn append(
        &mut self,
        id: u32,
        overflow: Overflow,
        forgotten: &mut usize,
        run: &RunOptions,
    ) -> Result<&[f32]> {
        let length = self.decoder.tokens().len();
        if length < self.context {
            return self.decoder.append(&[id], run);
        }
        let mut window = slid(self.decoder.tokens(), self.context, overflow)?;
        *forgotten += length - window.len();
        window.push(id);
        let keep = kept(overflow);
        self.decoder.truncate(keep)?;
        self.decoder.append(&window[keep..], run)
    }

    /// Cuts the sequence back to its first `length` tokens.
    pub(super) fn truncate(&mut self, length: usize) -> Result<()> {
        self.decoder.truncate(length)
    }
}

/// The tokens of a sequence that is too long for `context`, less the oldest half of what may be forgotten: at most
/// `context - 1`.
pub(super) fn slid(tokens: &[u32], context: usize, overflow: Overflow) -> Result<Vec<u32>> {
    let keep = kept(overflow);
    // At least one token must be free to go for each that comes.
    if matches!(overflow, Overflow::Error) || keep.saturating_add(2) > context {
        let message = format!("{} tokens do not fit the model's context of {context}", tokens.len() + 1);
        return Err(Error::new(ErrorKind::ContextOverflow, message));
    }
    let newest = (context - keep).div_ceil(2).min(context - keep - 1);
    let mut window = tokens[..keep].to_vec();
    window.extend_from_slice(&tokens[tokens.len() - newest..]);
    Ok(window)
}

fn kept(overflow: Overflow) -> usize {
    match overflow {
        Overflow::Error => 0,
        Overflow::Slide { keep } => keep,
    }
}
