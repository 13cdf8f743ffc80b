//! A request's sequence, from its prompt to its last token: alone for as long as it lasts, or side by side with others.

use ort::session::RunOptions;

use super::Engine;
use super::batch::{Batch, Seat};
use super::options::Overflow;
use super::queue::{Queue, Ticket, Turn};
use super::sequence::slid;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;

pub(super) enum Decoding<'a> {
    /// It has its turn until it ends.
    Alone(Turn<'a>, Overflow),
    /// It has a turn for its prompt, then a seat in the batch.
    Together(Together<'a>),
}

pub(super) struct Together<'a> {
    queue: &'a Queue,
    batch: &'a Batch,
    request: &'a Request,
    turn: Option<Turn<'a>>,
    // Left before the ticket is given back.
    seat: Option<Seat<'a>>,
    _ticket: Ticket<'a>,
    context: usize,
    /// Tokens that it may come to have.
    needed: usize,
    /// Those of the batch's sequence.
    tokens: Vec<u32>,
}

impl<'a> Decoding<'a> {
    /// Waits until `request` may begin.
    pub(super) fn begin(engine: &'a Engine, request: &'a Request) -> Result<Self> {
        let queue = &engine.queue;
        let Some(batch) = &engine.batch else {
            return Ok(Self::Alone(queue.turn(Some(request))?, request.options.overflow));
        };
        let (turn, ticket) = queue.turn_and_ticket(request)?;
        Ok(Self::Together(Together {
            queue,
            batch,
            request,
            turn: Some(turn),
            seat: None,
            _ticket: ticket,
            context: engine.manifest.model.context_length,
            needed: 0,
            tokens: Vec::new(),
        }))
    }

    /// As [`Sequence::resume`](super::sequence::Sequence::resume).
    pub(super) fn resume(&mut self, prompt: &[u32], more: usize) -> Result<usize> {
        match self {
            Self::Alone(turn, _) => turn.sequence()?.resume(prompt, more),
            Self::Together(together) => together.resume(prompt, more),
        }
    }

    /// As [`Sequence::finish`](super::sequence::Sequence::finish).
    pub(super) fn finish(&mut self, prompt: &[u32], run: &RunOptions) -> Result<&[f32]> {
        match self {
            Self::Alone(turn, _) => turn.sequence()?.finish(prompt, run),
            Self::Together(together) => together.finish(prompt, run),
        }
    }

    /// As [`Sequence::append`](super::sequence::Sequence::append).
    pub(super) fn append(&mut self, id: u32, forgotten: &mut usize, run: &RunOptions) -> Result<&[f32]> {
        match self {
            Self::Alone(turn, overflow) => turn.sequence()?.append(id, *overflow, forgotten, run),
            Self::Together(together) => together.append(id, forgotten, run),
        }
    }
}

impl Together<'_> {
    fn resume(&mut self, prompt: &[u32], more: usize) -> Result<usize> {
        self.needed = prompt.len().saturating_add(more).min(self.context);
        self.tokens.reserve(self.needed);
        self.tokens.extend_from_slice(prompt);
        // The answer's tokens go elsewhere.
        self.turn.as_mut().ok_or_else(not_begun)?.sequence()?.resume(prompt, 0)
    }

    fn finish(&mut self, prompt: &[u32], run: &RunOptions) -> Result<&[f32]> {
        let mut turn = self.turn.take().ok_or_else(not_begun)?;
        let sequence = turn.sequence()?;
        let logits = sequence.finish(prompt, run)?.to_vec();
        let seat = self.batch.join(sequence.decoder(), self.needed, logits)?;
        Ok(self.seat.insert(seat).logits())
    }

    fn append(&mut self, id: u32, forgotten: &mut usize, run: &RunOptions) -> Result<&[f32]> {
        if self.tokens.len() == self.context {
            return self.slide(id, forgotten, run);
        }
        let logits = self.seat.as_mut().ok_or_else(not_begun)?.append(id)?;
        self.tokens.push(id);
        Ok(logits)
    }

    /// Leaves the batch, reads what it keeps in a turn of its own, and is back.
    fn slide(&mut self, id: u32, forgotten: &mut usize, run: &RunOptions) -> Result<&[f32]> {
        let window = slid(&self.tokens, self.context, self.request.options.overflow)?;
        *forgotten += self.tokens.len() - window.len();
        self.tokens.clear();
        self.tokens.extend_from_slice(&window);
        self.tokens.push(id);
        self.seat = None;
        let mut turn = self.queue.next_turn(self.request)?;
        let sequence = turn.sequence()?;
        let logits = sequence.read(&self.tokens, 0, run)?.to_vec();
        let seat = self.batch.join(sequence.decoder(), self.needed, logits)?;
        Ok(self.seat.insert(seat).logits())
    }
}

fn not_begun() -> Error {
    Error::new(ErrorKind::Inference, "a request goes on that has not begun")
}
