//! Continuous batching: sequences that decode side by side, and join and leave between two steps.
//!
//! No thread of its own: every request appends its next token and waits; the one that makes the step due computes it for all. A
//! request whose caller is slow is left out after a moment, and computed along for nothing until it is back.

mod rows;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::session::{CAPACITY_STEP, Decoder};
use crate::error::{Error, ErrorKind, Result};
use rows::{Input, Kept, Rows};

/// Most positions of a prompt that are read at once while others may wait for their next token.
pub(super) const PIECE: usize = 128;

/// Longest wait of a step for sequences that have no token yet: some times what it takes to choose one.
const PATIENCE: Duration = Duration::from_millis(10);

/// Steps with at most half of the rows in use after which the others are given up: few enough not to compute them in vain,
/// enough not to copy sequences to and fro.
const SPARSE_STEPS: usize = 32;

/// The sequences that decode side by side.
pub(super) struct Batch {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    rows: Rows,
    /// Of each row; its length is that of `rows`.
    members: Vec<Option<Member>>,
    /// What each row computes next.
    inputs: Vec<Input>,
    /// Number of the sequence that joins next.
    next: u64,
    /// Steps since more than half of the rows were in use.
    sparse: usize,
    /// Most sequences.
    limit: usize,
    /// Most tokens of a sequence that the model takes, and that memory allows.
    context: usize,
    most: usize,
}

/// A sequence of the batch.
struct Member {
    number: u64,
    /// Tokens that it holds, and may come to hold.
    tokens: usize,
    needed: usize,
    /// What it appends next.
    token: Option<u32>,
    /// Whether steps do not wait for it.
    late: bool,
    /// How the step went that its token was part of, and the logits behind the token.
    outcome: Option<Result<()>>,
    logits: Vec<f32>,
}

