//! The side that asks.

use core::fmt;

use heapless::{Deque, String};

use crate::frame::{MAX_FRAME, Receiver, encode};
use crate::message::{MAX_TASK, MAX_TEXT, Message, Origin, QueryId};
use crate::timing::{Schedule, Timing};

/// Receipts that may wait for the line. One that finds no room is sent when its answer comes again.
const RECEIPTS: usize = 8;

/// The microcontroller's side of the line: up to `QUERIES` questions that wait for their answers.
#[derive(Debug, Clone)]
pub struct Device<const QUERIES: usize = 8> {
    session: u32,
    next: u32,
    timing: Timing,
    when_full: WhenFull,
    outbox: Deque<Pending, QUERIES>,
    receipts: Deque<QueryId, RECEIPTS>,
    receiver: Receiver,
    counts: DeviceCounts,
}

#[derive(Debug, Clone)]
struct Pending {
    number: u32,
    task: Option<String<MAX_TASK>>,
    text: String<MAX_TEXT>,
    schedule: Schedule,
}

/// What happens to a question when the outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It takes the place of the oldest one: who speaks to a device has lost interest in what was said long ago.
    #[default]
    DropOldest,
    /// It is refused: [`AskError::Full`].
    Refuse,
}

/// A question that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its answer will have this number.
    pub number: u32,
    /// The number of the question that was dropped for it, which will have no answer.
    pub dropped: Option<u32>,
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AskError {
    /// The text is longer than [`MAX_TEXT`] bytes.
    TextTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The task's name is empty or longer than [`MAX_TASK`] bytes.
    TaskName {
        /// Its length in bytes.
        bytes: usize,
    },
    /// As many questions wait as there is room for.
    Full,
}

/// An answer, handed out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Which question.
    pub number: u32,
    /// Who wrote it.
    pub origin: Origin,
    /// The answer, or what went wrong.
    pub text: &'a str,
    /// Whether that is all of it.
    pub complete: bool,
}

/// What happened on the device's side so far. Counts stay at their largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounts {
    /// Questions asked, refused ones not counted.
    pub asked: u32,
    /// Answers handed out.
    pub answered: u32,
    /// Questions dropped because the outbox was full.
    pub dropped: u32,
    /// Questions refused because the outbox was full.
    pub refused: u32,
    /// Times a question was sent again.
    pub repeated: u32,
    /// Answers that came again, or to a question that was dropped or asked before the last start.
    pub duplicates: u32,
    /// Bytes that were no frame.
    pub damaged: u32,
}

impl<const QUERIES: usize> Device<QUERIES> {
    /// A device that has nothing to ask. `session` must be another one after every start: from a random number
    /// generator or a counter that is kept.
    #[must_use]
    pub const fn new(session: u32, timing: Timing) -> Self {
        Self {
            session,
            next: 0,
            timing,
            when_full: WhenFull::DropOldest,
            outbox: Deque::new(),
            receipts: Deque::new(),
            receiver: Receiver::new(),
            counts: DeviceCounts {
                asked: 0,
                answered: 0,
                dropped: 0,
                refused: 0,
                repeated: 0,
                duplicates: 0,
                damaged: 0,
            },
        }
    }

    /// The same device with another policy for a full outbox.
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Puts a question into the outbox.
    ///
    /// # Errors
    /// [`AskError`] for a text or task that is too long, or a full outbox under [`WhenFull::Refuse`].
    pub fn ask(&mut self, text: &str, task: Option<&str>, now: u64) -> Result<Asked, AskError> {
        let kept = String::try_from(text).map_err(|_| AskError::TextTooLong { bytes: text.len() })?;
        let task = task.map(|task| name(task).ok_or(AskError::TaskName { bytes: task.len() })).transpose()?;
        let mut dropped = None;
        if self.outbox.is_full() {
            dropped = match self.when_full {
                WhenFull::DropOldest => self.outbox.pop_front().map(|oldest| oldest.number),
                WhenFull::Refuse => None,
            };
            let count = if dropped.is_some() { &mut self.counts.dropped } else { &mut self.counts.refused };
            *count = count.saturating_add(1);
        }
        let number = self.next;
        let pending = Pending { number, task, text: kept, schedule: Schedule::now(now) };
        self.outbox.push_back(pending).map_err(|_| AskError::Full)?;
        self.next = self.next.wrapping_add(1);
        self.counts.asked = self.counts.asked.saturating_add(1);
        Ok(Asked { number, dropped })
    }

