//! The side that answers.

use heapless::{Deque, String};

use crate::frame::{MAX_FRAME, Receiver, encode};
use crate::message::{MAX_TEXT, Message, Origin, QueryId, cut};
use crate::timing::{Schedule, Timing};

/// Acceptances that may wait for the line. One that finds no room is sent when its question comes again.
const ACCEPTANCES: usize = 16;

/// The gateway's side of the line. It remembers up to `QUERIES` questions: those being answered, those whose answer is
/// on its way, and as many of the others as there is room for, so that a repetition is known as one.
///
/// A question that finds the memory full of unfinished ones is not accepted; the device asks again.
#[derive(Debug, Clone)]
pub struct Gateway<const QUERIES: usize = 64> {
    timing: Timing,
    known: Deque<Known, QUERIES>,
    acceptances: Deque<QueryId, ACCEPTANCES>,
    hello: bool,
    receiver: Receiver,
    counts: GatewayCounts,
}

#[derive(Debug, Clone)]
struct Known {
    id: QueryId,
    state: State,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is no heap to box the answer in")]
enum State {
    Asked,
    Answered { origin: Origin, text: String<MAX_TEXT>, complete: bool, schedule: Schedule },
    Received,
}

/// A question, handed out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// What to give [`Gateway::answer`].
    pub id: QueryId,
    /// Whose threshold applies.
    pub task: Option<&'a str>,
    /// The question.
    pub text: &'a str,
}

/// What happened on the gateway's side so far. Counts stay at their largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GatewayCounts {
    /// Questions handed out.
    pub asked: u32,
    /// Answers that the device has.
    pub received: u32,
    /// Questions that came again.
    pub duplicates: u32,
    /// Questions not accepted because the memory was full.
    pub refused: u32,
    /// Times an answer was sent again.
    pub repeated: u32,
    /// Bytes that were no frame.
    pub damaged: u32,
}

impl<const QUERIES: usize> Gateway<QUERIES> {
    /// A gateway that was asked nothing. It greets the device first, so that what waits there is asked at once.
    #[must_use]
    pub const fn new(timing: Timing) -> Self {
        Self {
            timing,
            known: Deque::new(),
            acceptances: Deque::new(),
            hello: true,
            receiver: Receiver::new(),
            counts: GatewayCounts { asked: 0, received: 0, duplicates: 0, refused: 0, repeated: 0, damaged: 0 },
        }
    }

    /// The line was away and is back: half a frame is forgotten, the device greeted, every answer that waits sent at once.
    pub fn reconnect(&mut self, now: u64) {
        self.receiver = Receiver::new();
        self.hello = true;
        for known in &mut self.known {
            if let State::Answered { schedule, .. } = &mut known.state {
                *schedule = Schedule::now(now);
            }
        }
    }

    /// Takes a byte off the line; the question that it completes, if it is a new one.
    pub fn receive(&mut self, byte: u8) -> Option<Query<'_>> {
        match self.receiver.push(byte)? {
            Ok(Message::Query { id, task, text }) => {
                if let Some(known) = self.known.iter_mut().find(|known| known.id == id) {
                    count(&mut self.counts.duplicates);
                    match &mut known.state {
                        State::Asked => _ = self.acceptances.push_back(id),
                        // The answer was lost, or crossed this question: due at once, and wanted.
                        State::Answered { schedule, .. } => *schedule = Schedule::now(0),
                        State::Received => {}
                    }
                    return None;
                }
                if self.known.is_full() && !forget_one(&mut self.known, &self.timing) {
                    count(&mut self.counts.refused);
                    return None;
                }
                self.known.push_back(Known { id, state: State::Asked }).ok()?;
                let _ = self.acceptances.push_back(id);
                count(&mut self.counts.asked);
                Some(Query { id, task, text })
            }
            Ok(Message::Received { id }) => {
                let known = self.known.iter_mut().find(|known| known.id == id)?;
                if matches!(known.state, State::Answered { .. }) {
                    known.state = State::Received;
                    count(&mut self.counts.received);
                }
                None
            }
            // Echoes of this side's own words.
            Ok(Message::Accepted { .. } | Message::Answer { .. } | Message::Hello) => None,
            Err(_) => {
                count(&mut self.counts.damaged);
                None
            }
        }
    }

    /// Gives the answer to a question; cut, and marked as such, where it is longer than [`MAX_TEXT`] bytes. `false`
    /// if nobody waits for it.
    pub fn answer(&mut self, id: QueryId, origin: Origin, text: &str, now: u64) -> bool {
        let waiting = |known: &&mut Known| known.id == id && matches!(known.state, State::Asked);
        let Some(known) = self.known.iter_mut().find(waiting) else { return false };
        let part = cut(text);
        let Ok(kept) = String::try_from(part) else { return false };
        let complete = part.len() == text.len();
        known.state = State::Answered { origin, text: kept, complete, schedule: Schedule::now(now) };
        true
    }

    /// The next frame to put on the line, if one is due. To be called until there is none.
    pub fn transmit<'b>(&mut self, now: u64, buffer: &'b mut [u8; MAX_FRAME]) -> Option<&'b [u8]> {
        if core::mem::take(&mut self.hello) {
            return encode(&Message::Hello, buffer).ok();
        }
        if let Some(id) = self.acceptances.pop_front() {
            return encode(&Message::Accepted { id }, buffer).ok();
        }
        let repeats = self.timing.repeats;
        for known in &mut self.known {
            if let State::Answered { origin, text, complete, schedule } = &mut known.state
                && schedule.due <= now
                && schedule.sent <= repeats
            {
                if schedule.sent > 0 {
                    count(&mut self.counts.repeated);
                }
                schedule.sent(&self.timing, now);
                let answer = Message::Answer { id: known.id, origin: *origin, text, complete: *complete };
                return encode(&answer, buffer).ok();
            }
        }
        None
    }

    /// When [`Gateway::transmit`] has something next, unless something happens before; `None` if nothing waits.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        if self.hello || !self.acceptances.is_empty() {
            return Some(0);
        }
        let due = self.known.iter().filter_map(|known| match &known.state {
            State::Answered { schedule, .. } if schedule.sent <= self.timing.repeats => Some(schedule.due),
            _ => None,
        });
        due.min()
    }

    /// Questions that have no answer yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.known.iter().filter(|known| matches!(known.state, State::Asked)).count()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> GatewayCounts {
        self.counts
    }
}

