//! Requests take turns: first come, first served, and only so many may wait.
//!
//! Where several decode side by side, a turn is for the prompt; it comes with a ticket for the batch, which outlasts it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::sequence::Sequence;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;

/// The sequence, and who waits for it.
pub(super) struct Queue {
    state: Arc<(Mutex<State>, Condvar)>,
    /// Most requests that may wait.
    limit: usize,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Turn,
    /// A turn, and a ticket for the batch.
    Ticket,
    /// A turn before everybody else, for a request that had one before.
    NextTurn,
}

struct State {
    /// Absent while a request has it.
    sequence: Option<Sequence>,
    /// Tickets for the batch that nobody has.
    tickets: usize,
    /// Numbers of those who wait, in the order they came.
    waiting: VecDeque<u64>,
    next: u64,
}

impl Queue {
    /// `tickets` is how many requests may decode side by side, beside the one whose turn it is.
    pub(super) fn new(sequence: Sequence, tickets: usize, limit: usize) -> Self {
        let state = State { sequence: Some(sequence), tickets, waiting: VecDeque::new(), next: 0 };
        Self { state: Arc::new((Mutex::new(state), Condvar::new())), limit }
    }

    /// Waits for the sequence, for as long as `request` may.
    pub(super) fn turn(&self, request: Option<&Request>) -> Result<Turn<'_>> {
        self.wait(request, Wanted::Turn)
    }

    /// Waits for the sequence and a ticket for the batch.
    pub(super) fn turn_and_ticket(&self, request: &Request) -> Result<(Turn<'_>, Ticket<'_>)> {
        // The ticket is one's own from here on: it was taken with the turn.
        Ok((self.wait(Some(request), Wanted::Ticket)?, Ticket(self)))
    }

    /// Waits for the sequence before all others, however many wait: for who has begun already.
    pub(super) fn next_turn(&self, request: &Request) -> Result<Turn<'_>> {
        self.wait(Some(request), Wanted::NextTurn)
    }

    fn wait(&self, request: Option<&Request>, wanted: Wanted) -> Result<Turn<'_>> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            request.map_or(Ok(()), Request::check)?;
            if let Some(sequence) = state.take(wanted) {
                return Ok(Turn { queue: self, sequence: Some(sequence) });
            }
        }
        if state.waiting.len() >= self.limit && wanted != Wanted::NextTurn {
            let message = format!("{} requests are waiting for the model already", state.waiting.len());
            return Err(Error::new(ErrorKind::QueueFull, message));
        }
        let number = state.next;
        state.next += 1;
        match wanted {
            Wanted::Turn | Wanted::Ticket => state.waiting.push_back(number),
            Wanted::NextTurn => state.waiting.push_front(number),
        }
        // Its place is given up however the wait ends.
        let place = Place { queue: self, number };
        drop(state);
        let _listening = request.map(|request| {
            let shared = Arc::clone(&self.state);
            request.cancel.listen(Arc::new(move || {
                // With the lock held, so that nobody is between its look at the flag and its wait.
                let _state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                shared.1.notify_all();
            }))
        });
        let mut state = self.state();
        loop {
            request.map_or(Ok(()), Request::check)?;
            if state.waiting.front() == Some(&place.number)
                && let Some(sequence) = state.take(wanted)
            {
                drop(state);
                return Ok(Turn { queue: self, sequence: Some(sequence) });
            }
            state = match request.and_then(|request| request.deadline.remaining()) {
                Some(left) => self.state.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The sequence, if all that is wanted is there.
    fn take(&mut self, wanted: Wanted) -> Option<Sequence> {
        let tickets = usize::from(wanted == Wanted::Ticket);
        let left = self.tickets.checked_sub(tickets)?;
        let sequence = self.sequence.take()?;
        self.tickets = left;
        Some(sequence)
    }
}

struct Place<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.state().waiting.retain(|number| *number != self.number);
        self.queue.state.1.notify_all();
    }
}

/// The right to use the sequence; gives it back however the request ends, even when a callback panics.
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    sequence: Option<Sequence>,
}

impl Turn<'_> {
    pub(super) fn sequence(&mut self) -> Result<&mut Sequence> {
        self.sequence.as_mut().ok_or_else(|| Error::new(ErrorKind::Inference, "the sequence was given back already"))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.state().sequence = self.sequence.take();
        self.queue.state.1.notify_all();
    }
}

/// The right to a place in the batch, given back however the request ends.
pub(super) struct Ticket<'a>(&'a Queue);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.state().tickets += 1;
        self.0.state.1.notify_all();
    }
}
