//! Where the text of a streamed answer goes: what was said so far, and what of it still has to be taken.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use margay_policy::Reason;

use super::stream::{Stream, StreamEvent};
use crate::answer::Origin;

pub(super) struct Outlet {
    mode: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: VecDeque<StreamEvent>,
    /// The text that stands: everything since the last [`StreamEvent::Superseded`].
    said: String,
    waker: Option<Waker>,
}

impl Outlet {
    pub(super) fn new(mode: Stream) -> Self {
        Self { mode, state: Mutex::default() }
    }

    /// Whether the device's text goes out before the verdict.
    pub(super) fn is_optimistic(&self) -> bool {
        self.mode == Stream::Optimistic
    }

    /// Brings what was said up to `text`, which is all of it so far. `false` if it begins otherwise than what was said.
    pub(super) fn reach(&self, text: &str, origin: Origin) -> bool {
        let mut state = self.state();
        match text.strip_prefix(state.said.as_str()) {
            None => state.said.starts_with(text),
            Some(new) => {
                let new = new.to_owned();
                state.say(new, origin);
                true
            }
        }
    }

    /// Takes back what was said, if anything may have been.
    pub(super) fn supersede(&self, reason: Option<Reason>) {
        if self.is_optimistic() {
            let mut state = self.state();
            state.said.clear();
            state.push(StreamEvent::Superseded { reason });
        }
    }

    /// One more piece from the large model.
    pub(super) fn cloud(&self, piece: &str) {
        self.state().say(piece.to_owned(), Origin::Cloud);
    }

    /// Brings what was said to the text of the answer, and takes it back before if it began otherwise.
    pub(super) fn settle(&self, text: &str, origin: Origin, reason: Option<Reason>) {
        let stands = text.starts_with(self.state().said.as_str());
        if !stands {
            self.supersede(reason);
        }
        self.reach(text, origin);
    }

    /// The next event. If there is none, `waker` is woken when there is.
    pub(super) fn take(&self, waker: &Waker) -> Option<StreamEvent> {
        let mut state = self.state();
        let event = state.events.pop_front();
        state.waker = event.is_none().then(|| waker.clone());
        event
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say(&mut self, text: String, origin: Origin) {
        if !text.is_empty() {
            self.said.push_str(&text);
            self.push(StreamEvent::Token { text, origin });
        }
    }

    fn push(&mut self, event: StreamEvent) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