impl Batch {
    /// Up to `limit` sequences on the session of `decoder`, each of at most `bytes` bytes of keys and values.
    pub(super) fn new(decoder: &Decoder, limit: usize, bytes: u64) -> Result<Self> {
        let dimensions = decoder.dimensions();
        let state = State {
            rows: Rows::new(decoder)?,
            members: Vec::new(),
            inputs: Vec::new(),
            next: 0,
            sparse: 0,
            limit,
            context: dimensions.context,
            most: usize::try_from(bytes / dimensions.bytes_per_token()).unwrap_or(usize::MAX),
        };
        Ok(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Lets the sequence of `decoder` in, which may grow to `needed` tokens; `logits` are those after its last token.
    pub(super) fn join(&self, decoder: &Decoder, needed: usize, logits: Vec<f32>) -> Result<Seat<'_>> {
        let joined = self.state().join(decoder, needed, logits.len());
        // Were its room not to be had, the others would have to know.
        self.changed.notify_all();
        Ok(Seat { batch: self, number: joined?, logits })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sequence's place in the batch, which it leaves when this is dropped.
pub(super) struct Seat<'a> {
    batch: &'a Batch,
    number: u64,
    /// After its last token.
    logits: Vec<f32>,
}

impl Seat<'_> {
    /// The logits after the sequence's last token, `[vocabulary]`.
    pub(super) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Appends a token, together with what others append, and returns the logits after it.
    pub(super) fn append(&mut self, token: u32) -> Result<&[f32]> {
        let mut state = self.batch.state();
        let member = state.member(self.number)?;
        if member.tokens >= member.needed {
            let message = format!("a sequence was to have {} tokens and gets more", member.needed);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        (member.token, member.late) = (Some(token), false);
        let until = Instant::now() + PATIENCE;
        loop {
            let member = state.member(self.number)?;
            if let Some(outcome) = member.outcome.take() {
                std::mem::swap(&mut member.logits, &mut self.logits);
                drop(state);
                return outcome.map(|()| self.logits.as_slice());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.leave_out_the_late();
            }
            if state.is_due() {
                state.step();
                self.batch.changed.notify_all();
                continue;
            }
            state = self.batch.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.batch.state();
        for member in &mut state.members {
            member.take_if(|member| member.number == self.number);
        }
        drop(state);
        // The others may have waited for it.
        self.batch.changed.notify_all();
    }
}

impl State {
    fn join(&mut self, decoder: &Decoder, needed: usize, vocabulary: usize) -> Result<u64> {
        if needed > self.most {
            let message =
                format!("a sequence of {needed} tokens needs more memory than is allowed: room for {}", self.most);
            return Err(Error::new(ErrorKind::Memory, message));
        }
        let others = self.members.iter().flatten().count();
        let free = self.members.iter().position(Option::is_none);
        let too_many = others == 0 && self.rows.rows() > 1;
        if free.is_none() || needed > self.rows.room() || too_many {
            self.arrange(others + 1, needed)?;
        }
        let row = self.members.iter().position(Option::is_none);
        let row = row.ok_or_else(|| Error::new(ErrorKind::Inference, "the batch is full already"))?;
        self.rows.take(row, decoder)?;
        let number = self.next;
        self.next += 1;
        let (tokens, logits) = (decoder.tokens().len(), vec![0.0; vocabulary]);
        let member = Member { number, tokens, needed, token: None, late: false, outcome: None, logits };
        self.members[row] = Some(member);
        Ok(number)
    }

    /// Makes room for `count` sequences, those that are there and one that needs room for `needed` tokens among them. Rows come
    /// in powers of two, so that not every sequence that comes or goes moves the others.
    fn arrange(&mut self, count: usize, needed: usize) -> Result<()> {
        let rows = count.next_power_of_two().min(self.limit);
        let needed = self.members.iter().flatten().map(|member| member.needed).fold(needed, usize::max);
        let room = needed.next_multiple_of(CAPACITY_STEP).min(self.context).max(needed).min(self.most);
        self.sparse = 0;
        if (rows, room) == (self.rows.rows(), self.rows.room()) {
            return Ok(());
        }
        let kept: Vec<Kept> = (self.members.iter().enumerate())
            .filter_map(|(from, member)| Some((from, member.as_ref()?.tokens)))
            .enumerate()
            .map(|(to, (from, tokens))| Kept { from, to, tokens })
            .collect();
        let arranged = self.rows.arrange(rows, room, &kept);
        let mut members: Vec<Option<Member>> =
            std::mem::take(&mut self.members).into_iter().flatten().map(Some).collect();
        if arranged.is_err() {
            // Their keys and values are gone.
            for member in members.iter_mut().flatten() {
                member.outcome = Some(Err(Error::new(ErrorKind::Memory, "the batch's memory could not be had")));
            }
        }
        members.resize_with(rows.max(members.len()), || None);
        self.members = members;
        self.inputs.resize(self.members.len(), Input::NOBODY);
        arranged
    }

    fn member(&mut self, number: u64) -> Result<&mut Member> {
        let mut members = self.members.iter_mut().flatten();
        let found = members.find(|member| member.number == number);
        found.ok_or_else(|| Error::new(ErrorKind::Inference, "a sequence that left the batch goes on"))
    }

    /// Whether somebody has a token, and everybody who is waited for.
    fn is_due(&self) -> bool {
        let mut members = self.members.iter().flatten();
        members.clone().any(|member| member.token.is_some())
            && members.all(|member| member.late || member.token.is_some())
    }

    fn leave_out_the_late(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.late = member.token.is_none();
        }
    }

    /// Computes one step for everybody who has a token.
    fn step(&mut self) {
        let stepped = self.compute();
        for (row, member) in self.members.iter_mut().enumerate() {
            let Some(member) = member.as_mut().filter(|member| member.token.is_some()) else { continue };
            member.token = None;
            let outcome = match &stepped {
                Ok(()) => self.rows.logits(row).map(|logits| member.logits.copy_from_slice(logits)),
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            };
            member.tokens += usize::from(outcome.is_ok());
            member.outcome = Some(outcome);
        }
    }

    fn compute(&mut self) -> Result<()> {
        let used = self.members.iter().flatten().count();
        self.sparse = if 2 * used <= self.members.len() { self.sparse + 1 } else { 0 };
        if self.sparse > SPARSE_STEPS {
            self.arrange(used, 0)?;
        }
        // Who has no token writes behind its last one, and over that later. A full sequence has no place behind: its last token
        // is forgotten before it goes on, if it does.
        let last = self.context - 1;
        for (input, member) in self.inputs.iter_mut().zip(&self.members) {
            *input = member.as_ref().map_or(Input::NOBODY, |member| Input {
                token: member.token.unwrap_or(0),
                before: member.tokens.min(last),
            });
        }
        self.rows.step(&self.inputs)
    }
}