    /// Takes a byte off the line; the answer that it completes, if nobody has had it yet.
    pub fn receive(&mut self, byte: u8, now: u64) -> Option<Answer<'_>> {
        let session = self.session;
        let message = match self.receiver.push(byte)? {
            Ok(message) => message,
            Err(_) => {
                self.counts.damaged = self.counts.damaged.saturating_add(1);
                return None;
            }
        };
        match message {
            Message::Answer { id, origin, text, complete } => {
                // Also to what was asked before the last start: the gateway need not go on.
                let _ = self.receipts.push_back(id);
                let place = self.outbox.iter().position(|pending| id.session == session && pending.number == id.number);
                let Some(place) = place else {
                    self.counts.duplicates = self.counts.duplicates.saturating_add(1);
                    return None;
                };
                take_out(&mut self.outbox, place);
                self.counts.answered = self.counts.answered.saturating_add(1);
                Some(Answer { number: id.number, origin, text, complete })
            }
            Message::Accepted { id } if id.session == session => {
                let pending = self.outbox.iter_mut().find(|pending| pending.number == id.number)?;
                pending.schedule.due = now.saturating_add(self.timing.accepted_ms.into());
                None
            }
            Message::Hello => {
                self.outbox.iter_mut().for_each(|pending| pending.schedule = Schedule::now(now));
                None
            }
            // Echoes of this side's own words, or words to an earlier session.
            Message::Accepted { .. } | Message::Query { .. } | Message::Received { .. } => None,
        }
    }

    /// The next frame to put on the line, if one is due. To be called until there is none.
    pub fn transmit<'b>(&mut self, now: u64, buffer: &'b mut [u8; MAX_FRAME]) -> Option<&'b [u8]> {
        if let Some(id) = self.receipts.pop_front() {
            return encode(&Message::Received { id }, buffer).ok();
        }
        let pending = self.outbox.iter_mut().filter(|pending| pending.schedule.due <= now);
        let pending = pending.min_by_key(|pending| pending.schedule.due)?;
        if pending.schedule.sent > 0 {
            self.counts.repeated = self.counts.repeated.saturating_add(1);
        }
        pending.schedule.sent(&self.timing, now);
        let id = QueryId { session: self.session, number: pending.number };
        encode(&Message::Query { id, task: pending.task.as_deref(), text: &pending.text }, buffer).ok()
    }

    /// When [`Device::transmit`] has something next, unless something happens before; `None` if nothing waits.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        if !self.receipts.is_empty() {
            return Some(0);
        }
        self.outbox.iter().map(|pending| pending.schedule.due).min()
    }

    /// Questions that wait for their answers.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// What this device's questions are known by.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> DeviceCounts {
        self.counts
    }
}

/// A task's name, if it is one.
fn name(task: &str) -> Option<String<MAX_TASK>> {
    String::try_from(task).ok().filter(|name| !name.is_empty())
}

/// Removes one entry; the others keep their order.
fn take_out<T, const N: usize>(queue: &mut Deque<T, N>, place: usize) {
    for index in 0..queue.len() {
        let Some(entry) = queue.pop_front() else { return };
        if index != place {
            let _ = queue.push_back(entry); // its own place is free
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextTooLong { bytes } => write!(f, "a question of {bytes} bytes is longer than {MAX_TEXT}"),
            Self::TaskName { bytes } => write!(f, "a task's name has 1 to {MAX_TASK} bytes, not {bytes}"),
            Self::Full => f.write_str("as many questions wait as there is room for"),
        }
    }
}

