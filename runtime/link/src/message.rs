//! What the two sides say to each other.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Longest text of a question or answer, in bytes of UTF-8: a spoken sentence or two, and an outbox of some that fits
/// into the memory of a small microcontroller.
pub const MAX_TEXT: usize = 384;

/// Longest name of a task, in bytes: what a policy takes.
pub const MAX_TASK: usize = 32;

/// What a question is known by on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueryId {
    /// The device's session: another one after every start.
    pub session: u32,
    /// The question's number in its session, from 0.
    pub number: u32,
}

/// Who wrote an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// The gateway's small model.
    Local,
    /// The large model.
    Cloud,
    /// Nobody yet: the gateway keeps the question until the cloud can be reached.
    Queued,
    /// Nobody: the small model was unsure, and nobody else could or might be asked.
    Abstained,
    /// Nobody: answering failed.
    Failed,
}

/// One message. New kinds go to the end: a kind is known by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// Device to gateway: answer this. Repeated until answered.
    Query {
        /// Known by this from now on.
        id: QueryId,
        /// Whose threshold applies.
        task: Option<&'a str>,
        /// The question.
        text: &'a str,
    },
    /// Gateway to device: it will be answered.
    Accepted {
        /// The question.
        id: QueryId,
    },
    /// Gateway to device: the answer. Repeated until received.
    Answer {
        /// The question.
        id: QueryId,
        /// Who wrote it.
        origin: Origin,
        /// The answer, or what went wrong.
        text: &'a str,
        /// Whether that is all of it: a longer one is cut.
        complete: bool,
    },
    /// Device to gateway: the answer is there.
    Received {
        /// The question.
        id: QueryId,
    },
    /// Gateway to device: I have just started, or the line is back. Whatever waits is asked at once.
    Hello,
}

impl Origin {
    /// The word for logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
            Self::Queued => "queued",
            Self::Abstained => "abstained",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `5eed0001-7`: one word, the same on both sides.
impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.session, self.number)
    }
}

/// As much of a text as there is room for in a message, cut between characters.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