/// Makes room: the oldest question whose answer was received, else the oldest answer that nobody fetches.
fn forget_one<const N: usize>(known: &mut Deque<Known, N>, timing: &Timing) -> bool {
    let received = known.iter().position(|known| matches!(known.state, State::Received));
    let gone = || {
        known.iter().position(
            |known| matches!(&known.state, State::Answered { schedule, .. } if schedule.sent > timing.repeats),
        )
    };
    let Some(place) = received.or_else(gone) else { return false };
    for index in 0..known.len() {
        let Some(entry) = known.pop_front() else { break };
        if index != place {
            let _ = known.push_back(entry); // its own place is free
        }
    }
    true
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use std::string::{String as Text, ToString};
    use std::vec::Vec;

    use super::*;

    fn id(number: u32) -> QueryId {
        QueryId { session: 1, number }
    }

    fn deliver<const N: usize>(gateway: &mut Gateway<N>, message: &Message<'_>) -> Option<Text> {
        let mut buffer = [0; MAX_FRAME];
        let frame = encode(message, &mut buffer).unwrap();
        frame.iter().find_map(|&byte| gateway.receive(byte).map(|query| query.text.to_string()))
    }

    fn ask<const N: usize>(gateway: &mut Gateway<N>, number: u32) -> Option<Text> {
        deliver(gateway, &Message::Query { id: id(number), task: Some("lights"), text: "?" })
    }

    /// What it puts on the line now.
    fn said<const N: usize>(gateway: &mut Gateway<N>, now: u64) -> Vec<Text> {
        let mut receiver = Receiver::new();
        let mut said = Vec::new();
        let mut buffer = [0; MAX_FRAME];
        while let Some(frame) = gateway.transmit(now, &mut buffer) {
            for &byte in frame {
                said.extend(receiver.push(byte).map(|message| std::format!("{:?}", message.unwrap())));
            }
        }
        said
    }

    #[test]
    fn a_question_is_handed_out_once_and_its_answer_repeated_until_received() {
        let timing = Timing { first_ms: 100, longest_ms: 400, repeats: 3, ..Timing::default() };
        let mut gateway: Gateway<4> = Gateway::new(timing);
        assert_eq!(said(&mut gateway, 0), ["Hello"]);
        assert_eq!(ask(&mut gateway, 0).as_deref(), Some("?"));
        assert_eq!(ask(&mut gateway, 0), None);
        assert_eq!(said(&mut gateway, 0).len(), 2, "accepted, both times");
        assert!(!gateway.answer(id(7), Origin::Local, "yes", 0), "never asked");
        assert!(gateway.answer(id(0), Origin::Local, "yes", 0));
        assert!(!gateway.answer(id(0), Origin::Cloud, "no", 0), "answered already");
        for now in [0, 100, 300, 700] {
            assert_eq!(gateway.wake_at(), Some(now));
            assert_eq!(said(&mut gateway, now).len(), 1);
        }
        assert_eq!((gateway.wake_at(), gateway.counts().repeated), (None, 3), "the device is gone");
        assert_eq!(ask(&mut gateway, 0), None);
        assert_eq!(said(&mut gateway, 1_000).len(), 1, "it is not");
        assert_eq!(deliver(&mut gateway, &Message::Received { id: id(0) }), None);
        assert_eq!(gateway.wake_at(), None);
        assert_eq!(ask(&mut gateway, 0), None, "a straggler");
        assert_eq!((said(&mut gateway, 2_000).len(), gateway.counts().received), (0, 1));
    }

    #[test]
    fn a_full_memory_forgets_what_is_done_and_refuses_else() {
        let mut gateway: Gateway<2> = Gateway::new(Timing { repeats: 0, ..Timing::default() });
        assert!(ask(&mut gateway, 0).is_some() && ask(&mut gateway, 1).is_some());
        assert_eq!((ask(&mut gateway, 2), gateway.counts().refused), (None, 1));
        gateway.answer(id(1), Origin::Abstained, "", 0);
        assert_eq!(ask(&mut gateway, 2), None, "its answer was not even sent");
        said(&mut gateway, 0);
        assert_eq!(ask(&mut gateway, 2).as_deref(), Some("?"), "sent as often as it may be");
        assert_eq!(gateway.unanswered(), 2);
    }

    #[test]
    fn a_long_answer_is_cut_between_characters_and_says_so() {
        let mut gateway: Gateway<2> = Gateway::new(Timing::default());
        said(&mut gateway, 0);
        ask(&mut gateway, 0);
        said(&mut gateway, 0);
        gateway.answer(id(0), Origin::Cloud, &std::format!("x{}", "ä".repeat(MAX_TEXT)), 0);
        let whole = said(&mut gateway, 0).remove(0);
        assert!(whole.ends_with("complete: false }"), "{whole}");
        assert_eq!(whole.matches('ä').count(), (MAX_TEXT - 1) / 2);
    }
}