impl core::error::Error for AskError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn deliver<const N: usize>(device: &mut Device<N>, message: &Message<'_>) -> Option<std::string::String> {
        let mut buffer = [0; MAX_FRAME];
        let frame = encode(message, &mut buffer).unwrap();
        frame.iter().find_map(|&byte| device.receive(byte, 0).map(|answer| answer.text.to_string()))
    }

    fn answer(session: u32, number: u32) -> Message<'static> {
        Message::Answer { id: QueryId { session, number }, origin: Origin::Cloud, text: "yes", complete: true }
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_and_counts() {
        let mut device: Device<2> = Device::new(1, Timing::default());
        for number in 0..2 {
            assert_eq!(device.ask("?", None, 0), Ok(Asked { number, dropped: None }));
        }
        assert_eq!(device.ask("?", None, 0), Ok(Asked { number: 2, dropped: Some(0) }));
        assert_eq!((device.waiting(), device.counts().asked, device.counts().dropped), (2, 3, 1));
        assert_eq!(deliver(&mut device, &answer(1, 0)), None, "nobody waits for it any more");

        let mut device: Device<1> = Device::new(1, Timing::default()).when_full(WhenFull::Refuse);
        device.ask("?", None, 0).unwrap();
        assert_eq!(device.ask("!", None, 0), Err(AskError::Full));
        assert_eq!((device.waiting(), device.counts().asked, device.counts().refused), (1, 1, 1));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        let mut device: Device<2> = Device::new(1, Timing::default());
        let long = "x".repeat(MAX_TEXT + 1);
        assert_eq!(device.ask(&long, None, 0), Err(AskError::TextTooLong { bytes: 385 }));
        assert_eq!(device.ask("?", Some(""), 0), Err(AskError::TaskName { bytes: 0 }));
        assert_eq!(device.ask("?", Some(&long), 0), Err(AskError::TaskName { bytes: 385 }));
        assert_eq!((device.waiting(), device.counts()), (0, DeviceCounts::default()));
    }

    #[test]
    fn an_answer_is_handed_out_once_and_acknowledged_every_time() {
        let mut device: Device<2> = Device::new(1, Timing::default());
        device.ask("?", None, 0).unwrap();
        assert_eq!(deliver(&mut device, &answer(2, 0)), None, "of an earlier session");
        assert_eq!(deliver(&mut device, &answer(1, 0)).as_deref(), Some("yes"));
        assert_eq!(deliver(&mut device, &answer(1, 0)), None);
        assert_eq!((device.counts().answered, device.counts().duplicates, device.waiting()), (1, 2, 0));
        let mut receipts = 0;
        while device.transmit(0, &mut [0; MAX_FRAME]).is_some() {
            receipts += 1;
        }
        assert_eq!((receipts, device.wake_at()), (3, None));
    }

    #[test]
    fn it_repeats_itself_until_accepted_and_then_seldom() {
        let timing = Timing { first_ms: 100, longest_ms: 400, accepted_ms: 10_000, ..Timing::default() };
        let mut device: Device<2> = Device::new(1, timing);
        device.ask("?", None, 5).unwrap();
        let mut buffer = [0; MAX_FRAME];
        for due in [5, 105, 305, 705, 1_105] {
            assert_eq!(device.wake_at(), Some(due));
            assert!(device.transmit(due - 1, &mut buffer).is_none());
            assert!(device.transmit(due, &mut buffer).is_some());
        }
        assert_eq!(device.counts().repeated, 4);
        let accepted = Message::Accepted { id: QueryId { session: 1, number: 0 } };
        assert_eq!(deliver(&mut device, &accepted), None);
        assert_eq!(device.wake_at(), Some(10_000));
        assert_eq!(deliver(&mut device, &Message::Hello), None);
        assert_eq!(device.wake_at(), Some(0), "a gateway that has just started knows of nothing");
    }
}
